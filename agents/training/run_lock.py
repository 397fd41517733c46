"""The lock of a run directory, for one writing process at a time; the system releases it when its holder dies.

    open `lock` → flock (exclusive, without waiting) → write the pid for others to read → … → unlock

The file is never removed: otherwise two processes could hold locks of two files of the same name.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scg.agents.training.run_config import RunError

LOCK = "lock"
_held: set[int] = set()  # descriptors; a forked child must not hold the lock of a parent that dies


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Lock the run for this process. RunError names the process that holds the lock."""
    try:
        descriptor = os.open(run / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise RunError(
            f"run {run}: its lock cannot be opened ({error.strerror}). Is it a folder that you may write in?"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"run {run}: {_holder(descriptor)} is writing in it. Wait for its end, or stop it.") from error
        _held.add(descriptor)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        try:
            yield
        finally:
            _held.discard(descriptor)
            os.ftruncate(descriptor, 0)
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    pid = os.pread(descriptor, 20, 0).strip()
    return f"process {int(pid)}" if pid.isdigit() else "another process"


def _let_go() -> None:
    """In a forked child: close the inherited descriptors; the parent keeps its lock."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
