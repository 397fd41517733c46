"""SVG(k): value gradients along k recorded steps, through a learned model at what really happened.

    recorded   (s_0, a_0, s_1, …, s_k)      a_t = π(s_t; η_t, θ),   s_{t+1} = f(s_t, a_t; ξ_t)      η, ξ inferred from the record

    start → (action_t) → (state_t) → ⟨−γ^t reward_t⟩,  t < k;   state_{k−1} → ⟨γ^k V̄⟩         trains the policy
    obs → ⟨(V(obs) − target)²⟩          target = Σ_{t<k} γ^t cost_t + γ^k V̄ of a roll-out in the model under the present policy

The values along the path are those of the record, whatever the model predicts: it gives derivatives only, so that its errors do not
add up along the path (SVG(1) on replayed data, the paper's best). It is SHAC's graph, replayed. k = 0 needs no model and is the agent
`svg`; k = an episode's length is SVG(∞). Recorded actions that the present policy would not take count as if it did: no ratio π/μ.

Heess et al. (2015), "Learning continuous control policies by stochastic value gradients".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
from torch import Generator, Tensor

from scg.agents.common.agent import Agent, OptionError, Stateful, check_options
from scg.agents.common.model_based import LearnedWorld, ModelBased
from scg.agents.dynamics import LEARNED
from scg.agents.experience.rollout import Experience, Rollout
from scg.agents.networks.critics import target_copy, value_critic
from scg.agents.shac import regression, shac
from scg.agents.updates.factory import Updates
from scg.agents.updates.metrics import Metrics
from scg.agents.updates.optimiser import Adam


@dataclass(frozen=True)
class SVGK(ModelBased):
    """Hyperparameters."""

    k: int = 1
    """steps along which the gradient goes through the model"""
    value_lr: float = 2e-3
    """learning rate of the critic"""
    tau: float = 0.02
    """share of the way that the critic's target goes at each update"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, "", "value_lr", "tau")
        if self.k < 1:
            raise OptionError(
                f"option k is {self.k}. Give at least 1; with 0 there is no model to learn: that is the agent svg."
            )
        if self.dynamics != LEARNED:
            raise OptionError(
                f"option dynamics is {self.dynamics!r}: svg-k learns its model from what it replays. Known dynamics: shac, bptt."
            )

    def agent(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator, updates: Updates) -> Agent:
        policy = self.policy(obs_space, action_space, generator)
        world = LearnedWorld(self, obs_space, action_space, generator)
        model, memory = world.model, world.memory
        assert memory is not None
        value = value_critic(obs_space, self.hidden, generator, 0.25 / (1 - self.gamma) if self.gamma < 1 else 1.0)
        target_value = target_copy(value)
        graph, fit = shac(policy, target_value, model), regression(value)
        actor = Adam(policy.parameters(), self.max_grad_norm, eps=1e-8)
        critic = Adam(value.parameters(), 1.0, eps=1e-8)
        weight, after = self.gamma ** torch.arange(float(self.k))[:, None], self.gamma**self.k

        def step() -> Tensor:
            rows = memory.windows(self.k, self.batch, world.generator)
            start = model.state(rows["obs"][0])
            given = {"action": rows["action"], "state": model.state(rows["next_obs"], rows["reward"])}
            trace = graph.replay({**given, "start": start, "weight": weight}, after=after)
            norm = actor.step(list(torch.autograd.grad(trace.surrogate("gain", "tail"), actor.parameters)))
            with torch.no_grad():
                ahead = graph.sample(start=start, weight=weight, after=after, generator=world.generator)
                target = ahead["gain"].sum(0) + ahead["tail"]
            loss = fit.surrogate(obs=rows["obs"][0], target=target)
            critic.step(torch.autograd.grad(loss, critic.parameters))
            with torch.no_grad():
                torch._foreach_lerp_(list(target_value.parameters()), list(value.parameters()), self.tau)
            return torch.stack([norm, loss.detach()])

        def collect(rollout: Rollout, steps_left: int) -> Experience:
            return world.collect(rollout, policy, steps_left, 0)

        def update(experience: Any, progress: float) -> Metrics:
            found = world.learn(experience)
            actor.rate.fill_(self.rate(progress)), critic.rate.fill_(self.value_lr * max(1 - progress, 0.05))
            norm, loss = torch.stack([step() for _ in range(self.updates)]).mean(0).tolist()
            return {**found, "grad_norm": norm, "value_loss": loss}

        modules = {"policy": policy, "value": value, "target_value": target_value}
        state: dict[str, Stateful] = {**modules, "actor_optimiser": actor, "critic_optimiser": critic, **world.state}
        return Agent(graph, policy, collect, update, state, memory)
