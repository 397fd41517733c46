"""Rao–Blackwellised straight-through Gumbel: the relaxation's gradient averaged over the noise that the sample leaves open.

    E[ ∇f(b) · ∂σ_τ(z)/∂θ ]  =  E_b[ ∇f(b) · E_{z|b}[∂σ_τ(z)/∂θ] ]  ≈  E_b[ ∇f(b) · 1/K Σₖ ∂σ_τ(zₖ)/∂θ ],    zₖ ~ z | b

f is evaluated once for K draws of the noise. The derivative is taken at fixed noise zₖ − θ: how z | b moves with θ is no
part of it. Biased: the mean is exactly that of StraightThroughGumbel, the variance never larger. First order.
Paulus, Maddison & Krause (2021), "Rao-Blackwellizing the straight-through Gumbel-softmax gradient estimator".
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from scg.estimators.factorised import zero
from scg.estimators.relaxation import Bits, Categories
from scg.estimators.straight_through import StraightThroughGumbel


@dataclass(frozen=True)
class RaoGumbel(StraightThroughGumbel):
    """Straight-through Gumbel with K = `conditional` draws of the noise behind each hard sample."""

    conditional: int = field(default=10, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.conditional, int) or self.conditional < 1:
            raise ValueError(f"RaoGumbel(conditional={self.conditional!r}): draws of the noise behind a sample, at least 1")

    def path(self, relaxed: Bits | Categories, z: Tensor, hard: Tensor) -> Tensor:
        again = relaxed.anew(z, self.conditional).detach() + zero(relaxed.theta)  # the noise is fixed, θ is not
        return relaxed.relaxed(again, self.temperature).mean(0)
