"""ReinMax: straight-through of second order, by Heun's method.

    truth               Σᵢ Σⱼ p_j (f(eᵢ) − f(e_j)) ∂pᵢ/∂θ
    straight-through    f(eᵢ) − f(e_j)  ≈  ∇f(e_j)·(eᵢ − e_j)                         Euler
    ReinMax             f(eᵢ) − f(e_j)  ≈  ½ (∇f(eᵢ) + ∇f(e_j))·(eᵢ − e_j)            Heun, the trapezoid rule

    mean (τ = 1)   ½ Σᵢ Σⱼ p_j (∇f(eᵢ) + ∇f(e_j))·(eᵢ − e_j) ∂pᵢ/∂θ;     one bit: ½ (f′(0) + f′(1)) ∂p/∂θ

from one sample b: x = b + y − sg y, with y = 2 π₁ − ½ π₀, π₀ = p(θ), and π₁ = softmax(sg(log π − θ) + θ), the softmax whose
value is π = ½ (b + softmax(θ/τ)). Biased, but exact at τ = 1 for every f that is quadratic in each variable; first order.
Liu, Dong, Liu, Yu & Gao (2023), "Bridging discrete and backpropagation: straight-through and beyond", algorithm 2.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from scg.estimators.factorised import zero
from scg.estimators.relaxation import Bits, Categories
from scg.estimators.straight_through import StraightThroughGumbel


@dataclass(frozen=True)
class ReinMax(StraightThroughGumbel):
    """Straight-through whose mean is exact for quadratic costs, at τ = 1 (the default)."""

    temperature: float = field(default=1.0, kw_only=True)

    def path(self, relaxed: Bits | Categories, z: Tensor, hard: Tensor) -> Tensor:
        pi = ((hard + relaxed.probabilities(self.temperature)) / 2).detach()
        theta = zero(relaxed.theta)
        if isinstance(relaxed, Bits):
            pi_1 = torch.sigmoid(torch.logit(pi) + theta)
        else:
            pi_1 = torch.softmax(torch.log(pi) + theta, -1)
        return 2 * pi_1 - relaxed.probabilities() / 2
