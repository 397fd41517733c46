"""Mixed: at one node, a share α of the pathwise gradient and 1 − α of the likelihood ratio.

    x = g(ε; θ):    ∇ E[f(x)] = E[ α ∇_x f(x) ∇_θ g(ε; θ) + (1 − α) f(x) ∇_θ log p(x; θ) ],      any constant α

Unbiased where f is continuous, for both parts are. With independent errors of variance v_P and v_L the variance α² v_P + (1 − α)² v_L
is least at α = v_L / (v_P + v_L); `TotalPropagation` measures that weight in every backward pass, step by step. α = 1 is `Pathwise`,
α = 0 `ScoreFunction`. First order.

Parmas, Rasmussen, Peters & Doya (2018), "PIPPS: flexible model-based policy search robust to the curse of chaos".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from scg.distributions import log_density, moving_support, reparameterise, rsample
from scg.estimator import Branches, Estimator, Pathwise


@dataclass(frozen=True)
class Mixed(Estimator):
    """`alpha` in [0, 1] is the share of the pathwise gradient."""

    alpha: float = 0.5

    moves = True

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"Mixed(alpha={self.alpha!r}): the pathwise share is a number between 0 and 1")

    def branch(self, distribution: Distribution) -> Branches:
        return self._at(distribution, rsample(distribution))

    def given(self, distribution: Distribution, value: Tensor, log_prob: Tensor | None = None) -> Branches:
        """At a recorded value, its noise inferred; with μ's recorded `log_prob` weighed with sg π/μ besides."""
        found = self._at(distribution, reparameterise(distribution, value))
        if log_prob is None or found.score is None:
            return found
        ratio = (distribution.log_prob(value) - log_prob).detach().exp()
        return Branches(found.values, weights=ratio * found.score.exp())

    def _at(self, distribution: Distribution, moved: Tensor) -> Branches:
        here = moved.detach()
        log_prob = log_density(distribution, here)
        return Branches(torch.lerp(here, moved, self.alpha), score=(1 - self.alpha) * (log_prob - log_prob.detach()))

    def order(self, distribution: Distribution) -> float:
        return 1

    def refuses(self, distribution: Distribution) -> str | None:
        return Pathwise().refuses(distribution) or moving_support(distribution)
