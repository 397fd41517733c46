"""Policies and critics: multilayer perceptrons whose forward returns what the graph needs.

    policy(obs [*batch, obs…]) → Distribution        critic(obs [*batch, obs…]) → cost-to-go [*batch]

A policy is a module returning a torch `Distribution`, as in zuko, so a stochastic node is `lambda obs: policy(obs)`.
A critic predicts **cost**-to-go, minus the return: it enters a graph as it is, with no sign to remember.

Weights are orthogonal (Saxe et al. 2014): gain √2 inside, small in a policy's last layer (nearly uniform at first) and
1 in a critic's (Engstrom et al. 2020, Andrychowicz et al. 2021, on why this matters in policy gradients).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol, TypeGuard, cast

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Generator, Tensor, nn
from torch.distributions import Categorical, Independent, Normal

from scg.agents.affine import affine, weights
from scg.agents.goal_space import GoalSpace
from scg.agents.normalise import ObsNormaliser

SMALL = 0.01  # gain of a policy's last layer


def float_type() -> np.dtype:
    """numpy's name for torch's default float type, in which nets and blocks are made."""
    return np.dtype(str(torch.get_default_dtype()).removeprefix("torch."))


class MLP(nn.Module):
    """`sizes[0] → … → sizes[-1]`, tanh between layers; `[*batch, sizes[0]] → [*batch, sizes[-1]]`."""

    def __init__(self, sizes: Sequence[int], last_gain: float = 1.0, generator: Generator | None = None) -> None:
        super().__init__()
        # skip_init: Linear's own initialisation would draw from the global stream only to be overwritten.
        self.layers = nn.ModuleList(nn.utils.skip_init(nn.Linear, n, m) for n, m in pairwise(sizes))
        for i, layer in enumerate(self.layers):
            gain = last_gain if i == len(self.layers) - 1 else math.sqrt(2)
            nn.init.orthogonal_(cast(Tensor, layer.weight), gain, generator=generator)
            nn.init.zeros_(cast(Tensor, layer.bias))

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = weights(self.layers)
        for weight, bias in hidden:
            x = affine(x, weight, bias).tanh()
        return affine(x, *last)

    def weights(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """`(weightᵀ, bias)` of each layer as numpy views of the same memory: an optimiser's step shows in them."""
        return [(weight.detach().numpy(), bias.detach().numpy()) for weight, bias in weights(self.layers)]


def forward_numpy(weights: Sequence[tuple[np.ndarray, np.ndarray]], x: np.ndarray) -> np.ndarray:
    """`MLP.forward` without tensors: for a handful of rows a step of acting costs 10 µs in place of 100."""
    *hidden, (last, last_bias) = weights
    for weight, bias in hidden:
        x = np.dot(x, weight)  # half of what `@` costs on rows this few
        np.add(x, bias, out=x)
        np.tanh(x, out=x)
    return np.dot(x, last) + last_bias


# (obs [batch, …], noise [batch, …] or None for the most probable action) -> action [batch, …]
NumpyActor = Callable[[np.ndarray, "np.ndarray | None"], np.ndarray]


class FastPolicy(Protocol):
    """A policy that also acts in numpy, on noise drawn beforehand for a whole block."""

    def noise(self, shape: Sequence[int], generator: Generator) -> np.ndarray: ...

    def numpy_actor(self) -> NumpyActor: ...


def is_fast(policy: nn.Module) -> TypeGuard[FastPolicy]:
    """Whether it is one. (Asked by name: `isinstance` with a protocol costs as much as an action.)"""
    return hasattr(policy, "numpy_actor")


