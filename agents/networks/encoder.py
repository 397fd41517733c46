"""Encoder: an observation, whatever its space, as a vector of features."""

from __future__ import annotations

import math
from collections.abc import Callable

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from scg.agents.environments.faults import EnvironmentFault
from scg.agents.environments.flat_space import FlatSpace
from scg.agents.environments.goal_space import GoalSpace
from scg.agents.networks.mlp import float_type
from scg.agents.networks.normalisers import ObsNormaliser


class Encoder(nn.Module):
    """Observations `[*batch, obs…]` as features `[*batch, features]`: a box is flattened, a discrete one is one-hot.

    A `normaliser` comes first where there is one (boxes only). Policy and critic share it, and so does evaluation.
    Of a goal environment's observation it takes what is before the achieved goal, of one with a mask of actions what is before
    the mask. Whole numbers become floating-point ones.
    """

    def __init__(self, space: gym.Space, normaliser: ObsNormaliser | None = None) -> None:
        super().__init__()
        self.normaliser = normaliser
        self.seen: int | None = None  # of a goal environment's array, and of one with a mask, so much
        if isinstance(space, GoalSpace | FlatSpace):
            self.ndim, self.features, self.start, self.seen = 1, space.features, None, space.features
        elif isinstance(space, spaces.Box):
            self.ndim, self.features, self.start = len(space.shape), math.prod(space.shape), None
        elif isinstance(space, spaces.Discrete):
            self.ndim, self.features, self.start = 0, int(space.n), int(space.start)
        else:
            raise EnvironmentFault(f"observation space {space}: it is no array of numbers. Wrap the environment.")

    def forward(self, obs: Tensor) -> Tensor:
        if self.start is not None:
            return nn.functional.one_hot(obs.long() - self.start, self.features).to(torch.get_default_dtype())
        if not obs.is_floating_point():
            obs = obs.to(torch.get_default_dtype())
        if self.normaliser is not None:
            obs = self.normaliser(obs)
        if self.ndim == 1:
            return obs[..., : self.seen]
        return obs.flatten(obs.ndim - self.ndim) if self.ndim else obs.unsqueeze(-1)

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


def obs_normaliser(obs: gym.Space) -> ObsNormaliser | None:
    """A fresh observation normaliser; none for a discrete space, which needs none."""
    return ObsNormaliser(obs.shape) if isinstance(obs, spaces.Box) else None
