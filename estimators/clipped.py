"""PPO's clipped ratio: how a weight meets its credit so that one update stays near the recording policy.

    K = max( r A,  clip(r, 1 − ε, 1 + ε) A ),      r = π(a)/μ(a)

in cost units, where the pessimistic choice is the maximum. At r = 1 its gradient is that of the score function; away
from it K is a bound, not an estimate, so the gradient is biased on purpose. Schulman et al. (2017).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from scg.distributions import moving_support
from scg.estimator import Branches, Estimator, ScoreFunction


@dataclass(frozen=True)
class Clipped(Estimator):
    """The score function, with the clipped ratio as the way it meets a credit. `clip` is ε."""

    unbiased = False
    clip: float = 0.2
    allow_bias: bool = True

    def __post_init__(self) -> None:
        if not self.clip > 0:
            raise ValueError(f"Clipped(clip={self.clip}): ε must be positive")

    def branch(self, distribution: Distribution) -> Branches:
        return ScoreFunction().branch(distribution)

    def refuses(self, distribution: Distribution) -> str | None:
        return moving_support(distribution)

    def combine(self, weight: Tensor, credit: Tensor) -> Tensor:
        clipped = weight.clamp(1 - self.clip, 1 + self.clip)
        return torch.maximum(weight * credit, clipped * credit)
