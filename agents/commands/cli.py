"""`scg train`, `scg eval`, `scg plot`, `scg video`, `scg export`: the dataclasses become the options.

    scg train ppo --env HalfCheetah-v5 --steps 1000000 --seeds 3          scg train --resume RUN
    scg train ppo --env CartPole-v1 --seeds 10 --workers 4 --out RUNS     scg train --resume RUNS --workers 4
    scg train path/to/file.py:Agent --env CartPole-v1
    scg eval RUN --episodes 20                                            scg plot RUN RUN RUN --out curve.pdf
    scg video RUN --out policy.mp4                                        scg export RUN --out policy.onnx

Each function takes the arguments after its command and returns an exit code: 0, 1 for a run that stopped, 2 for invalid
arguments or files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from scg.agents import config_type, names, title
from scg.agents.commands.many import train_all, train_run
from scg.agents.commands.python import try_to_build
from scg.agents.commands.shared import check_figure, executor_of, names_agent, reported, resumes, trained, usage
from scg.agents.commands.trust import keep_out, opened
from scg.agents.execution.options import OptionError, check_options
from scg.agents.execution.settings import Execution
from scg.agents.training.presets import preset, preset_file
from scg.agents.training.run_directory import RunConfig, RunDirectory, RunError, short
from scg.agents.training.run_groups import runs_in
from scg.executors import Executor


@dataclass(frozen=True)
class Resume:
    resume: Path
    """the run directory to continue from its last checkpoint, or a folder of them"""
    steps: int | None = None
    """a new total, to train longer than first asked"""
    stop_at_return: float | None = None
    """stop once an evaluation's mean return is at least this"""
    workers: int = 1
    """tasks at a time: the runs, where the folder has several; else the members of a population"""
    executor: str = "local"
    """what runs them: local, ray, or slurm; no bit depends on it"""
    trust: bool = False
    """import the code that the run names, of its environment or agent, without a question"""


@reported
def train(argv: list[str]) -> int:
    """Train an agent: `AGENT [options]`, or `--resume RUN`."""
    known = names_agent(argv)
    if not known and resumes(argv):
        wish = tyro.cli(Resume, prog="scg train", args=argv)
        runs = [opened(path, wish.trust) for path in runs_in(wish.resume)]
        if wish.steps is not None:
            for run in runs:
                run.extend(wish.steps)
        if len(runs) == 1:
            _spreads(runs[0].agent, wish.workers)
        with executor_of(wish) as executor:
            return _train(runs, True, wish.stop_at_return, executor)
    if not known:
        return usage(argv, "scg train AGENT [options] | scg train --resume RUN")
    options: Any = tyro.cli(options_of(argv[0], argv[1:]), prog=f"scg train {argv[0]}", args=argv[1:])
    try_to_build(RunDirectory(Path(), argv[0], options.run, options.agent, options.execution))
    if options.seeds < 1:
        raise RunError(f"option seeds is {options.seeds}. Give at least 1.")
    if options.seeds == 1:
        _spreads(options.agent, options.workers)
    runs = []
    with executor_of(options) as executor:  # which may not be there, so before a run is
        for seed in range(options.run.seed, options.run.seed + options.seeds):
            out = options.out if options.out is None or options.seeds == 1 else options.out / f"seed{seed}"
            run = replace(options.run, seed=seed)
            runs.append(RunDirectory.create(argv[0], run, options.agent, out, options.execution))
        code = _train(runs, False, options.stop_at_return, executor)
    if not code and len(runs) > 1 and options.run.evaluations:
        from scg.agents.training import curves

        curve = (options.out or runs[0].path.parent) / f"{title(argv[0])}-{short(options.run.env)}.png"
        curves.plot([run.path for run in runs], curve)
        print(f"curve over {len(runs)} seeds: {curve}")
    return code


train.subjects = names  # type: ignore[attr-defined]


class _Early(argparse.ArgumentParser):
    """Read two options ahead of the full parser, which reports errors."""

    def error(self, message: str) -> NoReturn:
        raise argparse.ArgumentError(None, message)


