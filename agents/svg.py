"""SVG(0): a stochastic policy trained through its action values' slope, without an entropy.

    next_obs → (next_action ~ π) → target = reward + discount · min Q̄(next_obs, next_action)
    (obs, action) → q = Q(obs, action) → ⟨Σ (q − target)² / 2⟩          trains the critics, target detached
    obs → (new_action ~ π) → ⟨−min Q(obs, new_action)⟩                  trains the actor, through the critics

    ∇ E[Q(obs, g(ε; obs, θ))] = E[∇_θ g(ε; obs, θ) ∇_a Q(obs, a)],   a = g(ε; obs, θ) = tanh(loc(obs) + σ ε)

With σ = 0 it is the deterministic gradient of DDPG, with an entropy SAC. The policy's noise σ is a setting: nothing in the
objective would keep a learned one from going to zero.

Heess et al. (2015), "Learning continuous control policies by stochastic value gradients".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.distributions import Distribution

import scg
from scg import Estimator
from scg.agents.common.off_policy import Algorithm, OffPolicy, bellman
from scg.agents.environments.action_spaces import action_dim
from scg.agents.execution.options import OptionError
from scg.agents.networks.critics import QCritics, target_copy
from scg.agents.networks.encoder import Encoder
from scg.agents.networks.mlp import ReLUNetwork
from scg.agents.networks.policy import NumpyActor
from scg.agents.networks.squashed_normal import SquashedNormal
from scg.estimators import NoGradient, Pathwise


class SteadyPolicy(nn.Module):
    """`a = tanh(loc(obs) + scale · ε)`: noise of one size everywhere and always."""

    def __init__(
        self, encoder: Encoder, dim: int, hidden: Sequence[int], scale: float, generator: Generator | None = None
    ) -> None:
        super().__init__()
        self.encoder, self.dim, self.scale = encoder, dim, scale
        self.net = ReLUNetwork([encoder.features, *hidden, dim], generator)

    def forward(self, obs: Tensor) -> SquashedNormal:
        loc = self.net(self.encoder(obs))
        return SquashedNormal(loc, torch.full_like(loc, math.log(self.scale)))

    def noise(self, shape: Sequence[int], generator: Generator) -> np.ndarray:
        return self.scale * torch.randn(*shape, self.dim, generator=generator).numpy()

    def numpy_actor(self) -> NumpyActor:
        net, encode = self.net.numpy(), self.encoder.numpy()
        return lambda obs, noise: np.tanh(net(encode(obs)) if noise is None else net(encode(obs)) + noise)


def svg(policy: nn.Module, critics: nn.Module, target_critics: nn.Module, actor: Estimator | None = None) -> scg.Graph:
    """One critic or several. Inputs: obs, action, reward, discount, next_obs."""
    graph = scg.Graph()

    @graph.stochastic(NoGradient())
    def next_action(next_obs: Tensor) -> Distribution:
        return policy(next_obs)

    @graph.deterministic
    def target(reward: Tensor, discount: Tensor, next_obs: Tensor, next_action: Tensor) -> Tensor:
        return reward + discount * target_critics(next_obs, next_action).amin(-1)

    bellman(graph, critics, half=True)

    @graph.stochastic(actor or Pathwise(smooth=True))
    def new_action(obs: Tensor) -> Distribution:
        return policy(obs)

    @graph.reward(trains=policy)
    def gain(obs: Tensor, new_action: Tensor) -> Tensor:
        return critics(obs, new_action).amin(-1)

    return graph


@dataclass(frozen=True)
class SVG(OffPolicy):
    """Hyperparameters."""

    noise: float = 0.2
    """standard deviation of the policy's noise before tanh, in training and in the objective"""
    twin: bool = False
    """the smaller of two critics, in place of one"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.noise > 0:
            raise OptionError(f"option noise is {self.noise}. Give a number above 0; without noise it is ddpg.")

    def algorithm(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator) -> Algorithm:
        dim, encoder = action_dim(action_space), self.encoder(obs_space, generator)
        policy = SteadyPolicy(encoder(), dim, self.hidden, self.noise, generator)
        critics = QCritics(encoder(), dim, self.hidden, 2 if self.twin else 1, generator)
        target_critics = target_copy(critics)
        return Algorithm(
            svg(policy, critics, target_critics),
            objectives={"bellman": critics, "gain": policy},
            targets={target_critics: critics},
            policy=policy,
            behaviour=policy,
            state={"policy": policy, "critics": critics, "target_critics": target_critics},
        )
