"""TRPO by dual ascent: the trust region's constraint enters with a multiplier, which rises while it is violated.

    obs_t → (action_t ~ π) → reward_t                max_θ min_{λ ≥ 0}  E[(π_θ/μ) A_t] − λ (KL(μ‖π_θ) − δ)
    obs_t → value_t → ⟨(value_t − target_t)²⟩        λ ← max(λ + α (KL − δ), 0)
    obs_t ┄→ ⟨λ KL(μ‖π)⟩

θ ascends the Lagrangian for an epoch of minibatches, then λ takes a step, and so on; neither is solved for. A violation
counts ten δ at most, or one bad step would hold the policy still for hundreds of updates. The graph is PPO's with a KL
penalty and without its clip: only the multiplier's rule is another one.

Schulman et al. (2015) for the constraint; Boyd & Vandenberghe (2004), "Convex optimization", ch. 5, for dual ascent.
"""

from __future__ import annotations

from dataclasses import dataclass

from scg.agents.execution.options import OptionError, check_options
from scg.agents.ppo import PPO, Beta


@dataclass(frozen=True)
class TRPODual(PPO):
    """Hyperparameters. PPO's, with the constraint's."""

    clip: float = 0.0
    """the ratio is not clipped: the constraint alone holds the policy near"""
    kl_penalty: float = 1.0
    """initial multiplier λ"""
    kl_target: float = 0.01
    """δ, the KL divergence of an update"""
    dual_rate: float = 50.0
    """α, the multiplier's step: a KL of 0.02 where 0.01 is allowed raises λ by 0.5"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, at_least_zero="dual_rate")
        if not self.kl_penalty > 0:
            raise OptionError(f"option kl_penalty is {self.kl_penalty}. Give the initial multiplier, more than 0.")

    def multiplier(self) -> Beta:
        return Dual(self.kl_penalty, self.kl_target, self.dual_rate)


class Dual(Beta):
    """`λ ← max(λ + α min(KL − δ, 10 δ), 0)`."""

    every_epoch = True

    def __init__(self, initial: float, target: float, rate: float) -> None:
        super().__init__(initial, target)
        self.rate = rate

    def adapt(self, kl: float) -> float:
        return float(self.value.add_(self.rate * min(kl - self.target, 10 * self.target)).clamp_(min=0.0))
