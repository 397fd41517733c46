"""Straight-through: a hard sample with the gradient of a smooth surrogate value y.

    x = b + y − sg y              value b, gradient that of y

    StraightThrough           y = p(θ)            mean   E[∇f(b)] · ∂p/∂θ
    StraightThroughGumbel     y = σ_τ(z)          mean   E[∇f(H(z)) · ∂σ_τ(z)/∂θ]

where the truth is Σ_b f(b) ∂p(b)/∂θ. Values are hard, so the value of the surrogate is unbiased; its gradient is biased
unless f is linear in each variable, and then only for y = p: the relaxed sample's mean is not p. First order; ∇f is taken at hard values, so
f must be differentiable there, as a function of the bits as real numbers.
Bengio, Léonard & Courville (2013); Jang, Gu & Poole (2017), section 2.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributions import Distribution

from scg.estimator import Branches
from scg.estimators.gumbel_softmax import Relaxed
from scg.estimators.inverse_cdf import tensor_of
from scg.estimators.relaxation import Bits, Categories, relaxation


@dataclass(frozen=True)
class StraightThroughGumbel(Relaxed):
    """Hard samples with the gradient of their own relaxation."""

    def branch(self, distribution: Distribution) -> Branches:
        relaxed, _ = relaxation(distribution)
        z = relaxed.draw(self.samples)
        hard = relaxed.hard(z)
        y = self.path(relaxed, z, hard)
        x = (hard + (y - y.detach())).to(tensor_of(distribution).dtype)
        return Branches(x, self.samples) if self.samples > 1 else Branches(x[0])

    def path(self, relaxed: Bits | Categories, z: Tensor, hard: Tensor) -> Tensor:
        """y `[n, *batch, *event]`: what the gradient passes through."""
        return relaxed.relaxed(z, self.temperature)


@dataclass(frozen=True)
class StraightThrough(StraightThroughGumbel):
    """Hard samples with the gradient of their mean."""

    temperature: float = field(default=1.0, init=False, repr=False)

    def path(self, relaxed: Bits | Categories, z: Tensor, hard: Tensor) -> Tensor:
        return relaxed.probabilities().expand(torch.Size(hard.shape))
