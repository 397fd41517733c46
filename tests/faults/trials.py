"""What a trial of the fault campaign is, and how the command is called in it.

A trial does one thing to a run that a run must bear, and *holds* if what follows is what the documentation promises: one
message and no traceback where it is refused or stopped, and, where the run can go on, the bits of one that was never
disturbed. Anything else is *lost*, with the reason.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from scg.agents.training.run_directory import RunDirectory, read_table
from scg.commands.cli import main
from tests.agents.training.test_kills import timeless
from tests.agents.training.test_loop import assert_same, last_state

SMALL = (
    "reinforce --steps 1280 --envs 2 --horizon 16 --hidden 4 --evaluations 2 --eval-episodes 1 --checkpoints 8 "
    "--keep-checkpoints 3 --env CartPole-v1"
)


@dataclass(frozen=True)
class Trial:
    kind: str
    name: str
    run: Callable[[Path], None]  # in a new folder; AssertionError, or whatever else gets out, is a loss


@dataclass(frozen=True)
class Outcome:
    trial: Trial
    lost: str = ""  # why, "" where it held
    seconds: float = 0.0


def tried(trial: Trial, folder: Path) -> Outcome:
    folder.mkdir(parents=True)
    lost, began = "", time.monotonic()
    with apart(folder):
        try:
            trial.run(folder)
        except Exception as error:
            lost = f"{type(error).__name__}: {error}"
    return Outcome(trial, lost, time.monotonic() - began)


@contextlib.contextmanager
def apart(folder: Path) -> Iterator[None]:
    """What a command changes in its process is put back: the next trial finds what this one found."""
    path, environ, cwd, threads = [*sys.path], {**os.environ}, os.getcwd(), torch.get_num_threads()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        os.chdir(cwd)
        sys.path[:] = path
        os.environ.clear(), os.environ.update(environ)
        torch.set_num_threads(threads)
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for name, module in [*sys.modules.items()]:  # `good.py` of the next trial is another file
            if str(getattr(module, "__file__", None) or "").startswith(f"{folder}{os.sep}"):
                del sys.modules[name]
        vars(sys).pop("exploded", None)


def say(*words: str) -> tuple[int, str]:
    """The exit code of `scg …` in this process, and all that it printed. What escapes it would be a traceback."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        code = main(list(words))
    return code, shown.getvalue()


def refused(code: int, shown: str, *phrases: str) -> None:
    """One message, and the exit code of a fault."""
    assert code in (1, 2), f"exit code {code}: {shown[-300:]}"
    assert "Traceback" not in shown, shown[-300:]
    assert len(shown.strip()) > 10, "it said nothing"
    for phrase in phrases:
        assert phrase in shown, f"{phrase!r} is not in {shown[-300:]!r}"


def trained(out: Path) -> Path:
    code, shown = say("train", *SMALL.split(), "--out", str(out))
    assert code == 0, shown
    return out


def same(one: Path, other: Path) -> None:
    """Both runs ended in the same bits, and their tables are equal but for the times."""
    assert_same(*(last_state(RunDirectory.open(path)) for path in (one, other)))
    for table in ("metrics.csv", "evaluations.csv"):
        assert timeless(one / table) == timeless(other / table), table
        assert read_table(one / table), table
