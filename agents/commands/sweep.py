"""`scg sweep`: search an agent's options, each trial with the same seeds, and keep the best as a preset.

    scg sweep ppo --env CartPole-v1 --steps 50000 --search lr=loguniform(1e-5,1e-2) clip=0.1,0.2,0.3 --trials 30 --workers 4
    scg sweep --resume SWEEP --workers 4                 scg train ppo --preset SWEEP/best.json

Every flag of `scg train AGENT` is one here, and sets what is not searched.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import OmitArgPrefixes

from scg.agents import names, target_of, title
from scg.agents.commands.cli import options_of
from scg.agents.commands.python import try_to_build
from scg.agents.commands.shared import executor_of, names_agent, reported, resumes, usage
from scg.agents.commands.trust import keep_out, vet
from scg.agents.training.run_config import Settings
from scg.agents.training.run_directory import RunDirectory, RunError, short
from scg.agents.training.sweep import Plan, Sweep, plan_of, require_optuna
from scg.agents.training.sweep_report import plot, write_trials
from scg.executors import Executor


@dataclass(frozen=True)
class Resume:
    resume: Path
    """the folder of a sweep, which goes on where it was"""
    trials: int | None = None
    """a new total of trials"""
    workers: int = 1
    """runs at a time"""
    executor: str = "local"
    """what runs them: local, ray, or slurm; no bit depends on it"""
    storage: str = ""
    """URL of a database that gets the trials as an Optuna study; default: journal.log in the folder"""
    trust: bool = False
    """import the code that the sweep names, of its environment or agent, without a question"""


@reported
def sweep(argv: list[str]) -> int:
    """Search an agent's options: `AGENT --search NAME=RANGE … [options]`, or `--resume SWEEP`."""
    known = names_agent(argv)
    if not known and resumes(argv):
        return _resumed(tyro.cli(Resume, prog="scg sweep", args=argv))
    if not known:
        text = "scg sweep AGENT --search NAME=RANGE … [options] | scg sweep --resume SWEEP"
        return usage(argv, f"{text}\nRANGE is uniform(a,b), loguniform(a,b), int(a,b), logint(a,b), or value,value,…")
    wish: Any = tyro.cli(_options(argv[0], argv[1:]), prog=f"scg sweep {argv[0]}", args=argv[1:])
    require_optuna()
    wish.agent.check(wish.execution)
    try_to_build(RunDirectory(Path(), argv[0], wish.run, wish.agent, wish.execution))
    out = wish.out or Path("runs") / f"sweep-{title(argv[0])}-{short(wish.run.env)}"
    made = Sweep(out, wish.plan, Settings(target_of(argv[0]), wish.run, wish.agent, wish.execution))
    with executor_of(wish) as executor:
        made.create()
        return _run(made, executor, wish.storage)


sweep.subjects = names  # type: ignore[attr-defined]


def _options(name: str, argv: list[str]) -> Any:
    """The flags of `scg train NAME` that a trial has, and the plan's."""
    train = {field.name: field for field in fields(options_of(name, argv))}
    kept = [
        (name, train[name].type, train[name].default) for name in ("run", "agent", "execution", "preset", "workers", "executor")
    ]
    out = Annotated[
        Path | None, tyro.conf.arg(help="the sweep's folder; default runs/sweep-<agent>-<env>. One that is there goes on")
    ]
    storage = Annotated[
        str, tyro.conf.arg(help="URL of a database that gets the trials as an Optuna study; default: a journal file")
    ]
    own = [("plan", OmitArgPrefixes[Plan], Plan()), ("out", out, None), ("storage", storage, "")]
    return make_dataclass("Options", [*kept, *own], frozen=True)


def _resumed(wish: Resume) -> int:
    require_optuna()
    keep_out(wish.resume)
    vet(RunDirectory(wish.resume, *plan_of(wish.resume)[1]), wish.trust)
    there = Sweep.open(wish.resume)
    if wish.trials is not None:
        if wish.trials < there.plan.trials and wish.trials <= max(there.finished(), default=-1):
            raise RunError(f"option trials is {wish.trials}, but sweep {wish.resume} has done more. Give at least as many.")
        there = Sweep(there.path, replace(there.plan, trials=wish.trials), there.base)
    with executor_of(wish) as executor:
        there.create()
        return _run(there, executor, wish.storage)


def _run(made: Sweep, executor: Executor, storage: str) -> int:
    try:
        best = made.run(executor, lambda text: print(text, flush=True))
    except KeyboardInterrupt:
        print(f"interrupted; continue with: scg sweep --resume {made.path}", file=sys.stderr)
        return 130
    write_trials(made, made.path / "trials.csv")
    made.mirror(storage)
    plot(made, made.path / "sweep.png")
    if best is None:
        print(f"no trial was completed; see {made.path / 'trials'}", file=sys.stderr)
        return 1
    print(f"best: trial {best.number}, return {best.value:.1f}; picture and trials in {made.path}")
    print(f"train with it: scg train {made.base.name} --preset {made.path / 'best.json'}")
    return 0
