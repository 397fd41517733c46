"""Schedules: what share of its initial learning rate an optimiser has after a share of the run.

progress ∈ [0, 1] ↦ factor ≥ 0
"""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[float], float]


def constant(progress: float) -> float:
    return 1.0


def linear(last: float = 0.0) -> Schedule:
    """From 1 to `last` on a straight line."""
    return lambda progress: 1.0 + (last - 1.0) * progress


def cosine(last: float = 0.0) -> Schedule:
    """From 1 to `last` on half a wave (Loshchilov & Hutter 2017)."""
    return lambda progress: last + (1.0 - last) * (1.0 + math.cos(math.pi * progress)) / 2


def warmup(share: float, then: Schedule = constant) -> Schedule:
    """From 0 to 1 over the first `share` of the run; `then`, over the rest of it."""

    def schedule(progress: float) -> float:
        if progress < share:
            return progress / share
        return then((progress - share) / (1.0 - share)) if share < 1.0 else 1.0

    return schedule
