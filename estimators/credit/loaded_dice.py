"""Loaded DiCE: a credit whose weights may be differentiated again.

    Σ_t ( Π_{k ≤ t} w_k − Π_{k < t} w_k ) sg A_t

First order: E[A_t ∇log p_t], as any credit. Second order: the score of earlier steps times that of this one, times the
advantage of this one; with the exact value as critic it is the Hessian of the objective, for every λ and n, where the
first-order credit leaves the earlier steps out. Farquhar, Whiteson & Foerster (2019); Mao et al. (2019) for baselines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from scg.credit import Credit, Downstream


@dataclass(frozen=True)
class LoadedDice(Credit):
    """`credit`, an advantage (GAE, say), with live weights of the earlier steps."""

    credit: Credit
    order: float = math.inf

    @property
    def critics(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.credit.critics

    @property
    def q_critics(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.credit.q_critics

    def __call__(self, downstream: Downstream) -> Tensor:
        return self.credit(downstream)
