"""BPTT: the policy gradient by backpropagation through time, through dynamics that are known or learned.

    start → (action_t ~ π(·|observe(state_{t−1}))) → state_t = f(state_{t−1}, action_t) → ⟨−γ^t reward_t⟩

    sample start and noise → roll out → backpropagate → average over roll-outs → step

The gradient is pathwise all along: ∇ E[Σ γ^t r_t] = E[∇ Σ γ^t r_t(start, noise, θ)]. It is exact where the rewards are continuous along
a path; ends of episodes, and contacts at which a state jumps, it does not see. `window` cuts the path: within every so many steps
the gradient is whole, and none goes from one window to the next. That is biased, and has a variance that does not grow with the
horizon (where the dynamics are unstable, the whole path's grows exponentially).

Werbos (1990); Heess et al. (2015), SVG(∞) with known dynamics; Deisenroth & Rasmussen (2011) with a learned one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
from torch import Generator, Tensor, nn

import scg
from scg.agents.common.agent import Agent, Stateful, check_options
from scg.agents.common.model_based import ModelBased
from scg.agents.dynamics.base import Dynamics, simulate
from scg.agents.experience.rollout import Experience, Rollout
from scg.agents.updates.factory import Updates
from scg.agents.updates.metrics import Metrics
from scg.agents.updates.optimiser import Adam
from scg.estimator import Estimator


def bptt(policy: nn.Module, dynamics: Dynamics, action: Estimator | None = None, noise: Estimator | None = None) -> scg.Graph:
    """Observed: start `[batch, state]`, weight `[time, 1]`: γ^t."""
    graph = scg.Graph()
    simulate(graph, dynamics, policy, action, noise)
    with graph.sequence():
        graph.observed("weight")
        graph.reward(lambda reward, weight: weight * reward, name="gain")

    return graph


@dataclass(frozen=True)
class BPTT(ModelBased):
    """Hyperparameters."""

    horizon: int = 50
    """steps of a roll-out"""
    window: int = 0
    """steps that the gradient goes back; 0: all of them"""
    checkpoint: int = 0
    """save memory: keep the activations of every so many steps only, and compute the others twice; 0 keeps all"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, "horizon", "window checkpoint")

    def agent(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator, updates: Updates) -> Agent:
        policy = self.policy(obs_space, action_space, generator)
        world = self.world(obs_space, action_space, generator)
        graph = bptt(policy, world.dynamics)
        optimiser = Adam(policy.parameters(), self.max_grad_norm, eps=1e-8)
        weight = self.gamma ** torch.arange(float(self.horizon))[:, None]
        settings: dict[str, Any] = {"checkpoint": self.checkpoint} if self.checkpoint else {}

        def step() -> Tensor:
            """One update: the gradient's norm, and the discounted cost of a roll-out."""
            start, total = world.start(self.batch), torch.zeros(())
            gradients = [torch.zeros_like(p) for p in optimiser.parameters]
            for part in weight.split(self.window or self.horizon):
                trace = graph.sample(start=start, weight=part, generator=world.generator, **settings)
                cost = trace.surrogate("gain")
                torch._foreach_add_(gradients, torch.autograd.grad(cost, optimiser.parameters))
                start, total = trace["state"][-1].detach(), total + cost.detach()
            return torch.stack([optimiser.step(gradients), total])

        def collect(rollout: Rollout, steps_left: int) -> Experience:
            return world.collect(rollout, policy, steps_left, self.batch * self.horizon)

        def update(experience: Experience, progress: float) -> Metrics:
            found = world.learn(experience)
            optimiser.rate.fill_(self.rate(progress))
            norm, cost = torch.stack([step() for _ in range(world.rounds(experience))]).mean(0).tolist()
            return {**found, "grad_norm": norm, "simulated_cost": cost}

        state: dict[str, Stateful] = {"policy": policy, "optimiser": optimiser, **world.state}
        return Agent(graph, policy, collect, update, state, world.memory)
