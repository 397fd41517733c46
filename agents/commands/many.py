"""Many runs at once: each is a task of an executor, and ends in the same bits whatever executes it and whatever dies.

    runs made here ──► train_one(path) on a worker, begun or gone on with ──► Ended, as they end

A run is a folder, so what a killed worker leaves is its last checkpoint. The repeated task goes on from there where the
environments' states can be saved, and begins again where they cannot: both are the bits of a run that nobody killed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from scg.agents.commands.shared import fault_of
from scg.agents.commands.trust import opened
from scg.agents.environments.recipe import look_here
from scg.agents.training.run_directory import RunDirectory
from scg.agents.training.signals import stopped_by_signals
from scg.executors import Executor, WorkerDied


class Ended(NamedTuple):
    """How a run ended: an exit code, and what to say of it."""

    code: int
    said: str


def train_all(runs: Sequence[RunDirectory], executor: Executor, stop_at: float | None) -> Iterator[tuple[RunDirectory, Ended]]:
    """Train every run to its end, and yield them as they end. A run that stops does not stop the others."""
    quiet = executor.workers > 1
    tasks = [(str(run.path.absolute()), run.run.steps if run.extended else None, stop_at, quiet) for run in runs]
    try:
        for index, ended in executor.stream(train_one, tasks):
            yield runs[index], ended
    except WorkerDied as error:
        raise WorkerDied(f"{error} Continue with: scg train --resume RUN") from error


def train_one(path: str, steps: int | None, stop_at: float | None, quiet: bool) -> Ended:
    """Train the run at `path`, whose code the caller trusts, to its end or to a new total of `steps`. What has been done of
    it before is not done again."""
    return told(lambda: _trained(Path(path), steps, stop_at, quiet))


def told(work: Callable[[], Ended]) -> Ended:
    """What `work` returns; faults that a user can mend are told in its place."""
    try:
        return work()
    except Exception as error:
        fault = fault_of(error)
        if fault is None:
            raise
        return Ended(*fault)


def _trained(path: Path, steps: int | None, stop_at: float | None, quiet: bool) -> Ended:
    look_here()
    run = opened(path, trust=True)
    if steps is not None:
        run.extend(steps)
    if run.has_begun() and not run.goes_on_to_the_bit():
        run.begin_again()
    return train_run(run, run.has_begun(), stop_at, quiet)


def train_run(
    run: RunDirectory, resume: bool, stop_at: float | None, quiet: bool = False, executor: Executor | None = None
) -> Ended:
    """Train a run here, until its end or a signal; the members of a population are evaluated on the executor."""
    from scg.agents.common.callbacks import StopAtReturn
    from scg.agents.training.loop import train

    callbacks = [] if stop_at is None else [StopAtReturn(stop_at)]
    try:
        with stopped_by_signals():
            evaluation = train(run, resume, quiet, callbacks, executor)
    except KeyboardInterrupt as stop:
        with suppress(OSError):  # after SIGHUP there may be no terminal to say it on
            print(f"interrupted; continue with: scg train --resume {run.path}", file=sys.stderr)
        return Ended(getattr(stop, "code", 130), "")
    if evaluation is None:
        return Ended(0, f"done, without an evaluation; graph and checkpoints in {run.path}")
    mean = evaluation.shown(evaluation.mean)
    return Ended(0, f"done: evaluation return {mean}{evaluation.remark}; curve, graph and checkpoints in {run.path}")
