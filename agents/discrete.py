"""Discrete actions for the off-policy agents: the value of every choice from one pass, and how they explore.

    QHeads(obs) → Q [*batch, dims, choices]      one choice (Discrete) is a single head, several (MultiDiscrete) one head each

    random       every choice equally probable                                until the buffer has something to learn from
    ε-greedy     argmax Q(obs, ·), in every environment a random choice with probability ε            Watkins (1989)

Sizes may differ between dimensions: what lies beyond a dimension's own size has a value that no maximum takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Generator, Tensor, nn

from scg.agents.envs import EnvironmentFault
from scg.agents.exploration import Uniform
from scg.agents.multi_discrete import NEVER
from scg.agents.nets import Encoder, NumpyActor
from scg.agents.q_nets import Rectified, action_dim


def choices(space: gym.Space) -> tuple[int, ...]:
    """How many values each dimension of a discrete action has. EnvironmentFault for any other space."""
    match space:
        case spaces.Discrete() if space.start == 0:
            return (int(space.n),)
        case spaces.MultiDiscrete() if space.nvec.ndim == 1 and not space.start.any():
            return tuple(space.nvec.tolist())
        case spaces.Discrete() | spaces.MultiDiscrete():
            raise EnvironmentFault(f"action space {space}: actions on at most one axis that start at 0 are known. Wrap it.")
    raise EnvironmentFault(f"action space {space}: this agent needs discrete actions. Quantise it with --action-bins 11, say.")


class QHeads(nn.Module):
    """Q(obs, ·) `[*batch, dims, choices]` on one network; its greedy action is its policy."""

    mask: Tensor

    def __init__(self, encoder: Encoder, space: gym.Space, hidden: Sequence[int], generator: Generator | None = None) -> None:
        super().__init__()
        self.encoder, self.sizes = encoder, choices(space)
        self.scalar = isinstance(space, spaces.Discrete)  # actions [*batch], not [*batch, dims]
        largest = max(self.sizes)
        beyond = torch.arange(largest) >= torch.tensor(self.sizes).unsqueeze(-1)
        self.register_buffer("mask", beyond * NEVER, persistent=False)  # [dims, choices]
        self.net = Rectified([encoder.features, *hidden, len(self.sizes) * largest], generator)

    def forward(self, obs: Tensor) -> Tensor:
        return self.net(self.encoder(obs)).unflatten(-1, self.mask.shape) + self.mask

    def at(self, values: Tensor, action: Tensor) -> Tensor:
        """The values `[*batch, dims]` of a recorded action, from those of all."""
        index = action.unsqueeze(-1) if self.scalar else action
        return values.gather(-1, index.unsqueeze(-1)).squeeze(-1)

    def noise(self, shape: Sequence[int], generator: Generator) -> np.ndarray:
        return np.zeros((*shape, 0), np.float32)

    def numpy_actor(self) -> NumpyActor:
        net, encode, mask, scalar = self.net.numpy(), self.encoder.numpy(), self.mask.cpu().numpy(), self.scalar

        def act(obs: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
            out = net(encode(obs))
            best = (out.reshape(*out.shape[:-1], *mask.shape) + mask).argmax(-1)
            return best[..., 0] if scalar else best

        return act


class RandomChoice(nn.Module):
    """Every choice equally probable, whatever the observation."""

    def __init__(self, space: gym.Space) -> None:
        super().__init__()
        self.sizes, self.scalar = choices(space), isinstance(space, spaces.Discrete)

    def noise(self, shape: Sequence[int], generator: Generator) -> np.ndarray:
        share = torch.rand(*shape, len(self.sizes), dtype=torch.float64, generator=generator)
        drawn = (share * torch.tensor(self.sizes)).long().numpy()
        return drawn[..., 0] if self.scalar else drawn

    def numpy_actor(self) -> NumpyActor:
        def act(obs: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
            axes = () if self.scalar else (len(self.sizes),)
            return np.zeros((*obs.shape[:1], *axes), np.int64) if noise is None else noise

        return act


def uniform(space: gym.Space) -> Uniform | RandomChoice:
    """Actions that look at nothing: uniform over a bounded box, or over all choices."""
    return Uniform(action_dim(space)) if isinstance(space, spaces.Box) else RandomChoice(space)


class Epsilon:
    """ε falls linearly from `first` to `last` over the first `share` of a run, and stays; part of a checkpoint."""

    def __init__(self, first: float, last: float, share: float) -> None:
        self.first, self.last, self.share = first, last, share
        self.value = first

    def follow(self, progress: float) -> None:
        """`progress` ∈ [0, 1] is how much of the run is over."""
        done = min(1.0, progress / self.share) if self.share else 1.0
        self.value = self.first + done * (self.last - self.first)

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


class EpsilonGreedy(nn.Module):
    """The greedy action, or with probability ε a random one."""

    def __init__(self, greedy: QHeads, random: RandomChoice, epsilon: Epsilon) -> None:
        super().__init__()
        self.greedy, self.random, self.epsilon = greedy, random, epsilon

    def noise(self, shape: Sequence[int], generator: Generator) -> np.ndarray:
        """The random choice where one is made, −1 elsewhere."""
        explores = torch.rand(*shape, generator=generator).numpy() < self.epsilon.value
        drawn = self.random.noise(shape, generator)
        return np.where(explores if self.random.scalar else explores[..., None], drawn, -1)

    def numpy_actor(self) -> NumpyActor:
        greedy = self.greedy.numpy_actor()

        def act(obs: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
            action = greedy(obs, None)
            return action if noise is None else np.where(noise < 0, action, noise)

        return act
