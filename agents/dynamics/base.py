"""Dynamics that a gradient can pass: what an environment is to a graph, batched in torch.

    start ~ p(s_0)      obs = observe(s)      s' = f(s, a)  or  s' ~ p(·|s, a)      reward = r(s, a, s')

States are `[*batch, state]`, actions `[*batch, action]` in [−1, 1] as agents act, mapped to the environment's own bounds inside;
values beyond are clipped, with derivative 0. `transition` returns a tensor or a distribution, and declares by that what kind of
node it makes; nothing else of a graph depends on which dynamics it holds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn
from torch.distributions import Distribution, Independent, Normal

import scg
from scg import Estimator, prev
from scg.estimators import Pathwise


class Dynamics(nn.Module):
    """The base class. A subclass sets the sizes and says `start`, `transition` and `reward`."""

    state_size: int
    obs_size: int
    action_size: int
    horizon: int = 200
    """steps of an episode"""
    stochastic: bool = False
    """whether `transition` returns a distribution"""

    def start(self, batch: int, generator: Generator | None = None) -> Tensor:
        """First states `[batch, state]`, drawn as the environment's reset draws them."""
        raise NotImplementedError(f"{type(self).__name__} must define start(batch, generator)")

    def transition(self, state: Tensor, action: Tensor) -> Tensor | Distribution:
        """The next state, or its distribution."""
        raise NotImplementedError(f"{type(self).__name__} must define transition(state, action)")

    def observe(self, state: Tensor) -> Tensor:
        """`[*batch, state] → [*batch, obs]`; by default the state itself."""
        return state

    def reward(self, state: Tensor, action: Tensor, after: Tensor) -> Tensor:
        """`[*batch]`, of the step from `state` to `after`."""
        raise NotImplementedError(f"{type(self).__name__} must define reward(state, action, after)")

    def ended(self, state: Tensor) -> Tensor:
        """Where an episode ends in the process, `[*batch]` bool; by default nowhere."""
        return torch.zeros(state.shape[:-1], dtype=torch.bool, device=state.device)


def simulate(
    graph: scg.Graph,
    dynamics: Dynamics,
    policy: nn.Module,
    action: Estimator | None = None,
    noise: Estimator | None = None,
) -> None:
    """Declare an environment and who acts in it: the node `start` and, along time, `obs`, `action`, `state` and `reward`.

        start → obs_t = observe(state_{t−1}) → (action_t ~ π) → state_t ← state_{t−1}, action_t → reward_t

    `action` and `noise` are the estimators of the policy's and of the transition's randomness, pathwise by default.
    """
    before = prev("state", init="start")
    graph.observed("start")
    with graph.sequence():
        graph.deterministic(dynamics.observe, name="obs", parents=[before])
        graph.stochastic(action or Pathwise(smooth=True), policy, name="action", parents=["obs"])
        if dynamics.stochastic:
            graph.stochastic(noise or Pathwise(), dynamics.transition, name="state", parents=[before, "action"])
        else:
            graph.deterministic(dynamics.transition, name="state", parents=[before, "action"])
        graph.deterministic(dynamics.reward, name="reward", parents=[before, "action", "state"])


def gaussian(mean: Tensor, scale: Tensor) -> Distribution:
    """N(mean, diag(scale²)) over the last axis."""
    return Independent(Normal(mean, scale.expand_as(mean), validate_args=False), 1, validate_args=False)


def uniform(low: Sequence[float], high: Sequence[float], batch: int, generator: Generator | None) -> Tensor:
    """`[batch, len(low)]`, independent and uniform between the bounds."""
    bounds = torch.tensor([low, high], dtype=torch.get_default_dtype())
    return bounds[0] + (bounds[1] - bounds[0]) * torch.rand(batch, len(low), generator=generator)
