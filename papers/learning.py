"""Training runs for a paper: agents by name, as `scg train` makes them; what they earned, and how far their updates went.

    <keep>/<agent>-<env>-<steps>-seed<seed>[-<option>=<value>…]      where `scg paper … --runs KEEP` keeps a run

A finished run there is read in place of being trained again, an unfinished one is resumed, so an interrupted paper goes on
where it was. Nothing says that another process is at work on a run: let it finish first.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from matplotlib.ticker import EngFormatter

from scg import executors
from scg.agents import config_type
from scg.agents.common.agent import Config
from scg.agents.execution.settings import EAGER, Execution
from scg.agents.training.curves import on_common_steps
from scg.agents.training.loop import train
from scg.agents.training.presets import apart, preset
from scg.agents.training.run_directory import RunConfig, RunDirectory, RunError, read_table
from scg.papers.report import Say

Key = TypeVar("Key", bound=Hashable)

UNDECIDED = "undecided"
"""The verdict where the difference lies within its own standard errors."""
CONTRARY = "not in so few steps"
"""The verdict where the difference is clear, and against the paper, in runs much shorter than its own."""
CLEAR = 2.0  # standard errors of a difference that make it one
LOOKING = ("evaluations", "eval_episodes", "checkpoints", "keep_checkpoints", "step_threads")
"""Options of a run that change no step of it."""

Look = Callable[[RunDirectory], Any]
"""What else a paper wants to know of a finished run: a function of its files, importable by the processes that train."""


def kept() -> Any:
    """`--runs` among a paper's Settings. The folder of the runs is not written into the results."""
    told = "folder that keeps the training runs: finished ones are read, unfinished ones resumed; empty keeps none"
    return field(default="", metadata={"help": told, "told": False})


@dataclass(frozen=True)
class TrainingSettings:
    """What the Settings of every paper that trains have; its own follow. ValueError for no worker, and for fewer `seeds`, where
    a paper has them, than a standard error needs."""

    seed: int = field(default=0, metadata={"help": "seed of the first run; the others count on from it"})
    workers: int = field(default=1, metadata={"help": "runs at a time; changes no number"})
    executor: str = field(
        default="local", metadata={"help": "what runs them: local, ray, or slurm; changes no number", "told": False}
    )
    runs: str = kept()

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"--workers {self.workers}: give at least 1")
        executors.engines.parsed(self.executor)  # ExecutorError is a ValueError
        if (seeds := getattr(self, "seeds", 2)) < 2:
            raise ValueError(f"--seeds {seeds}: a standard error needs 2 seeds or more")


@dataclass(frozen=True)
class Learned:
    """One run. `returns` are training episodes', means of the last twenty, at `steps`; `final` that of fresh episodes at
    the end, the most probable actions taken; `kl` each update's, where the agent has one; `seconds` of CPU, or of the clock
    that the run's own metrics show where it was trained before; `evaluations` (step, mean return of fresh episodes) along
    the run; `seen` what the paper's `look` found."""

    steps: list[float]
    returns: list[float]
    kl: list[float]
    final: float
    seconds: float
    evaluations: list[tuple[float, float]] = field(default_factory=list)
    seen: Any = None

    @property
    def along(self) -> float:
        """The mean return along the run, from the first finished episode on: how fast it learned."""
        seen = [r for r in self.returns if not math.isnan(r)]
        return statistics.fmean(seen) if seen else math.nan

    @property
    def last(self) -> float:
        """Training episodes' at the end."""
        return self.returns[-1]

    def numbers(self) -> dict[str, Any]:
        """Rounded, for results.json."""
        return {
            "final": round(self.final, 2),
            "last": round(self.last, 2),
            "along": round(self.along, 2),
            "seconds": round(self.seconds, 1),
        }


def learn(
    agent: str,
    env: str,
    steps: int,
    seed: int,
    episodes: int = 10,
    points: int = 1,
    look: Look | None = None,
    keep: str = "",
    **options: Any,
) -> Learned:
    """Train `agent` as `scg train` would, with its preset for `env`, changed by `options`; evaluated on `episodes` and saved
    at `points` evenly spaced steps. Its files are gone when this returns, unless they are in folder `keep`."""
    run, config, execution = preset(agent, env, steps)
    changes, executions = apart(options)
    settings = RunConfig(
        **{**run, "env": env, "steps": steps, "seed": seed, "evaluations": points, "eval_episodes": episodes},
        checkpoints=points,
        keep_checkpoints=0 if points > 1 else 2,
        step_threads=1,
    )
    with nullcontext(keep) if keep else tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / run_name(agent, env, steps, seed, options)
        directory, seconds = finished(
            path, agent, settings, config_type(agent)(**{**config, **changes}), Execution(**{**execution, **executions})
        )
        rows = read_table(directory.path / "metrics.csv")
        evaluations = [(row["step"], row["return"]) for row in read_table(directory.path / "evaluations.csv")]
        seen = look(directory) if look else None
    return Learned(
        [row["step"] for row in rows],
        [row["return"] for row in rows],
        [row["kl"] for row in rows if "kl" in row],
        evaluations[-1][1],
        rows[-1]["seconds"] if seconds is None else seconds,
        evaluations,
        seen,
    )


