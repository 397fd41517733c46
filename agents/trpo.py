"""TRPO: the natural gradient's direction, searched backwards until the step is better and near enough.

    obs_t → (action_t ~ π) → reward_t                L(θ) = mean_t (π_θ/μ) A_t,      A_t in cost units
    obs_t → value_t → ⟨(value_t − target_t)²⟩        θ ← θ − backtrackʲ √(2δ / gᵀF⁻¹g) F⁻¹g

for the least j ≥ 0 with L(θ) < L(θ₀) and KL(θ₀‖θ) ≤ δ. Where none of the tries passes, the parameters are put back.

Schulman et al. (2015).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from scg.agents.common.agent import Agent
from scg.agents.common.on_policy import ActorCritic
from scg.agents.common.trust_region import assign, detached, distribution, divergence, fisher_product, flat, natural_step
from scg.agents.npg import Natural
from scg.agents.updates.metrics import Metrics
from scg.errors import GraphError
from scg.trace import Trace


@dataclass(frozen=True)
class TRPO(Natural):
    """Hyperparameters. The defaults are the published ones for MuJoCo."""

    backtrack: float = 0.8
    """each try is this much shorter than the one before"""
    tries: int = 10
    """step lengths to try"""

    def around(self, nets: ActorCritic, generator: Generator) -> Agent:
        def step(trace: Trace, parameters: Sequence[Tensor], gradient: Tensor, replay: Callable[[], Trace]) -> Metrics:
            now = distribution(trace, "action")
            change = natural_step(fisher_product(now, parameters, self.damping), gradient, self.kl, self.cg_iterations)
            before = detached(now)
            return line_search(parameters, change, before, replay, self.kl, self.backtrack, self.tries)

        return self.by(nets, generator, step)


@torch.no_grad()
def line_search(
    parameters: Sequence[Tensor],
    change: Tensor,
    before: torch.distributions.Distribution,
    replay: Callable[[], Trace],
    kl: float,
    backtrack: float = 0.8,
    tries: int = 10,
) -> Metrics:
    """Move by the longest of `change · backtrackʲ` that passes, or not at all (`step_size` 0)."""
    start = flat(parameters).clone()
    cost = importance_cost(replay())
    for j in range(tries):
        size = backtrack**j
        assign(parameters, start - size * change)
        try:
            trace = replay()
        except (GraphError, ValueError):  # so far that the policy is no distribution, or excludes what it did
            continue
        moved = float(divergence(before, distribution(trace, "action")))
        gained = cost - importance_cost(trace)
        if gained > 0 and moved <= kl:  # both fail on NaN
            return {"kl": moved, "step_size": size, "improvement": gained}
    assign(parameters, start)
    return {"kl": 0.0, "step_size": 0.0, "improvement": 0.0}


def importance_cost(trace: Trace) -> float:
    """`L(θ)`: the credit, weighed by the ratio of the policy to the one that recorded."""
    weight = trace.weight("action").factor
    assert weight is not None
    return float((weight.detach() * trace.credit("action")).mean())
