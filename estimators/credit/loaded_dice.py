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

from scg.credit import Downstream
from scg.estimators.credit.wrapped import Wrapped


@dataclass(frozen=True)
class LoadedDice(Wrapped):
    """`credit`, an advantage (GAE, say), with live weights of the earlier steps."""

    order: float = math.inf

    def __call__(self, downstream: Downstream) -> Tensor:
        return self.credit(downstream)
