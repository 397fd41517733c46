"""λ-returns: mixtures of the one-step return with a critic (λ = 0) and the return of all recorded steps (λ = 1).

    δ_t = c_t + γ (1 − terminated_t) V(s_{t+1}) − V(s_t)
    A_t = δ_t + γλ A_{t+1}       within the episode               GAE(γ, λ)
    G_t = A_t + V(s_t)                                            the λ-return, which is TD(λ)'s target

    G_t = (1 − λ) Σ_{n ≥ 1} λ^{n−1} G_t^{(n)}                     the same: a mixture of all n-step returns

in cost units. With an exact critic the mean is Q(s_t, a_t) for every λ (minus V(s_t) for GAE). With any critic the mean is
right for λ = 1, except where an episode is truncated. Schulman et al. (2016); Sutton & Barto (2018), chapter 12.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from scg.credit import Downstream
from scg.estimators.credit.bootstrap import Bootstrapped, in_unit
from scg.scan import affine


@dataclass(frozen=True)
class LambdaReturn(Bootstrapped):
    """`G_t`. The last step of a block bootstraps, as every truncated step does."""

    lam: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        in_unit(self, "lam", self.lam)

    def estimate(self, downstream: Downstream) -> Tensor:
        return self.advantage(downstream) + self.value(downstream)

    def advantage(self, downstream: Downstream) -> Tensor:
        """`A_t`: the return minus the critic's value."""
        return affine(self.discount * self.lam * self.carried(downstream), self.error(downstream))


@dataclass(frozen=True)
class GAE(LambdaReturn):
    """Generalised advantage estimation: `A_t`, its baseline V(s_t) already subtracted."""

    def estimate(self, downstream: Downstream) -> Tensor:
        return self.advantage(downstream)
