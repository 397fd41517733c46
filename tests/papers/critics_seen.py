"""Training runs whose critics are known too, for the papers that look at them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from scg.papers.critics import Critics
from scg.papers.learning import Learned
from tests.papers.learned import flat

Run = Mapping[str, Any]


def judged(run: Learned, bias: float, size: float = 10.0) -> Learned:
    """Its critics are off by `bias` at every state of returns from `size` to 2 · `size`."""
    along = [{"step": s, "estimate": size + bias, "truth": size, "bias": bias, "error": 0.1, "states": 4} for s in (0, 1, 2, 3)]
    pairs = [(size * (1 + i / 3) + bias, size * (1 + i / 3)) for i in range(4)]
    return dataclasses.replace(run, seen=Critics(along, pairs))


def instead(value: Callable[[Run], float], bias: Callable[[Run], float]) -> Callable[..., Any]:
    """What takes the place of `learn_all`."""

    def learn_all(
        runs: Mapping[Any, Run], workers: int, say: Any, keep: str = "", executor: str = "local"
    ) -> dict[Any, Learned]:
        return {key: judged(flat(value(run)), bias(run)) if run["look"] else flat(value(run)) for key, run in runs.items()}

    return learn_all
