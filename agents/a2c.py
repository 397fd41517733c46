"""A2C: the policy gradient with a critic's advantages, one step on every short block of many environments.

    obs_t → (action_t ~ π) → reward_t                ∇ = mean_t A_t ∇ log π(action_t|obs_t)
    obs_t → value_t → ⟨(value_t − target_t)²⟩        target_t = A_t + value_t, recorded
    obs_t ┄→ ⟨−η entropy(π)⟩                         ┄→ has no gradient: no part of the return

A_t is GAE(γ, λ) in cost units: λ = 1 is the n-step return of the block, less the critic. The critic stands in for what
follows the block, a bias that vanishes as it learns; as a baseline it has none. RMSprop, as in the original.

Mnih et al. (2016), synchronous; Schulman et al. (2016) for A_t.
"""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium as gym
import torch
from torch import Generator, Tensor, nn
from torch.distributions import Distribution

import scg
from agents.actor_critic import ActorCritic, OnPolicy, advantages, predicted, world
from agents.agent import Agent, Metrics, check_options, explained_variance
from agents.descent import Descent, RMSprop
from agents.rollout import Block
from estimators import ScoreFunction
from scg import detach
from scg.credit import Credit


def a2c(
    policy: nn.Module, value: nn.Module, credit: Credit, entropy_bonus: float = 0.0, value_weight: float = 0.5
) -> scg.Graph:
    graph = scg.Graph()
    with graph.sequence(first="first"):
        world(graph, value)

        @graph.stochastic(ScoreFunction(), credit=credit)
        def action(obs: Tensor) -> Distribution:
            return policy(obs)

        @graph.reward(trains=policy)
        def gain(reward: Tensor) -> Tensor:
            return reward

        @graph.cost(trains=value)
        def regression(value: Tensor, target: Tensor = detach("target")) -> Tensor:
            return value_weight * (value - target).square()

        if entropy_bonus:

            @graph.reward(trains=policy)
            def entropy(obs: Tensor = detach("obs")) -> Tensor:
                return entropy_bonus * policy(obs).entropy()

    return graph


@dataclass(frozen=True)
class A2C(OnPolicy):
    """Hyperparameters. The defaults are the published ones for MuJoCo, with 16 environments."""

    horizon: int = 5
    """time steps of each block, in every environment"""
    lr: float = 7e-4
    """learning rate, falling linearly to zero"""
    entropy_bonus: float = 0.01
    """weight of the entropy"""
    value_weight: float = 0.5
    """weight of the critic's regression; matters to the clipping of the common gradient only"""
    max_grad_norm: float = 0.5
    """longer gradients are shortened to this"""
    standardise: bool = False
    """standardise the advantages of each block"""
    compile: bool = False
    """compile the update: worth it for long runs only"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, at_least_zero="lr entropy_bonus value_weight max_grad_norm")

    def build(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator) -> Agent:
        nets = ActorCritic(self, obs_space, action_space, generator)
        policy, value = nets.policy, nets.value
        graph = a2c(policy, value, self.credit(), self.entropy_bonus, self.value_weight)
        rmsprop = RMSprop([*policy.parameters(), *value.parameters()], self.max_grad_norm)
        costs = ["gain", "regression", *["entropy"] * bool(self.entropy_bonus)]
        descent = Descent(graph, costs, rmsprop, self.compile)

        def update(block: Block, progress: float) -> Metrics:
            rmsprop.rate.fill_(self.lr * (1 - progress))
            rows = advantages(graph, value, nets.recording(block), self.standardise)
            metrics = {
                "explained_variance": explained_variance(predicted(value, rows), rows["target"]),
                "grad_norm": descent.epoch(rows, [torch.arange(block.steps)], self.whole(block)),
                "entropy": float(-block.log_prob.mean()),
            }
            nets.after(block)
            return metrics

        return Agent(graph, policy, nets.collect, update, {**nets.state, "rmsprop": rmsprop})
