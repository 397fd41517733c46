"""V-trace: λ-returns of a recording with truncated importance ratios.

    ρ_t = min(ρ̄, π/μ),   k_t = λ min(c̄, π/μ)                                       (the paper's cₜ; c is a cost here)
    δ_t = ρ_t (c_t + γ (1 − terminated_t) V(s_{t+1}) − V(s_t))
    v_t = V(s_t) + δ_t + γ k_t (v_{t+1} − V(s_{t+1}))         within the episode    the critic's target
    A_t = c_t + γ v_{t+1} − V(s_t)                                                  its credit

in cost units; at an end or a cut v_{t+1} is (1 − terminated_t) V(s_{t+1}). The gradient is ρ_t A_t ∇log π(a_t|s_t).

The mean of v_t is V of the policy ∝ min(ρ̄ μ, π), so with ρ̄ < max π/μ the credit is biased towards μ, even with an
exact critic of π; c̄ changes only the variance and the speed of convergence. With ρ̄ and c̄ above all ratios and λ = 1 the
mean is right for any critic, except where an episode is truncated. On-policy with λ = 1, and ρ̄, c̄ ≥ 1, v_t is the λ-return. Espeholt et al. (2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scg.credit import Downstream
from scg.estimators.credit.bootstrap import Bootstrapped, ahead, in_unit
from scg.estimators.credit.ratios import ratio
from scg.scan import affine


@dataclass(frozen=True)
class VTrace(Bootstrapped):
    """`A_t`. The replayed node's weight is π/μ; `rho_bar_gradient` truncates it (None: at ρ̄), and inf leaves it as it is,
    for an estimator that clips the weight itself."""

    lam: float = 1.0
    rho_bar: float = 1.0
    c_bar: float = 1.0
    rho_bar_gradient: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        in_unit(self, "lam", self.lam)
        gradient = self.rho_bar if self.rho_bar_gradient is None else self.rho_bar_gradient
        for name, bar in (("rho_bar", self.rho_bar), ("c_bar", self.c_bar), ("rho_bar_gradient", gradient)):
            if not bar > 0:
                raise ValueError(f"VTrace({name}={bar!r}): a truncation level is positive")

    def estimate(self, downstream: Downstream) -> Tensor:
        carried = self.carried(downstream)
        follows = torch.where(carried.bool(), ahead(self.targets(downstream), 1), self.following(downstream))
        advantage = self.cost(downstream) + self.discount * follows - self.value(downstream)
        bar = self.rho_bar if self.rho_bar_gradient is None else self.rho_bar_gradient
        return advantage * (bar / ratio(downstream)).clamp(max=1.0)

    def targets(self, downstream: Downstream) -> Tensor:
        """`v_t`, the target of the critic's regression."""
        rho = ratio(downstream)
        delta = rho.clamp(max=self.rho_bar) * self.error(downstream)
        trace = self.lam * rho.clamp(max=self.c_bar)
        return self.value(downstream) + affine(self.discount * trace * self.carried(downstream), delta)


@dataclass(frozen=True)
class VTraceTarget(VTrace):
    """`v_t`, the target of the critic's regression."""

    def estimate(self, downstream: Downstream) -> Tensor:
        return self.targets(downstream)