def options_of(name: str, argv: Sequence[str] = ()) -> Any:
    """The dataclass behind `scg train NAME`: every field of `RunConfig`, of the agent's config and of `Execution` is a flag, its default
    the preset of the environment that `argv` names."""
    config = config_type(name)
    out = Annotated[Path | None, tyro.conf.arg(help="run directory; default runs/<agent>-<env>-seed<seed>")]
    seeds = Annotated[int, tyro.conf.arg(help="how many runs, with the seeds from --seed on")]
    level = Annotated[float | None, tyro.conf.arg(help="stop once an evaluation's mean return is at least this")]
    file = Annotated[Path | None, tyro.conf.arg(help="defaults from a file: the config.json of a run, or a sweep's best.json")]
    workers = Annotated[int, tyro.conf.arg(help="tasks at a time: runs of several seeds, else members of a population")]
    executor = Annotated[str, tyro.conf.arg(help="what runs them: local, ray, or slurm; no bit depends on it")]
    early = _Early(add_help=False, allow_abbrev=False)
    early.add_argument("--env")
    early.add_argument("--steps", type=int)
    early.add_argument("--preset", type=Path)
    try:
        asked, _ = early.parse_known_args(argv)
    except argparse.ArgumentError:  # not a number: the full parser says so
        asked = early.parse_args([])
    defaults = preset(name, asked.env or RunConfig.env, RunConfig.steps if asked.steps is None else asked.steps)
    if asked.preset is not None:
        defaults = preset_file(asked.preset, name)
        env = defaults.run["env"]
        if ":" in env and asked.env is None:
            raise RunError(f"preset {asked.preset}: its environment imports a module. If you trust it, say --env {env}.")
    fields = [
        ("run", OmitArgPrefixes[RunConfig], RunConfig(**defaults.run)),
        ("agent", OmitArgPrefixes[config], config(**defaults.agent)),  # type: ignore[misc,valid-type]
        ("execution", OmitArgPrefixes[Execution], Execution(**defaults.execution)),
        ("out", out, None),
        ("seeds", seeds, 1),
        ("stop_at_return", level, None),
        ("preset", file, None),
        ("workers", workers, 1),
        ("executor", executor, "local"),
    ]
    return make_dataclass("Options", fields, frozen=True)


@dataclass(frozen=True)
class Evaluate:
    run: Positional[Path]
    """run directory"""
    episodes: int = 20
    """fresh episodes"""
    seed: int | None = None
    """seed of the episodes; default: the run's own, in a family of its own"""
    best: bool = False
    """the best checkpoint in place of the last one"""
    actions: Literal["mode", "sample"] | None = None
    """the most probable action, or a sample; default: as in the run's own evaluations"""
    trust: bool = False
    """import the code that the run names, of its environment or agent, without a question"""

    def __post_init__(self) -> None:
        check_options(self, "episodes", "" if self.seed is None else "seed")


@reported
def evaluate(argv: list[str]) -> int:
    """Evaluate a trained run on fresh episodes."""
    from scg.agents.training.evaluation import evaluate as evaluate_policy

    wish = tyro.cli(Evaluate, prog="scg eval", args=argv)
    run, agent, path = trained(wish.run, wish.best, wish.trust)
    seed = run.run.seed if wish.seed is None else wish.seed
    actions = wish.actions or run.run.eval_actions
    # Training evaluates at positive steps, so 0 is a family of seeds that no choice was ever made on.
    result = evaluate_policy(
        agent.policy,
        run.run.recipe,
        wish.episodes,
        seed,
        0,
        actions,
        run.run.action_bins,
        run.run.eval_steps,
        run.run.step_timeout,
    )
    print(f"{path}, actions: {actions}, {wish.episodes} fresh episodes of {run.run.env}{result.remark}:")
    mean, error, least, most = map(result.shown, (result.mean, result.error, min(result.returns), max(result.returns)))
    print(f"return {mean} ± {error} (min {least}, max {most})")
    if result.success is not None:
        print(f"goal reached at the end of {result.success:.0%} of them")
    return 0


