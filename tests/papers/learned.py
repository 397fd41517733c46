"""Training runs that did not take place: curves that are known, for the reports made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from scg.papers.learning import Learned

Run = Mapping[str, Any]


def flat(value: float, kl: float = 0.005) -> Learned:
    return Learned([1024.0, 2048.0, 3072.0], [float("nan"), value, value], [kl] * 3, value, 1.0)


def instead(value: Callable[[Run], float], kl: Callable[[Run], float] = lambda run: 0.005) -> Callable[..., Any]:
    """What takes the place of `learn_all`."""

    def learn_all(
        runs: Mapping[Any, Run], workers: int, say: Any, keep: str = "", executor: str = "local"
    ) -> dict[Any, Learned]:
        return {key: flat(value(run), kl(run)) for key, run in runs.items()}

    return learn_all
