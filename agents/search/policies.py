"""Policies as parameter vectors: a module that acts by one vector, and a crowd that acts by one vector in each slot.

    policy.start [d]                    where a search begins              policy.hold(theta)    what acts in evaluation
    crowd = policy.crowd(slots)         crowd.load(slot, theta)            crowd.act(obs [slots, …]) → action [slots, …]

    network     tanh between layers; linear without `hidden`, and then it starts at 0. Bounded actions are clipped by the
                environment, discrete ones are the largest output's

A crowd multiplies all slots' observations by their own weights in one batched product a layer. numpy computes a batched product
element by element, each by the same kernel, so what a member does has the same bits however many act beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Generator, Tensor, nn

from scg.agents.networks.encoder import Encoder, obs_normaliser
from scg.agents.networks.mlp import MLP, SMALL, float_type
from scg.agents.networks.policy import NumpyActor


class Crowd(Protocol):
    def load(self, slot: int, theta: np.ndarray) -> None: ...

    def act(self, obs: np.ndarray) -> np.ndarray: ...


class SearchPolicy(nn.Module):
    """A deterministic policy. A kind defines `start` and `crowd`; it acts alone as a crowd of one."""

    theta: Tensor

    def __init__(self, start: Tensor, encoder: Encoder | None = None) -> None:
        super().__init__()
        self.encoder = encoder  # with a normaliser where there is one
        self.register_buffer("theta", start.detach().double().clone())

    @property
    def start(self) -> Tensor:
        return self.theta.clone()

    def hold(self, theta: Tensor) -> None:
        self.theta.copy_(theta.detach())

    def crowd(self, slots: int) -> Crowd:
        raise NotImplementedError(f"{type(self).__name__} must define crowd(slots)")

    def forward(self, obs: Tensor) -> Any:
        """The action `[*batch, …]`."""
        return torch.from_numpy(self.numpy_actor()(obs.numpy(), None))

    def noise(self, shape: Sequence[int], generator: Generator) -> np.ndarray:
        return np.zeros((*shape, 0), np.float32)  # a sampled action is the same action

    def numpy_actor(self) -> NumpyActor:
        theta, crowds = self.theta.numpy(), dict[int, Crowd]()

        def act(obs: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
            if len(obs) not in crowds:
                crowds[len(obs)] = self.crowd(len(obs))
                for slot in range(len(obs)):
                    crowds[len(obs)].load(slot, theta)
            return crowds[len(obs)].act(obs)

        return act


class NetworkPolicy(SearchPolicy):
    """`obs → W x + b → tanh → … → action`, its weights one vector: layer by layer, `W [in, out]` then `b [out]`."""

    def __init__(
        self,
        obs_space: gym.Space,
        action_space: gym.Space,
        hidden: Sequence[int],
        generator: Generator | None = None,
        normalise: bool = False,
    ) -> None:
        encoder = Encoder(obs_space, obs_normaliser(obs_space) if normalise else None)
        if isinstance(action_space, spaces.Discrete) and action_space.start == 0:
            outputs, self.discrete = int(action_space.n), True
        elif isinstance(action_space, spaces.Box) and len(action_space.shape) == 1:
            outputs, self.discrete = action_space.shape[0], False
        else:
            raise ValueError(
                f"action space {action_space}: a searched network acts in a Box with one axis, or in a Discrete space that "
                "starts at 0. Wrap the environment."
            )
        self.sizes = [encoder.features, *hidden, outputs]
        layers = list(pairwise(self.sizes))
        start = torch.zeros(sum((n + 1) * m for n, m in layers))
        if hidden:
            drawn = MLP(self.sizes, SMALL, generator).weights()
            start = torch.cat([torch.from_numpy(array.copy()).flatten() for layer in drawn for array in layer])
        super().__init__(start, encoder)

    def best(self, obs: Tensor) -> Tensor:
        """The action `[*batch, …]`, in torch."""
        assert self.encoder is not None
        x, at = self.encoder(obs), 0
        theta = self.theta.to(x.dtype)
        for i, (n, m) in enumerate(pairwise(self.sizes)):
            x = x if i == 0 else x.tanh()
            x = x @ theta[at : at + n * m].reshape(n, m) + theta[at + n * m : at + (n + 1) * m]
            at += (n + 1) * m
        return x.argmax(-1) if self.discrete else x

    def crowd(self, slots: int) -> Crowd:
        return _Networks(self, slots)


class _Networks:
    def __init__(self, policy: NetworkPolicy, slots: int) -> None:
        assert policy.encoder is not None
        self.encode, self.discrete, kind = policy.encoder.numpy(), policy.discrete, float_type()
        shapes = list(pairwise(policy.sizes))
        self.layers = [(np.zeros((slots, n, m), kind), np.zeros((slots, 1, m), kind)) for n, m in shapes]

    def load(self, slot: int, theta: np.ndarray) -> None:
        at = 0
        for weight, bias in self.layers:
            n, m = weight.shape[1:]
            weight[slot] = theta[at : at + n * m].reshape(n, m)
            bias[slot, 0] = theta[at + n * m : at + (n + 1) * m]
            at += (n + 1) * m

    def act(self, obs: np.ndarray) -> np.ndarray:
        x = self.encode(obs)[:, None, :]  # [slots, 1, features]
        *hidden, (last, last_bias) = self.layers
        for weight, bias in hidden:
            x = np.matmul(x, weight)
            x += bias
            np.tanh(x, out=x)
        x = (np.matmul(x, last) + last_bias)[:, 0]
        return x.argmax(-1) if self.discrete else x
