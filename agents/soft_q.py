"""Soft Q-learning: an energy-based policy π ∝ exp(Q/α), however many modes it has, and a network that samples from it.

    V(obs) = α log ∫ exp(Q(obs, a)/α) da ≈ α log (2ᵈ/M Σ_m exp(Q(obs, a_m)/α)),    a_m ~ U(-1, 1)ᵈ

    next_obs → (proposed ~ U) → target = reward + discount · V̄(next_obs)
    (obs, action) → q = Q(obs, action) → ⟨Σ (q − target)² / 2⟩                       trains the critics, target detached
    obs → (noise ~ N(0, 1)) → [u = f(noise; obs)] → ⟨stein⟩, a = tanh u               trains the sampler f

The sampler is moved along Stein's variational gradient, amortised: the direction in which its K particles u_j come closest
to p(u) ∝ exp(Q(tanh u)/α) Π (1 − tanh² u), the policy before squashing,

    Δ_j = 1/K Σ_i κ(u_i, u_j) ∇_{u_i} log p(u_i) + ∇_{u_i} κ(u_i, u_j),      κ(u, v) = exp(−|u − v|² / h)

is what the cost's gradient carries back through f. h is the median squared distance over log (K + 1). On
the squashed side p does not vanish at the box's walls, and Stein's identity, which the direction rests on, would not hold.

The estimate of V is consistent, not unbiased: the logarithm of a mean of M.

Haarnoja, Tang, Abbeel & Levine (2017), "Reinforcement learning with deep energy-based policies"; Liu & Wang (2016), "Stein
variational gradient descent"; amortised: Feng, Wang & Liu (2017).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.distributions import Distribution, Independent, Normal, Uniform

import scg
from scg import detach
from scg.agents.common.off_policy import Algorithm, OffPolicy, bellman
from scg.agents.environments.action_spaces import action_dim
from scg.agents.execution.options import check_options
from scg.agents.networks.critics import QCritics, target_copy
from scg.agents.networks.encoder import Encoder
from scg.agents.networks.mlp import ReLUNetwork
from scg.agents.networks.policy import NumpyActor
from scg.agents.networks.squashed_normal import log_slope
from scg.estimators import NoGradient


class Sampler(nn.Module):
    """`u = f(noise; obs)`, `a = tanh u`: any distribution that a network can make of Gaussian noise."""

    def __init__(self, encoder: Encoder, dim: int, hidden: Sequence[int], generator: Generator | None = None) -> None:
        super().__init__()
        self.encoder, self.dim = encoder, dim
        self.net = ReLUNetwork([encoder.features + dim, *hidden, dim], generator)

    def forward(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Particles `[*batch, K, dim]` before squashing, from noise of that shape."""
        features = self.encoder(obs).unsqueeze(-2)
        return self.net(torch.cat([features.expand(*noise.shape[:-1], features.shape[-1]), noise], -1))

    def best(self, obs: Tensor) -> Tensor:
        """The action at the noise's mode."""
        features = self.encoder(obs)
        return self.net(torch.cat([features, features.new_zeros(*features.shape[:-1], self.dim)], -1)).tanh()

    def noise(self, shape: Sequence[int], generator: Generator) -> np.ndarray:
        return torch.randn(*shape, self.dim, generator=generator).numpy()

    def numpy_actor(self) -> NumpyActor:
        """Without noise it acts at the noise's mode, which is one action even where the policy has several modes."""
        net, encode, dim = self.net.numpy(), self.encoder.numpy(), self.dim

        def act(obs: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
            x = encode(obs)
            return np.tanh(net(np.concatenate([x, np.zeros((*x.shape[:-1], dim), x.dtype) if noise is None else noise], -1)))

        return act


def soft_value(q: Tensor, alpha: float, dim: int) -> Tensor:
    """`α log ∫ exp(Q/α)` over [-1, 1]ᵈ, from values `[*batch, M]` at points that are uniform there."""
    return alpha * ((q / alpha).logsumexp(-1) - math.log(q.shape[-1]) + dim * math.log(2.0))


def bandwidth(squared: Tensor) -> Tensor:
    """The median rule `[*batch, 1, 1]` from squared distances `[*batch, K, K]`: particles see about one neighbour each."""
    count = squared.shape[-1]
    off = ~torch.eye(count, dtype=torch.bool, device=squared.device)
    median = squared[..., off].median(-1).values if count > 1 else squared[..., 0, 0]
    return (median / math.log(count + 1.0)).clamp_min(1e-6)[..., None, None]


def squared_distances(u: Tensor, v: Tensor) -> Tensor:
    """`[*batch, i, j]` = |u_i − v_j|²."""
    return (u.unsqueeze(-2) - v.unsqueeze(-3)).square().sum(-1)


def soft_q(
    sampler: nn.Module,
    critics: nn.Module,
    target_critics: nn.Module,
    alpha: float,
    dim: int,
    particles: int = 16,
    proposals: int = 32,
) -> scg.Graph:
    """One critic or several, the least of them taken. Inputs: obs, action, reward, discount, next_obs."""
    graph = scg.Graph()

    def values(module: nn.Module, obs: Tensor, action: Tensor) -> Tensor:
        """`[*batch, K]` for K actions in each state."""
        among = obs.unsqueeze(action.ndim - 2)  # K stands right of the batch, left of what an observation is
        return module(among.expand(*action.shape[:-1], *among.shape[action.ndim - 1 :]), action).amin(-1)

    @graph.stochastic(NoGradient())
    def proposed(next_obs: Tensor) -> Distribution:
        one = next_obs.new_ones((*next_obs.shape[:1], proposals, dim), dtype=torch.get_default_dtype())
        return Independent(Uniform(-one, one), 2)

    @graph.deterministic
    def target(reward: Tensor, discount: Tensor, next_obs: Tensor, proposed: Tensor) -> Tensor:
        return reward + discount * soft_value(values(target_critics, next_obs, proposed), alpha, dim)

    bellman(graph, critics, half=True)

    @graph.stochastic(NoGradient())
    def noise(obs: Tensor) -> Distribution:
        zero = obs.new_zeros((*obs.shape[:1], particles, dim), dtype=torch.get_default_dtype())
        return Independent(Normal(zero, 1.0), 2)

    @graph.deterministic
    def u(obs: Tensor, noise: Tensor = detach("noise")) -> Tensor:
        return sampler(obs, noise)

    @graph.cost(trains=sampler)
    def stein(obs: Tensor, u: Tensor) -> Tensor:
        """Its gradient is −Σ_j Δ_j ∂u_j: the kernel carries each particle's slope to the others that move."""
        still = u.detach()
        squared = squared_distances(still, still)
        h = bandwidth(squared)
        kernel = (-squared / h).exp()
        carried = still + kernel @ (u - still) / particles  # still, in value
        density = values(critics, obs, carried.tanh()) / alpha + log_slope(carried).sum(-1)
        repulsion = (-squared_distances(still, u) / h).exp().sum((-1, -2)) / particles
        return repulsion - density.sum(-1)

    return graph


@dataclass(frozen=True)
class SoftQ(OffPolicy):
    """Hyperparameters."""

    alpha: float = 0.2
    """temperature: one over the published reward scale"""
    particles: int = 16
    """actions of each state that Stein's gradient moves together"""
    proposals: int = 32
    """uniform actions that estimate the integral in the value of each next state"""
    twin: bool = False
    """the smaller of two critics, in place of one"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, "particles proposals", above_zero="alpha")

    def algorithm(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator) -> Algorithm:
        dim, encoder = action_dim(action_space), self.encoder(obs_space, generator)
        sampler = Sampler(encoder(), dim, self.hidden, generator)
        critics = QCritics(encoder(), dim, self.hidden, 2 if self.twin else 1, generator)
        target_critics = target_copy(critics)
        return Algorithm(
            soft_q(sampler, critics, target_critics, self.alpha, dim, self.particles, self.proposals),
            objectives={"bellman": critics, "stein": sampler},
            targets={target_critics: critics},
            policy=sampler,
            behaviour=sampler,
            state={"policy": sampler, "critics": critics, "target_critics": target_critics},
        )
