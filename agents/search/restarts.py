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
    """A `CMA` that is replaced when it stalls. `start(n)` gives the mean of the n-th restart, from 0 on."""

    def __init__(
        self, start: Callable[[int], Tensor], sigma: float, members: int = 0, flat: float = 1e-11, **options: Any
    ) -> None:
        self.start, self.sigma, self.flat, self.options = start, sigma, flat, options
        self.restarts = 0
        self.cma = CMA(start(0), sigma, members, **options)
        self._forget()

    def _forget(self) -> None:
        rates = self.cma.rates
        self.best: deque[float] = deque(maxlen=10 + -(-30 * rates.dim // rates.members))

    @property
    def members(self) -> int:
        return self.cma.rates.members

    def update(self, theta: Tensor, utility: Tensor) -> str:
        """One generation. Returns why it was restarted, or ""."""
        cma = self.cma
        cma.update(theta, cma.credit(utility))
        alive = utility[torch.isfinite(utility)]
        self.best.append(float(alive.max()))
        reason = cma.stalled()
        full = len(self.best) == self.best.maxlen
        if not reason and full:
            spread = max(max(self.best), float(alive.max())) - min(min(self.best), float(alive.min()))
            reason = f"returns are within {self.flat}" if spread < self.flat else ""
        if reason:
            self.restarts += 1
            self.cma = CMA(self.start(self.restarts), self.sigma, 2 * self.members, **self.options)
            self._forget()
        return reason
