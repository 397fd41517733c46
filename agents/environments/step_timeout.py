"""A time limit on each call of an environment: one that hangs stops the run, and is named.

    begin ── reset or step ── end
    watch (a thread) ─ too long? ─► StepTimeout inside the call, by a signal ─ still there? ─► message, exit code 1

A signal's exception reaches Python code and calls that the system interrupts, on the main thread. A loop in C, or a call on
another thread (`--overlap`), cannot be interrupted: the process then ends, and its last checkpoint is the one to resume from.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from scg.agents.environments.faults import StepTimeout


class Watch:
    """Without `seconds`, nothing is watched."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._began: float | None = None  # of the call that goes on
        self._struck: float | None = None  # of the one that was too long
        self._call: tuple[int | None, str, int] = (None, "", 0)
        self._closed = threading.Event()
        self._before: Any = None
        self._signals = seconds > 0 and threading.current_thread() is threading.main_thread()
        if self._signals:
            self._before = signal.signal(signal.SIGALRM, self._raise)
        if seconds > 0:
            threading.Thread(target=self._look, name="step-timeout", daemon=True).start()

    def begin(self, index: int | None, what: str) -> None:
        if self.seconds:
            self._call = index, what, threading.get_ident()
            self._began = time.monotonic()

    def end(self) -> None:
        self._began = None

    def close(self) -> None:
        self._closed.set()
        if self._signals:
            signal.signal(signal.SIGALRM, self._before)
            self._signals = False

    def _look(self) -> None:
        pause = min(self.seconds / 4, 0.5)
        while not self._closed.wait(pause):
            began = self._began
            if began is None or time.monotonic() - began <= self.seconds:
                continue
            if self._struck == began:
                if time.monotonic() - began > 2 * self.seconds + 1:
                    self._leave()
            elif self._signals and self._call[2] == threading.main_thread().ident:
                self._struck = began
                signal.pthread_kill(self._call[2], signal.SIGALRM)
            else:
                self._leave()

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if self._began is not None and self._began == self._struck:  # else it has just returned
            index, what, _ = self._call
            raise StepTimeout(index, f"{what} has not returned after {self.seconds:g} seconds (--step-timeout).")

    def _leave(self) -> None:
        index, what, _ = self._call
        sys.stderr.write(
            f"stopped: environment {index}: {what} has not returned after {self.seconds:g} seconds (--step-timeout), and cannot "
            "be interrupted.\nThe run goes on from its last checkpoint with: scg train --resume RUN\n"
        )
        sys.stderr.flush()
        os._exit(1)
