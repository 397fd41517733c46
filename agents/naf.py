"""NAF: Q-learning with continuous actions, from an advantage that is a parabola, so that its maximum is known.

    Q(obs, a) = V(obs) − ½ (a − μ(obs))ᵀ P(obs) (a − μ(obs)),     P = L Lᵀ, L lower triangular with a positive diagonal

    max_a Q(obs, a) = V(obs)  at  a = μ(obs)                      ∫ exp(Q(obs, a)) da = exp V(obs) · √((2π)ᵈ / det P)

    next_obs → target = reward + discount · V̄(next_obs)
    (obs, action) → q = Q(obs, action) → ⟨(q − target)²⟩          trains V, μ and P, which are one network; target detached

μ is bounded by tanh; it explores with Gaussian noise around it. V is in units of 1/(1 − γ), the size of returns: at the
start every value is off by about that much, and an optimiser that moves all outputs alike would sooner push μ into a corner
of the box, where tanh is flat, than V to its level.

Gu, Lillicrap, Sutskever & Levine (2016), "Continuous deep Q-learning with model-based acceleration".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
from torch import Generator, Tensor, nn

import scg
from scg.agents.common.off_policy import Algorithm, OffPolicy, bellman
from scg.agents.environments.action_spaces import action_dim
from scg.agents.execution.options import check_options
from scg.agents.experience.exploration import ActionNoise, NoisyActor
from scg.agents.networks.critics import target_copy
from scg.agents.networks.encoder import Encoder
from scg.agents.networks.mlp import ReLUNetwork
from scg.agents.networks.policy import NumpyActor

LOG_DIAGONAL = 3.0  # the logarithms of L's diagonal are squashed to ± this


class QuadraticCritic(nn.Module):
    """V `[*batch]`, μ `[*batch, dim]` and L `[*batch, dim, dim]` of an observation; as a policy it acts as μ."""

    def __init__(
        self, encoder: Encoder, dim: int, hidden: Sequence[int], generator: Generator | None = None, unit: float = 1.0
    ) -> None:
        super().__init__()
        self.encoder, self.dim, self.unit = encoder, dim, unit
        self.net = ReLUNetwork([encoder.features, *hidden, 1 + dim + dim * (dim + 1) // 2], generator)
        with torch.no_grad():  # V begins as small as it would without a unit
            for parameter in self.net.layers[-1].parameters():
                parameter[0] /= unit

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = self.net(self.encoder(obs))
        value, best, diagonal, below = out.split([1, self.dim, self.dim, self.dim * (self.dim - 1) // 2], -1)
        row, column = torch.tril_indices(self.dim, self.dim, -1, device=out.device)
        place = torch.zeros(len(row), self.dim * self.dim, dtype=out.dtype, device=out.device)
        place[torch.arange(len(row), device=out.device), row * self.dim + column] = 1.0
        lower = (below @ place).unflatten(-1, (self.dim, self.dim))
        bounded = LOG_DIAGONAL * (diagonal / LOG_DIAGONAL).tanh()
        return self.unit * value.squeeze(-1), best.tanh(), lower + bounded.exp().diag_embed()

    def best(self, obs: Tensor) -> Tensor:
        """argmax_a Q(obs, a) `[*batch, dim]`."""
        return self(obs)[1]

    def value(self, obs: Tensor) -> Tensor:
        """max_a Q(obs, a) `[*batch]`."""
        return self(obs)[0]

    def q(self, obs: Tensor, action: Tensor) -> Tensor:
        """Q(obs, action) `[*batch]`."""
        value, best, lower = self(obs)
        along = (lower.mT @ (action - best).unsqueeze(-1)).squeeze(-1)
        return value - along.square().sum(-1) / 2

    def noise(self, shape: Sequence[int], generator: Generator) -> np.ndarray:
        return np.zeros((*shape, 0), np.float32)

    def numpy_actor(self) -> NumpyActor:
        net, encode, dim = self.net.numpy(), self.encoder.numpy(), self.dim
        return lambda obs, noise: np.tanh(net(encode(obs))[..., 1 : 1 + dim])


def naf(critic: QuadraticCritic, target_critic: QuadraticCritic) -> scg.Graph:
    """Inputs: obs, action, reward, discount, next_obs."""
    graph = scg.Graph()

    @graph.deterministic
    def target(reward: Tensor, discount: Tensor, next_obs: Tensor) -> Tensor:
        return reward + discount * target_critic.value(next_obs)

    bellman(graph, critic, lambda obs, action: critic.q(obs, action).unsqueeze(-1))

    return graph


@dataclass(frozen=True)
class NAF(OffPolicy):
    """Hyperparameters."""

    lr: float = 1e-3
    """learning rate"""
    noise: float = 0.3
    """standard deviation of the exploration's Gaussian noise"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, at_least_zero="noise")

    def algorithm(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator) -> Algorithm:
        dim, encoder = action_dim(action_space), self.encoder(obs_space, generator)
        unit = 1 / max(1 - self.gamma, 1e-3)
        critic = QuadraticCritic(encoder(), dim, self.hidden, generator, unit)
        target_critic, noise = target_copy(critic), ActionNoise(dim, self.noise)
        return Algorithm(
            naf(critic, target_critic),  # type: ignore[arg-type]
            objectives={"bellman": critic},
            targets={target_critic: critic},
            policy=critic,
            behaviour=NoisyActor(critic, noise),
            state={"critic": critic, "target_critic": target_critic, "noise": noise},
        )
