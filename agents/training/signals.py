"""Signals: SIGINT (Ctrl-C), SIGTERM and SIGHUP stop a run after the present update; a second signal stops it at once.

An exception raised from a signal handler can leave another thread's lock taken (the event writer's, so that the run hangs when
it ends) or be swallowed in a destructor. So the first signal only sets a flag, which the loop reads between updates.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SAID = b"stopping after this update; once more stops at once\n"
_asked: list[int] = []  # signals that have arrived


class Stopped(KeyboardInterrupt):
    """A signal asked the process to end. `code` is the exit code by a shell's convention."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Inside, `stop_if_asked` raises `Stopped` after one of the signals. Signals that are ignored, as under nohup, stay so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = (signal.SIG_DFL, signal.default_int_handler)
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) in usual]
    _asked.clear()
    before = {number: signal.signal(number, _ask) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked.clear()


def stop_if_asked() -> None:
    """Called between updates. Stopped, if a signal has asked for it."""
    if _asked:
        raise Stopped(_asked[0])


def _ask(number: int, frame: FrameType | None) -> None:
    _asked.append(number)
    if len(_asked) > 1:
        raise Stopped(number)
    with suppress(OSError):  # after SIGHUP there may be no terminal; print is not safe here
        os.write(2, SAID)
