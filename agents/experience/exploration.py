"""Exploration of off-policy agents: uniform actions at first, then the actor's with noise.

    uniform      a ~ U(-1, 1)                                            until the replay buffer has something to learn from
    Gaussian     a = clip(μ(obs) + σ ε),  ε ~ N(0, 1)                     Fujimoto et al. (2018)
    OU           a = clip(μ(obs) + σ x),  x ← (1 − θ) x + ε √(θ (2 − θ))   Ornstein & Uhlenbeck (1930); Lillicrap et al. (2016)

The Ornstein–Uhlenbeck process is in its discrete, stationary form: x has variance 1 at every step, so σ means the same for
both kinds of noise; 1 − θ is the correlation of successive steps. The process continues from one episode into the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Generator, Tensor, nn

from scg.agents.environments.action_spaces import action_dim, choices
from scg.agents.environments.flat_space import mask_of
from scg.agents.networks.legal import NEVER, Legal
from scg.agents.networks.mlp import float_type
from scg.agents.networks.policy import FastPolicy, NumpyActor
from scg.agents.networks.q_heads import QHeads


class UniformActions(nn.Module):
    """Actions that look at nothing."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def noise(self, shape: Sequence[int], generator: Generator) -> np.ndarray:
        return (2 * torch.rand(*shape, self.dim, generator=generator) - 1).numpy()

    def numpy_actor(self) -> NumpyActor:
        def act(obs: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
            return np.zeros((*obs.shape[:1], self.dim), float_type()) if noise is None else noise

        return act


class ActionNoise:
    """`[steps, batch, dim]` of standard deviation `scale`; `forget` = 1 is white, less is Ornstein–Uhlenbeck."""

    def __init__(self, dim: int, scale: float, forget: float = 1.0) -> None:
        self.dim, self.scale, self.forget = dim, scale, forget
        self._last: Tensor | None = None  # [batch, dim]: the state of the process

    def __call__(self, shape: Sequence[int], generator: Generator) -> Tensor:
        """Continues the process from the last call."""
        white = torch.randn(*shape, self.dim, generator=generator)
        if self.forget == 1.0:
            return self.scale * white
        gain = (self.forget * (2 - self.forget)) ** 0.5
        last = torch.randn(white.shape[1:], generator=generator) if self._last is None else self._last
        for t in range(len(white)):
            last = white[t] = (1 - self.forget) * last + gain * white[t]
        self._last = last.clone()
        return self.scale * white

    def state_dict(self) -> dict[str, Any]:
        return {"last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._last = state["last"]


class NoisyActor(nn.Module):
    """A deterministic actor with noise on its actions."""

    def __init__(self, actor: FastPolicy, noise: ActionNoise) -> None:
        super().__init__()
        self.actor, self.process = actor, noise

    def noise(self, shape: Sequence[int], generator: Generator) -> np.ndarray:
        return self.process(shape, generator).numpy()

    def numpy_actor(self) -> NumpyActor:
        actor = self.actor.numpy_actor()

        def act(obs: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
            action = actor(obs, None)
            return action if noise is None else np.clip(action + noise, -1.0, 1.0)

        return act


class RandomChoice(nn.Module):
    """Every choice equally probable, whatever the observation; of those that its mask allows, where it has one.

    The noise is the choice, or with masks a number for each choice, of which the largest allowed one wins.
    """

    def __init__(self, space: gym.Space, obs: gym.Space | None = None) -> None:
        super().__init__()
        self.sizes, self.scalar = choices(space), isinstance(space, spaces.Discrete)
        self.legal = Legal(obs, self.sizes) if obs is not None and mask_of(obs) is not None else None
        self.beyond = (np.arange(max(self.sizes)) >= np.array(self.sizes)[:, None]) * np.float32(NEVER)

    def noise(self, shape: Sequence[int], generator: Generator) -> np.ndarray:
        if self.legal:
            return torch.rand(*shape, *self.beyond.shape, generator=generator).numpy()
        share = torch.rand(*shape, len(self.sizes), dtype=torch.float64, generator=generator)
        drawn = (share * torch.tensor(self.sizes)).long().numpy()
        return drawn[..., 0] if self.scalar else drawn

    def numpy_actor(self) -> NumpyActor:
        def act(obs: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
            if self.legal:
                keys = np.zeros((*obs.shape[:1], *self.beyond.shape), np.float32) if noise is None else noise
                best = (self.legal(keys, obs) + self.beyond).argmax(-1)
                return best[..., 0] if self.scalar else best
            axes = () if self.scalar else (len(self.sizes),)
            return np.zeros((*obs.shape[:1], *axes), np.int64) if noise is None else noise

        return act


def uniform_policy(space: gym.Space, obs: gym.Space | None = None) -> UniformActions | RandomChoice:
    """Actions that look at nothing: uniform over a bounded box, or over all choices that an observation of `obs` allows."""
    return UniformActions(action_dim(space)) if isinstance(space, spaces.Box) else RandomChoice(space, obs)


class Epsilon:
    """ε falls linearly from `first` to `last` over the first `share` of a run, and stays; part of a checkpoint."""

    def __init__(self, first: float, last: float, share: float) -> None:
        self.first, self.last, self.share = first, last, share
        self.value = first

    def follow(self, progress: float) -> dict[str, float]:
        """`progress` ∈ [0, 1] is how much of the run is over; the new value, as a metric."""
        done = min(1.0, progress / self.share) if self.share else 1.0
        self.value = self.first + done * (self.last - self.first)
        return {"epsilon": self.value}

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
        """The random choice's noise where one is made, −1 elsewhere."""
        explores = torch.rand(*shape, generator=generator).numpy() < self.epsilon.value
        drawn = self.random.noise(shape, generator)
        return np.where(explores.reshape(*explores.shape, *[1] * (drawn.ndim - explores.ndim)), drawn, -1)

    def numpy_actor(self) -> NumpyActor:
        greedy, random = self.greedy.numpy_actor(), self.random.numpy_actor()

        def act(obs: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
            action = greedy(obs, None)
            if noise is None:
                return action
            stays = noise.reshape(len(noise), -1)[:, 0] < 0  # all of an action's noise is, or none
            return np.where(stays.reshape(-1, *[1] * (action.ndim - 1)), action, random(obs, noise))

        return act
