"""Retrace(λ) and its relatives: multi-step returns of a critic of actions, from a recording.

    δ_t = c_t + γ (1 − terminated_t) E_π Q(s_{t+1}, ·) − Q(s_t, a_t)
    Δ_t = δ_t + γ k_{t+1} Δ_{t+1}            within the episode
    Q̂_t = Q(s_t, a_t) + Δ_t

                     k_t                     safe                           uses full returns near μ = π
    Retrace(λ)       λ min(c̄, π/μ), c̄ = 1    for any μ                      yes
    TreeBackup(λ)    λ π(a_t|s_t)            for any μ; μ may be unknown    no
    QLambda(λ)       λ                       only for μ near π              yes

in cost units. π enters only through k and through the expectation, so with an exact critic the mean of Q̂_t is Q(s_t, a_t)
for every λ, k and μ. With any other critic they are biased off-policy; Retrace's bias vanishes for λ = 1, c̄ = ∞
(per-decision importance sampling), except where an episode is truncated. Munos et al. (2016); Precup, Sutton & Singh (2000);
Harutyunyan et al. (2016).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scg.credit import Downstream
from scg.estimators.credit.bootstrap import Bootstrapped, ahead, in_unit, read
from scg.estimators.credit.ratios import ratio
from scg.scan import affine


@dataclass(frozen=True)
class QReturn(Bootstrapped):
    """`Q̂_t`, given `k_t`. `critic` names the node Q(s_t, a_t), `next_critic` the node E_π Q(s_{t+1}, ·).

    Subtract E_π Q(s_t, ·) as the node's `baseline`.
    """

    critic: str = "q"
    lam: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_unit(self, "lam", self.lam)

    def estimate(self, downstream: Downstream) -> Tensor:
        trace = ahead(self.trace(downstream), 1) * self.carried(downstream)
        return self.value(downstream) + affine(self.discount * trace, self.error(downstream))

    def trace(self, downstream: Downstream) -> Tensor:
        """`k_t`."""
        raise NotImplementedError(f"{type(self).__name__} must define trace(downstream)")


@dataclass(frozen=True)
class Retrace(QReturn):
    """`k_t = λ min(c̄, π/μ)`."""

    c_bar: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.c_bar > 0:
            raise ValueError(f"Retrace(c_bar={self.c_bar!r}): a truncation level is positive")

    def trace(self, downstream: Downstream) -> Tensor:
        return self.lam * ratio(downstream).clamp(max=self.c_bar)


@dataclass(frozen=True)
class TreeBackup(QReturn):
    """`k_t = λ π(a_t|s_t)`, for discrete actions. `log_prob` names a node log π(a_t|s_t):

    graph.deterministic(lambda pi, a: pi.log_prob(a), name="log_prob", parents=[dist("action"), "action"])
    """

    log_prob: str = "log_prob"

    def trace(self, downstream: Downstream) -> Tensor:
        return self.lam * read(downstream, self.log_prob, self).exp()


@dataclass(frozen=True)
class QLambda(QReturn):
    """`k_t = λ`."""

    def trace(self, downstream: Downstream) -> Tensor:
        return torch.full_like(self.value(downstream), self.lam)