@dataclass(frozen=True)
class Video:
    run: Positional[Path]
    """run directory"""
    out: Path = Path("policy.gif")
    """GIF, or MP4 (which needs the extra torch-scg[video]), by its ending"""
    episodes: int = 1
    """episodes, one after the other"""
    seed: int | None = None
    """seed of the episodes; default: the run's own"""
    best: bool = False
    """the best checkpoint in place of the last one"""
    fps: int = 25
    """frames a second of film; simulated time stays true where the environment says its own rate"""
    width: int = 320
    """pixels; 0 keeps the environment's own size"""
    steps: int = 1000
    """at most so many steps of each episode"""
    trust: bool = False
    """import the code that the run names, of its environment or agent, without a question"""

    def __post_init__(self) -> None:
        check_options(self, "episodes steps", "" if self.seed is None else "seed")


@reported
def video(argv: list[str]) -> int:
    """Film a trained policy, without a display."""
    from scg.agents.training import video

    wish = tyro.cli(Video, prog="scg video", args=argv)
    run, agent, path = trained(wish.run, wish.best, wish.trust)
    seed = run.run.seed if wish.seed is None else wish.seed
    camera = video.Camera(wish.out, wish.fps, wish.width)
    settings = run.run.action_bins, run.run.step_timeout
    returns = video.record(agent.policy, run.run.recipe, camera, wish.episodes, seed, wish.steps, *settings)
    print(f"{wish.out}: {path}, return {', '.join(f'{total:.1f}' for total in returns)}")
    return 0


@dataclass(frozen=True)
class Export:
    run: Positional[Path]
    """run directory"""
    out: Path = Path("policy.onnx")
    """a file whose name ends in .onnx or .safetensors"""
    best: bool = False
    """the best checkpoint in place of the last one"""
    trust: bool = False
    """import the code that the run names, of its environment or agent, without a question"""


@reported
def export(argv: list[str]) -> int:
    """Write a trained policy for other programs."""
    from scg.agents.commands.export import writer
    from scg.agents.commands.load import load

    wish = tyro.cli(Export, prog="scg export", args=argv)
    writer(wish.out)  # what is missing is said before anything is loaded
    print(f"{wish.out}: {load(wish.run, best=wish.best, trust=wish.trust).export(wish.out)}")
    return 0


@dataclass(frozen=True)
class Plot:
    runs: Positional[tuple[Path, ...]]
    """run directories, or folders of them; runs that differ in their seed alone are one curve"""
    out: Path = Path("curve.png")
    """PNG, PDF or SVG by its ending"""
    statistic: Literal["mean", "iqm"] = "mean"
    """over seeds: their mean, or their interquartile mean"""
    label: tuple[str, ...] = ()
    """names of the curves, one for each of the paths (for seeds of one curve the same); default: what they differ in"""


@reported
def plot(argv: list[str]) -> int:
    """Draw learning curves: mean over seeds with a bootstrap interval."""
    wish = tyro.cli(Plot, prog="scg plot", args=argv)
    for path in wish.runs:
        keep_out(path)
    from scg.agents.training import curves

    check_figure(wish.out)
    curves.plot(wish.runs, wish.out, wish.statistic, wish.label)  # which makes no environment
    print(f"{wish.out}")
    return 0


def _train(runs: Sequence[RunDirectory], resume: bool, stop_at: float | None, executor: Executor) -> int:
    """Train one run here, its population on the executor; or several, each of them a task."""
    if len(runs) == 1:
        ended = train_run(runs[0], resume, stop_at, executor=executor)
        if ended.said:
            print(ended.said)
        return ended.code
    worst = 0
    for run, ended in train_all(runs, executor, stop_at):
        if ended.said:
            print(f"seed {run.run.seed}: {ended.said}", file=sys.stderr if ended.code else sys.stdout, flush=True)
        worst = max(worst, ended.code)
        if ended.code > 2:  # a signal
            break
    return worst


def _spreads(agent: Any, workers: int) -> None:
    """OptionError for workers without a use."""
    if workers > 1 and not agent.spreads:
        raise OptionError(
            f"option workers is {workers}: one run of {type(agent).__name__} is one task. Give --seeds, or a population's agent."
        )