class CategoricalPolicy(nn.Module):
    """`a ~ Categorical(softmax(logits(obs)))`, sampled as `argmax(logits + Gumbel noise)`."""

    def __init__(self, encoder: Encoder, actions: int, hidden: Sequence[int], generator: Generator | None) -> None:
        super().__init__()
        self.encoder, self.actions = encoder, actions
        self.logits = MLP([encoder.features, *hidden, actions], SMALL, generator)

    def forward(self, obs: Tensor) -> Categorical:
        return Categorical(logits=self.logits(self.encoder(obs)))

    def noise(self, shape: Sequence[int], generator: Generator) -> np.ndarray:
        exponential = torch.empty(*shape, self.actions).exponential_(generator=generator)
        return -exponential.clamp_min(torch.finfo(torch.float32).tiny).log().numpy()

    def numpy_actor(self) -> NumpyActor:
        weights, encode = self.logits.weights(), self.encoder.numpy()

        def act(obs: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
            logits = forward_numpy(weights, encode(obs))
            return (logits if noise is None else logits + noise).argmax(-1)

        return act


class GaussianPolicy(nn.Module):
    """`a ~ N(loc(obs), exp(log_scale)²)`, one log-scale a dimension whatever the observation."""

    def __init__(
        self,
        encoder: Encoder,
        shape: Sequence[int],
        hidden: Sequence[int],
        generator: Generator | None,
        log_scale: float = -0.5,
    ) -> None:
        super().__init__()
        if len(shape) != 1:
            raise ValueError(f"GaussianPolicy: actions of shape {tuple(shape)}; flatten the space to one axis.")
        self.encoder, self.shape = encoder, tuple(shape)
        self.loc = MLP([encoder.features, *hidden, shape[0]], SMALL, generator)
        self.log_scale = nn.Parameter(torch.full(self.shape, log_scale))

    def forward(self, obs: Tensor) -> Independent:
        loc = self.loc(self.encoder(obs))
        return Independent(Normal(loc, self.log_scale.exp().expand_as(loc)), 1)

    def noise(self, shape: Sequence[int], generator: Generator) -> np.ndarray:
        return torch.randn(*shape, *self.shape, generator=generator).numpy()

    def numpy_actor(self) -> NumpyActor:
        weights, encode, scale = self.loc.weights(), self.encoder.numpy(), np.exp(self.log_scale.detach().numpy())

        def act(obs: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
            loc = forward_numpy(weights, encode(obs))
            return loc if noise is None else loc + scale * noise

        return act


class ValueCritic(nn.Module):
    """Predicted discounted cost-to-go `[*batch]`, in units of `scale`: costs of size 1 sum to about `1/(1-γ)`."""

    def __init__(self, encoder: Encoder, hidden: Sequence[int], generator: Generator | None = None, scale: float = 1.0) -> None:
        super().__init__()
        self.encoder, self.scale = encoder, scale
        self.mlp = MLP([encoder.features, *hidden, 1], 1.0, generator)

    def forward(self, obs: Tensor) -> Tensor:
        return self.scale * self.mlp(self.encoder(obs)).squeeze(-1)


class Encoder(nn.Module):
    """Observations `[*batch, obs…]` as features `[*batch, features]`: a box is flattened, a discrete one is one-hot.

    A `normaliser` comes first where there is one (boxes only). Policy and critic share it, and so does evaluation.
    Of a goal environment's observation it takes what is before the achieved goal.
    """

    def __init__(self, space: gym.Space, normaliser: ObsNormaliser | None = None) -> None:
        super().__init__()
        self.normaliser = normaliser
        self.seen: int | None = None  # of a goal environment's array, so much
        if isinstance(space, GoalSpace):
            self.ndim, self.features, self.start, self.seen = 1, space.features, None, space.features
        elif isinstance(space, spaces.Box):
            self.ndim, self.features, self.start = len(space.shape), math.prod(space.shape), None
        elif isinstance(space, spaces.Discrete):
            self.ndim, self.features, self.start = 0, int(space.n), int(space.start)
        else:
            raise ValueError(f"observation space {space}: only Box and Discrete are known. Flatten it with a wrapper.")

    def forward(self, obs: Tensor) -> Tensor:
        if self.start is not None:
            return nn.functional.one_hot(obs.long() - self.start, self.features).to(torch.get_default_dtype())
        if self.normaliser is not None:
            obs = self.normaliser(obs)
        return obs.flatten(obs.ndim - self.ndim) if self.ndim != 1 else obs[..., : self.seen]

    def numpy(self) -> Callable[[np.ndarray], np.ndarray]:
        """`forward` on arrays, as long as the normaliser stands still."""
        kind, ndim, seen = float_type(), self.ndim, self.seen
        if self.start is not None:
            table, start = np.eye(self.features, dtype=kind), self.start
            return lambda obs: table[obs.astype(np.int64) - start]
        normalise = self.normaliser.numpy() if self.normaliser is not None else lambda x: x

        def encode(obs: np.ndarray) -> np.ndarray:
            x = normalise(obs.astype(kind, copy=False))
            return x[..., :seen] if ndim == 1 else x.reshape(*x.shape[: x.ndim - ndim], -1)

        return encode


def normaliser(obs: gym.Space) -> ObsNormaliser | None:
    """A fresh observation normaliser; none for a discrete space, which needs none."""
    return ObsNormaliser(obs.shape) if isinstance(obs, spaces.Box) else None


def critic(
    obs: gym.Space,
    hidden: Sequence[int],
    generator: Generator | None = None,
    scale: float = 1.0,
    normaliser: ObsNormaliser | None = None,
) -> nn.Module:
    """The state-value critic for an observation space."""
    return ValueCritic(Encoder(obs, normaliser), hidden, generator, scale)
