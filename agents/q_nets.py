"""Networks of the off-policy agents: action-value critics as one batched network, and actors that squash.

    critics(obs [*batch, obs…], action [*batch, dim]) → Q [*batch, count]         in reward units: the larger, the better
    policy(obs) → SquashedNormal                      actor(obs) → action [*batch, dim]

All of the critics, or of their targets, are one matrix product a layer: weights `[count, in, out]`. The count is an event
axis, the last one, so a pessimist's minimum is `.amin(-1)`. Both may be called with branches left of the batch.

Weights are uniform within ±1/√in (He et al. 2015, with the constant that published results of SAC and TD3 rest on).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Generator, Tensor, nn
from torch.nn.functional import relu

import scg
from scg.agents.affine import affine, weights
from scg.agents.envs import EnvironmentFault
from scg.agents.nets import Encoder, NumpyActor
from scg.agents.squashed import SquashedNormal

LOG_SCALES = (-20.0, 2.0)  # a policy's log-scale is clamped to these


def _uniform(parameter: Tensor, width: int, generator: Generator | None, gain: float = 1.0) -> None:
    nn.init.uniform_(parameter, -gain / math.sqrt(width), gain / math.sqrt(width), generator=generator)


class Rectified(nn.Module):
    """`sizes[0] → … → sizes[-1]`, rectified between layers; `[*batch, sizes[0]] → [*batch, sizes[-1]]`."""

    def __init__(self, sizes: Sequence[int], generator: Generator | None = None, last_gain: float = 1.0) -> None:
        super().__init__()
        # skip_init: Linear's own initialisation would draw from the global stream only to be overwritten.
        self.layers = nn.ModuleList(nn.utils.skip_init(nn.Linear, n, m) for n, m in pairwise(sizes))
        for layer, (n, _) in zip(self.layers, pairwise(sizes), strict=True):
            for parameter in layer.parameters():
                _uniform(parameter, n, generator, last_gain if layer is self.layers[-1] else 1.0)

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = weights(self.layers)
        for weight, bias in hidden:
            x = relu(affine(x, weight, bias))
        return affine(x, *last)

    def numpy(self) -> Callable[[np.ndarray], np.ndarray]:
        """`forward` on arrays, on views of the same memory: an optimiser's step shows in it."""
        *hidden, last = [(weight.detach().numpy(), bias.detach().numpy()) for weight, bias in weights(self.layers)]

        def forward(x: np.ndarray) -> np.ndarray:
            for weight, bias in hidden:
                x = x @ weight
                x += bias
                np.maximum(x, 0.0, out=x)
            return x @ last[0] + last[1]

        return forward


class SquashedPolicy(nn.Module):
    """`a = tanh(u), u ~ N(loc(obs), scale(obs)²)`: both from one network."""

    def __init__(self, encoder: Encoder, dim: int, hidden: Sequence[int], generator: Generator | None = None) -> None:
        super().__init__()
        self.encoder, self.dim = encoder, dim
        self.net = Rectified([encoder.features, *hidden, 2 * dim], generator)

    def forward(self, obs: Tensor) -> SquashedNormal:
        loc, log_scale = self.net(self.encoder(obs)).chunk(2, -1)
        return SquashedNormal(loc, log_scale.clamp(*LOG_SCALES))

    def noise(self, shape: Sequence[int], generator: Generator) -> np.ndarray:
        return torch.randn(*shape, self.dim, generator=generator).numpy()

    def numpy_actor(self) -> NumpyActor:
        net, encode, dim = self.net.numpy(), self.encoder.numpy(), self.dim

        def act(obs: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
            out = net(encode(obs))
            loc = out[..., :dim]
            return np.tanh(loc if noise is None else loc + np.exp(np.clip(out[..., dim:], *LOG_SCALES)) * noise)

        return act


class DeterministicPolicy(nn.Module):
    """`a = tanh(net(obs))`. Its noise, when it explores, is not its own: see `scg.agents.exploration`."""

    def __init__(
        self,
        encoder: Encoder,
        dim: int,
        hidden: Sequence[int],
        generator: Generator | None = None,
        last_gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.encoder, self.dim = encoder, dim
        self.net = Rectified([encoder.features, *hidden, dim], generator, last_gain)

    def forward(self, obs: Tensor) -> Tensor:
        return self.net(self.encoder(obs)).tanh()

    def noise(self, shape: Sequence[int], generator: Generator) -> np.ndarray:
        return np.zeros((*shape, 0), np.float32)

    def numpy_actor(self) -> NumpyActor:
        net, encode = self.net.numpy(), self.encoder.numpy()
        return lambda obs, noise: np.tanh(net(encode(obs)))


class _Layer(nn.Module):
    """`count` linear layers side by side."""

    def __init__(self, count: int, n: int, m: int, generator: Generator | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, n, m))
        self.bias = nn.Parameter(torch.empty(count, 1, m))
        for parameter in (self.weight, self.bias):
            _uniform(parameter, n, generator)

    def forward(self, x: Tensor) -> Tensor:
        """`[count, rows, n] → [count, rows, m]`"""
        return affine(x, self.weight, self.bias)


class QCritics(nn.Module):
    """`count` action values `[*batch, count]` of discounted reward."""

    def __init__(
        self, encoder: Encoder, dim: int, hidden: Sequence[int], count: int = 2, generator: Generator | None = None
    ) -> None:
        super().__init__()
        self.encoder, self.count = encoder, count
        sizes = [encoder.features + dim, *hidden, 1]
        self.layers = nn.ModuleList(_Layer(count, n, m, generator) for n, m in pairwise(sizes))

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        x = scg.cat([self.encoder(obs), action], -1)
        batch = x.shape[:-1]
        x = x.reshape(1, -1, x.shape[-1]).expand(self.count, -1, -1)  # [count, rows, features]
        for layer in self.layers[:-1]:
            x = relu(layer(x))
        return self.layers[-1](x).squeeze(-1).T.reshape(*batch, self.count)

    def first(self, obs: Tensor, action: Tensor) -> Tensor:
        """The first critic alone, `[*batch]`: half the work of taking it from `forward`."""
        x = scg.cat([self.encoder(obs), action], -1)
        *hidden, last = [(layer.weight[0], layer.bias[0, 0]) for layer in self.layers]  # type: ignore[index,union-attr]
        for weight, bias in hidden:
            x = relu(affine(x, weight, bias))
        return affine(x, *last).squeeze(-1)


class Temperature(nn.Module):
    """α = exp(log α), a positive number to learn."""

    def __init__(self, initial: float = 1.0) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(initial)))

    def forward(self) -> Tensor:
        return self.log.exp()


def frozen(module: nn.Module) -> nn.Module:
    """A copy that no gradient reaches: where a target starts."""
    return copy.deepcopy(module).requires_grad_(False)


def action_dim(space: gym.Space) -> int:
    """The number of continuous action dimensions. EnvironmentFault for any other space."""
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise EnvironmentFault(f"action space {space}: this agent needs continuous actions on one axis, a Box of shape (n,).")
    if not space.is_bounded():
        raise EnvironmentFault(f"action space {space}: this agent's actions are bounded. Wrap it in gymnasium's RescaleAction.")
    return space.shape[0]
