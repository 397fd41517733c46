"""Restarts of CMA-ES with a growing population (IPOP), for returns with many local optima.

    stalled, or the best returns of many generations within `flat`  →  λ ← 2 λ, σ ← σ₀, C ← I, m at a new start

A larger population sees more of the landscape at once: on Rastrigin's function a small one ends in the nearest of its many
minima, a large one in the best (Auger & Hansen 2005, "A restart CMA evolution strategy with increasing population size").
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scg.agents.search.cma import CMA


class Restarting:
    """Restarts a `CMA` in place when it stalls. `start(n)` gives the mean of the n-th restart, from 1 on."""

    def __init__(self, cma: CMA, start: Callable[[int], Tensor], flat: float = 1e-11) -> None:
        self.cma, self.start, self.flat = cma, start, flat
        self.restarts = 0
        self.extremes: deque[tuple[float, float]] = deque(maxlen=self._patience())

    def _patience(self) -> int:
        rates = self.cma.rates
        return 10 + -(-30 * rates.dim // rates.members)

    def update(self, theta: Tensor, utility: Tensor) -> str:
        """Take one generation. Returns the reason of a restart, or ""."""
        self.cma.update(theta, self.cma.credit(utility))
        alive = utility[torch.isfinite(utility)]
        self.extremes.append((float(alive.min()), float(alive.max())))
        reason = self.cma.stalled()
        if not reason and len(self.extremes) == self.extremes.maxlen:
            best = [high for _, high in self.extremes]
            spread = max(best) - min(*best, self.extremes[-1][0])
            reason = f"returns are within {self.flat}" if spread < self.flat else ""
        if reason:
            self.restarts += 1
            self.cma.restart(self.start(self.restarts), 2 * self.cma.rates.members)
            self.extremes = deque(maxlen=self._patience())
        return reason

    def state_dict(self) -> dict[str, Any]:
        return {"restarts": self.restarts, "extremes": [list(pair) for pair in self.extremes]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """To be called after the state of the CMA is loaded, which has the size of the population."""
        self.restarts = state["restarts"]
        self.extremes = deque((tuple(pair) for pair in state["extremes"]), maxlen=self._patience())