def run_name(agent: str, env: str, steps: int, seed: int, options: Mapping[str, Any]) -> str:
    """`td3-Hopper-v5-50000-seed0-delay=1-twin=False`: what a paper's runs are called in the folder that keeps them."""
    changed = [f"{key}={value}" for key, value in sorted(options.items())]
    return "-".join([agent, env.replace("/", "-"), str(steps), f"seed{seed}", *changed])


def finished(
    path: Path, agent: str, settings: RunConfig, config: Config, execution: Execution = EAGER
) -> tuple[RunDirectory, float | None]:
    """The run at `path`, trained to its end, and the seconds of CPU that this took; None if it had been before.

    RunError if what is at `path` is another run.
    """
    began = time.process_time()
    if not (path / "config.json").exists():
        directory = RunDirectory.create(agent, settings, config, path, execution)
        train(directory, quiet=True)
        return directory, time.process_time() - began
    directory = RunDirectory.open(path)
    _assert_same(directory, agent, settings, config, execution)
    if _ended(directory):
        return directory, None
    train(directory, resume=bool(directory.checkpoints.paths()), quiet=True)
    return directory, time.process_time() - began


def _ended(run: RunDirectory) -> bool:
    """The curve is drawn after the last checkpoint; evaluations that reach the end tell it from one of a shorter run."""
    file = run.path / "evaluations.csv"
    rows = read_table(file) if file.exists() else []
    return bool(rows) and rows[-1]["step"] >= run.run.steps and (run.path / "curve.png").exists()


def _assert_same(run: RunDirectory, agent: str, settings: RunConfig, config: Config, execution: Execution) -> None:
    there = {"agent": run.name, **asdict(run.run), **asdict(run.agent), **asdict(run.execution)}
    here = {"agent": agent, **asdict(settings), **asdict(config), **asdict(execution)}
    for name in sorted({*there, *here} - {*LOOKING}):
        if there.get(name) != here.get(name):
            raise RunError(
                f"run {run.path}: its {name} is {there.get(name)!r}, the paper's {here.get(name)!r}. "
                "Move it away, or keep the paper's runs in another folder with --runs."
            )


def learn_all(
    runs: Mapping[Key, Mapping[str, Any]], workers: int, say: Say, keep: str = "", executor: str = "local"
) -> dict[Key, Learned]:
    """`learn(**run)` of each, `workers` at a time on the executor; the results depend on neither, nor on `keep`. A run whose
    worker dies is repeated, or goes on where it is kept."""
    keys, found = list(runs), dict[Key, Learned]()
    with executors.opened(executor, workers) as pool:
        say(f"{len(keys)} runs", 0.0)
        for index, learned in pool.stream(_learned, [({**runs[key], "keep": keep},) for key in keys]):
            found[keys[index]] = learned
            run = runs[keys[index]]
            say(f"{run['agent']}, {run['env']}, seed {run['seed']}: {len(found)} of {len(keys)}", len(found) / (len(keys) + 1))
    return {key: found[key] for key in keys}


def _learned(run: dict[str, Any]) -> Learned:
    return learn(**run)


def clearly_more(ones: Sequence[float], others: Sequence[float]) -> bool | str:
    """Whether the mean of `ones` exceeds that of `others`, paired: CONTRARY if it is clearly less, UNDECIDED if neither.
    One pair decides nothing."""
    gaps = [a - b for a, b in zip(ones, others, strict=True)]
    if len(gaps) == 1:
        return UNDECIDED
    mean, error = statistics.fmean(gaps), statistics.stdev(gaps) / len(gaps) ** 0.5
    if abs(mean) <= CLEAR * error:
        return UNDECIDED
    return True if mean > 0 else CONTRARY


def curve(axis: Any, runs: Sequence[Learned], label: str, **style: Any) -> None:
    """The mean over seeds of the training return, and the span of the seeds."""
    seen = [[(s, r) for s, r in zip(run.steps, run.returns, strict=True) if not math.isnan(r)] for run in runs]
    if not all(seen):
        return
    points, values = on_common_steps([tuple(np.array(column) for column in zip(*run, strict=True)) for run in seen])  # type: ignore[misc]
    (line,) = axis.plot(points, values.mean(0), label=label, linewidth=1.2, **style)
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.fill_between(points, values.min(0), values.max(0), color=line.get_color(), alpha=0.15, linewidth=0)


def cpu(runs: Sequence[Learned]) -> str:
    return f"{statistics.fmean(run.seconds for run in runs):.0f} s of CPU a run"


def by_seed(runs: Mapping[str, Sequence[Learned]]) -> dict[str, list[dict[str, Any]]]:
    return {name: [run.numbers() for run in found] for name, found in runs.items()}
