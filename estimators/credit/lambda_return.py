"""λ-returns: between one step and a critic (λ = 0), and all the steps that were seen (λ = 1).

    δ_t = c_t + γ (1 − terminated_t) V(s_{t+1}) − V(s_t)
    A_t = δ_t + γλ (1 − ends_t) A_{t+1}                           GAE(γ, λ)
    G_t = A_t + V(s_t)                                            the λ-return

in cost units. A truncated episode bootstraps from its final observation, a terminated one does not; the trace is cut
at both. The last step of a block is a truncation. Schulman et al. (2016); Sutton & Barto (2018), chapter 12.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from scg.credit import Credit, Downstream
from scg.scan import affine


@dataclass(frozen=True)
class LambdaReturn(Credit):
    """`G_t`. `critic` names the node V(s_t); `next_critic` the node V(s_{t+1}) at the observation that followed
    step t (the final one where an episode was cut); `terminated` the node that says where an episode really ended."""

    critic: str = "value"
    next_critic: str = "next_value"
    terminated: str = "terminated"
    discount: float = 0.99
    lam: float = 0.95

    @property
    def critics(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.critic,)

    def __call__(self, downstream: Downstream) -> Tensor:
        return self.advantage(downstream) + downstream.value(self.critic)

    def advantage(self, downstream: Downstream) -> Tensor:
        """`A_t`: how much dearer this step turned out than its critic expected."""
        value, following = downstream.value(self.critic), downstream.value(self.next_critic)
        goes_on = 1.0 - downstream.value(self.terminated).to(value.dtype)
        delta = downstream.step_cost(self.discount) + self.discount * goes_on * following - value
        return affine(self.discount * self.lam * (1.0 - downstream.ends()), delta)


@dataclass(frozen=True)
class GAE(LambdaReturn):
    """Generalised advantage estimation: `A_t`, its baseline V(s_t) already subtracted."""

    def __call__(self, downstream: Downstream) -> Tensor:
        return self.advantage(downstream)
