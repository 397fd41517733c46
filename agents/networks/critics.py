"""Critics: the cost-to-go of a state, and action values of which several are one batched network.

    value(obs [*batch, obs…]) → cost-to-go [*batch]                               in cost units, minus the return
    critics(obs [*batch, obs…], action [*batch, dim]) → Q [*batch, count]         in reward units: the larger, the better

All action-value critics, or all of their targets, are one matrix product a layer: weights `[count, in, out]`. The count is an
event axis, the last one, so the smaller of two critics is `.amin(-1)`. They may be called with branches left of the batch.

Weights of action-value critics are uniform within ±1/√in (He et al. 2015, with the constant that published results of SAC and TD3 rest on).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import gymnasium as gym
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import relu

import scg
from scg.agents.networks.encoder import Encoder
from scg.agents.networks.linear import linear
from scg.agents.networks.mlp import MLP, uniform_within
from scg.agents.networks.networks import make_network
from scg.agents.networks.normalisers import ObsNormaliser
from scg.agents.networks.recurrent import MemoryReader


class ValueCritic(nn.Module):
    """Predicted discounted cost-to-go `[*batch]`, `scale` × network: costs of size 1 sum to about `1/(1-γ)`."""

    def __init__(self, encoder: Any, hidden: Sequence[int], generator: Generator | None = None, scale: float = 1.0) -> None:
        super().__init__()
        self.encoder, self.scale = encoder, scale
        self.mlp = MLP([encoder.features, *hidden, 1], 1.0, generator)

    def forward(self, obs: Tensor) -> Tensor:
        return self.scale * self.mlp(self.encoder(obs)).squeeze(-1)


def value_critic(
    obs: gym.Space,
    hidden: Sequence[int],
    generator: Generator | None = None,
    scale: float = 1.0,
    normaliser: ObsNormaliser | None = None,
    network: str = "mlp",
    features: int = 128,
    memory: nn.Module | None = None,
) -> ValueCritic:
    """The state-value critic for an observation space, behind a network of `make_network`, or a head on a policy's `memory`."""
    if memory is None:
        return ValueCritic(make_network(network, obs, features, generator, normaliser), hidden, generator, scale)
    critic = ValueCritic(MemoryReader(memory), hidden, generator, scale)  # type: ignore[arg-type]
    critic.memory = memory
    return critic


class CriticLayer(nn.Module):
    """`count` linear layers side by side."""

    def __init__(self, count: int, n: int, m: int, generator: Generator | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, n, m))
        self.bias = nn.Parameter(torch.empty(count, 1, m))
        for parameter in (self.weight, self.bias):
            uniform_within(parameter, n, generator)

    def forward(self, x: Tensor) -> Tensor:
        """`[count, rows, n] → [count, rows, m]`"""
        return linear(x, self.weight, self.bias)


class QCritics(nn.Module):
    """`count` action values `[*batch, count]` of discounted reward."""

    def __init__(
        self,
        encoder: Encoder,
        dim: int,
        hidden: Sequence[int],
        count: int = 2,
        generator: Generator | None = None,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        self.encoder, self.count = encoder, count
        sizes = [encoder.features + dim, *hidden, outputs]
        self.layers = nn.ModuleList(CriticLayer(count, n, m, generator) for n, m in pairwise(sizes))

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        out, batch = self.outputs(obs, action)
        return out.squeeze(-1).T.reshape(*batch, self.count)

    def outputs(self, obs: Tensor, action: Tensor) -> tuple[Tensor, torch.Size]:
        """What the last layers give, `[count, rows, outputs]`, and the batch that the rows are."""
        x = scg.cat([self.encoder(obs), action], -1)
        batch = x.shape[:-1]
        x = x.reshape(1, -1, x.shape[-1]).expand(self.count, -1, -1)  # [count, rows, features]
        for layer in self.layers[:-1]:
            x = relu(layer(x))
        return self.layers[-1](x), batch

    def first(self, obs: Tensor, action: Tensor) -> Tensor:
        """The first critic alone, `[*batch]`: half the work of taking it from `forward`."""
        x = scg.cat([self.encoder(obs), action], -1)
        *hidden, last = [(layer.weight[0], layer.bias[0, 0]) for layer in self.layers]  # type: ignore[index,union-attr]
        for weight, bias in hidden:
            x = relu(linear(x, weight, bias))
        return linear(x, *last).squeeze(-1)


class Temperature(nn.Module):
    """α = exp(log α), a positive number to learn."""

    def __init__(self, initial: float = 1.0) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(initial)))

    def forward(self) -> Tensor:
        return self.log.exp()


def target_copy(module: nn.Module) -> nn.Module:
    """A copy that no gradient reaches: where a target starts. Statistics of observations are shared, not copied."""
    shared = {id(part): part for part in module.modules() if isinstance(part, ObsNormaliser)}
    return copy.deepcopy(module, shared).requires_grad_(False)
