"""Which expressions of a loss's source do what: every call of torch, with the expression that made it.

A place is an instruction of a Python function; its line and columns are the expression. One call of torch has a chain of
them, from the innermost one of the user's to the one in the loss itself: `critic(obs)` is a place, and so is each layer's
application inside. Frames in torch's own files do not count.
"""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from types import CodeType, FrameType

import torch

TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
WRAPPERS = tuple(TORCH + name for name in ("overrides.py", "functional.py", "_tensor.py", f"nn{os.sep}functional.py"))
OWN = os.path.dirname(os.path.abspath(__file__)) + os.sep
STOP = "called"  # `calls.called`


@dataclass(frozen=True)
class Place:
    code: CodeType = field(repr=False)
    instruction: int

    @property
    def line(self) -> int:
        return self._span[0]

    @property
    def _span(self) -> tuple[int, int, int, int]:
        first, last, start, end = list(self.code.co_positions())[self.instruction // 2]
        return first or 0, last or first or 0, start or 0, end or 0

    @property
    def source(self) -> str:
        """The expression, on one line."""
        first, last, start, end = self._span
        lines = [linecache.getline(self.code.co_filename, i).rstrip("\n").encode() for i in range(first, last + 1)]
        if not lines or not any(lines):
            return self.code.co_name
        lines[-1] = lines[-1][:end] if end else lines[-1]
        lines[0] = lines[0][start:]
        text = " ".join(line.decode(errors="replace").strip() for line in lines)
        return text if len(text) <= 60 else text[:57] + "…"

    def __str__(self) -> str:
        return f"`{self.source}` ({os.path.basename(self.code.co_filename)}:{self.line})"


@lru_cache(maxsize=4096)
def theirs(filename: str) -> bool:
    """Whether a frame of this file is the user's."""
    return not filename.startswith((TORCH, OWN)) and not filename.startswith("<frozen")


def frames(frame: FrameType | None) -> Iterator[FrameType]:
    """The frames that belong to the loss, innermost first."""
    while frame is not None:
        code = frame.f_code
        if code.co_name == STOP and code.co_filename.startswith(OWN):
            return
        if theirs(code.co_filename):
            yield frame
        frame = frame.f_back


def above(depth: int = 1) -> tuple[Place, ...]:
    """The chain of the call of torch that is being made."""
    return tuple(Place(f.f_code, f.f_lasti) for f in frames(sys._getframe(depth + 1)))


def within(place: Place, depth: int = 1) -> bool:
    """Whether it is made at `place`: `place in above()`, faster."""
    return any(f.f_code is place.code and f.f_lasti == place.instruction for f in frames(sys._getframe(depth + 1)))


def direct(depth: int = 1) -> Place | None:
    """The expression whose value is what this call returns: none where a function of torch's library makes it on the way."""
    frame: FrameType | None = sys._getframe(depth + 1)
    while frame is not None and (frame.f_code.co_filename in WRAPPERS or frame.f_code.co_filename.startswith(OWN)):
        frame = frame.f_back
    if frame is None or not theirs(frame.f_code.co_filename):
        return None
    return Place(frame.f_code, frame.f_lasti)
