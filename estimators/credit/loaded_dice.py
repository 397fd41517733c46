"""Loaded DiCE: a credit whose weights may be differentiated again.

    Σ_t ( Π_{k ≤ t} w_k − Π_{k < t} w_k ) sg A_t

Its gradient is E[A_t ∇log p_t], as for any credit. Its second derivative also has the products of the scores of earlier
steps with the score of step t, times the advantage of step t. With exact values as critic it is the Hessian of the
objective, for every λ and n; a first-order credit leaves out the products with earlier steps. Farquhar, Whiteson & Foerster (2019); Mao et al. (2019) for baselines.
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
