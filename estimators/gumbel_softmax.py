"""Gumbel-softmax, the concrete distribution: the pathwise gradient of a relaxed sample in place of the hard one.

    x = σ_τ(z),   z = θ + noise                 values relaxed, weights 1/n

Biased: value and gradient are those of the relaxed objective. Its mean is

    ∇_θ E[f(σ_τ(z))]       and not       ∇_θ E[f(b)],   b = H(z)

with a difference that vanishes as τ → 0, where the variance grows without bound. Everything downstream sees relaxed
values, so f must accept them. Derivatives of any order are the relaxed objective's where f is smooth.
Jang, Gu & Poole (2017), "Categorical reparameterization with Gumbel-softmax"; Maddison, Mnih & Teh (2017).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch.distributions import Distribution

from scg.estimator import Branches, Pathwise, at_least
from scg.estimators.inverse_cdf import tensor_of
from scg.estimators.relaxation import positive, relaxable, relaxation


@dataclass(frozen=True)
class Relaxed(Pathwise):
    """What the biased relaxations share: a temperature, their opting in, and a path through the sample."""

    smooth: bool = field(default=False, init=False, repr=False)
    temperature: float = field(default=0.5, kw_only=True)
    allow_bias: bool = field(default=False, kw_only=True)

    unbiased = False

    def __post_init__(self) -> None:
        at_least(type(self).__name__, self.samples, 1)
        positive(type(self).__name__, self.temperature)

    def order(self, distribution: Distribution) -> float:
        return 1

    def refuses(self, distribution: Distribution) -> str | None:
        return relaxable(type(self).__name__, distribution)


@dataclass(frozen=True)
class GumbelSoftmax(Relaxed):
    """Relaxed samples of Bernoulli (binary concrete) or OneHotCategorical nodes."""

    def branch(self, distribution: Distribution) -> Branches:
        relaxed, _ = relaxation(distribution)
        x = relaxed.relaxed(relaxed.draw(self.samples), self.temperature).to(tensor_of(distribution).dtype)
        return Branches(x, self.samples) if self.samples > 1 else Branches(x[0])

    def order(self, distribution: Distribution) -> float:
        return math.inf
