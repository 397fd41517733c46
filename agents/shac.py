"""SHAC: short roll-outs through differentiable dynamics, a critic for what comes after them.

    start → (action_t ~ π) → state_t = f(state_{t−1}, action_t) → ⟨−γ^t reward_t⟩,  t < h          trains the policy
                                    state_{h−1} → ⟨γ^h V̄(obs)⟩                                     trains it too, through V̄
    obs → value = V(obs) → ⟨(value − target)²⟩           trains the critic;  target_t = cost_t + γ ((1 − λ) V̄_{t+1} + λ target_{t+1})

BPTT through h steps has a gradient of bounded variance; the critic makes good what follows, and is smooth where the dynamics may not
be. Its error is the only bias where rewards and states are continuous along a path. Simulations go on from one update to the next,
and start anew when an episode's length is over; with learned dynamics every roll-out starts from a recorded observation, as MBPO's
branches do. V̄ follows V slowly.

Xu et al. (2022), "Accelerated policy learning with parallel differentiable simulation"; Clavera, Fu & Abbeel (2020), MAAC, with a
learned model; Janner et al. (2019), MBPO, for the branches.
"""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium as gym
import torch
from torch import Generator, Tensor, nn

import scg
from scg import scan
from scg.agents.bptt import bptt
from scg.agents.common.agent import Agent, Stateful, check_options
from scg.agents.common.model_based import ModelBased, World
from scg.agents.dynamics.base import Dynamics
from scg.agents.experience.rollout import Experience, Rollout
from scg.agents.networks.critics import target_copy, value_critic
from scg.agents.updates.factory import Updates
from scg.agents.updates.metrics import Metrics, explained_variance
from scg.agents.updates.optimiser import Adam


def shac(policy: nn.Module, target_value: nn.Module, dynamics: Dynamics) -> scg.Graph:
    """Observed: start `[batch, state]`, weight `[time, 1]`: γ^t; input: after, γ^h."""
    graph = bptt(policy, dynamics)

    @graph.cost
    def tail(state: Tensor, after: float) -> Tensor:
        return after * target_value(dynamics.observe(state))

    return graph


def regression(value: nn.Module) -> scg.Graph:
    """Inputs: obs `[rows, obs]`, target `[rows]`."""
    graph = scg.Graph()
    graph.cost(lambda obs, target: (value(obs) - target).square(), name="regression", trains=value)
    return graph


@dataclass(frozen=True)
class SHAC(ModelBased):
    """Hyperparameters."""

    horizon: int = 32
    """steps of a roll-out"""
    life: int = 0
    """known dynamics: steps after which a simulation starts anew; 0: an episode's"""
    lam: float = 0.95
    """λ of the critic's targets"""
    value_lr: float = 2e-3
    """learning rate of the critic"""
    value_steps: int = 8
    """steps of the critic after each of the policy's, on a quarter of the roll-outs each"""
    tau: float = 0.2
    """share of the way that the critic's target goes after them"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, "horizon value_steps", "value_lr life", "lam tau")

    def agent(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator, updates: Updates) -> Agent:
        policy = self.policy(obs_space, action_space, generator)
        world = self.world(obs_space, action_space, generator)
        scale = 0.25 / (1 - self.gamma) if self.gamma < 1 else 1.0  # costs of size 1 sum to 1 / (1 − γ)
        value = value_critic(obs_space, self.hidden, generator, scale)
        target_value = target_copy(value)
        graph, fit = shac(policy, target_value, world.dynamics), regression(value)
        actor = Adam(policy.parameters(), self.max_grad_norm, eps=1e-8)
        critic = Adam(value.parameters(), 1.0, eps=1e-8)
        weight = self.gamma ** torch.arange(float(self.horizon))[:, None]
        running = Simulations(world, self.batch, self.horizon, self.life or world.dynamics.horizon)

        def step() -> Tensor:
            trace = graph.sample(
                start=running.state(), weight=weight, after=self.gamma**self.horizon, generator=world.generator
            )
            gradients = torch.autograd.grad(trace.surrogate("gain", "tail"), actor.parameters)
            norm = actor.step(list(gradients))
            obs, cost = trace["obs"].detach(), -trace["reward"].detach()
            running.went_on(trace["state"][-1].detach())
            with torch.no_grad():
                after = target_value(torch.cat([obs[1:], world.dynamics.observe(running.last)[None]]))
            target = lambda_targets(cost, after, self.gamma, self.lam)
            explained = explained_variance(value(obs).detach(), target)
            for _ in range(self.value_steps):
                rows = torch.randint(target.numel(), (max(1, target.numel() // 4),), generator=world.generator)
                loss = fit.surrogate(obs=obs.flatten(0, 1)[rows], target=target.flatten()[rows])
                critic.step(torch.autograd.grad(loss, critic.parameters))
            with torch.no_grad():
                torch._foreach_lerp_(list(target_value.parameters()), list(value.parameters()), self.tau)
            return torch.stack([norm, cost.mean(), torch.tensor(explained)])

        def collect(rollout: Rollout, steps_left: int) -> Experience:
            return world.collect(rollout, policy, steps_left, self.batch * self.horizon)

        def update(experience: Experience, progress: float) -> Metrics:
            found = world.learn(experience)
            actor.rate.fill_(self.rate(progress)), critic.rate.fill_(self.value_lr * max(1 - progress, 0.05))
            means = torch.stack([step() for _ in range(world.rounds(experience))]).mean(0).tolist()
            return {**found, **dict(zip(("grad_norm", "simulated_cost", "explained_variance"), means, strict=True))}

        modules = {"policy": policy, "value": value, "target_value": target_value}
        state: dict[str, Stateful] = {
            **modules,
            "actor_optimiser": actor,
            "critic_optimiser": critic,
            "simulations": running,
            **world.state,
        }
        return Agent(graph, policy, collect, update, state, world.memory)


def lambda_targets(cost: Tensor, after: Tensor, gamma: float, lam: float) -> Tensor:
    """`y_t = cost_t + γ ((1 − λ) after_t + λ y_{t+1})`, `[time, batch]`; the last one's continuation is `after` alone."""
    mix = torch.full_like(cost, gamma * lam)
    mix[-1] = 0.0
    return scan.affine(mix, cost + (gamma - mix) * after)


class Simulations:
    """Where each simulation stands, and for how long it has run. They begin at different ages, so as not to end together."""

    def __init__(self, world: World, batch: int, horizon: int, life: int) -> None:
        self.world, self.batch, self.horizon, self.life = world, batch, horizon, life
        self.last: Tensor = torch.zeros(0)
        self.age = torch.arange(batch) * life // batch

    def state(self) -> Tensor:
        """Where the next roll-outs start `[batch, state]`."""
        if not len(self.last):
            self.last = self.world.start(self.batch)
            return self.last
        over = (self.age >= self.life) | self.world.dynamics.ended(self.last)
        self.last = torch.where(over[:, None], self.world.start(self.batch), self.last)
        self.age[over] = 0
        return self.last

    def went_on(self, last: Tensor) -> None:
        self.last = last
        self.age += self.horizon

    def state_dict(self) -> dict[str, Tensor]:
        return {"last": self.last, "age": self.age}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.last, self.age = state["last"].clone(), state["age"].clone()
