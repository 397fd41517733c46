"""Policies other than networks: the helicopter's controller, and a linear scorer of placements.

hover       collective = θ₁ f₁(z* − z) + θ₂ ż                               u, v for ẋ, ẏ: the helicopter's own frame
            elevator   = θ₃ f₂(x* − x) + θ₄ f₄(ẋ) + θ₅ q + θ₆ n_y           f: clipping to ± LIMIT
            aileron    = θ₇ f₃(y* − y) + θ₈ f₅(ẏ) + θ₉ p + θ₁₀ n_x
            rudder     = θ₁₁ r + θ₁₂ n_z                                    (Ng et al. 2004)

            A search begins at HAND, chosen by hand: every gain pushes the right way, and the helicopter stays within 1.3 m.

scores      obs [choices, features]: the choice of largest features · θ; a row of zeros is no choice
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Generator

from scg.agents.search.policies import Crowd, SearchPolicy

LIMIT = 5.0  # metres, and metres a second
HAND = (-0.1, 0.1, 0.05, -0.1, 0.1, -0.3, 0.05, -0.1, -0.1, 0.3, -0.1, 0.1)
_EX, _EY, _EZ, _U, _V, _W, _P, _Q, _R, _NX, _NY, _NZ = range(12)


class HoverPolicy(SearchPolicy):
    """Twelve parameters, from position error, velocity, rates and attitude `[*, 12]` to aileron, elevator, rudder, collective."""

    def __init__(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator | None = None) -> None:
        if obs_space.shape != (12,) or action_space.shape != (4,):
            raise ValueError(f"the hover controller is Helicopter-v0's, and not for {obs_space}, {action_space}.")
        super().__init__(torch.tensor(HAND, dtype=torch.float64))

    def crowd(self, slots: int) -> Crowd:
        return _Hovering(slots)


class _Hovering:
    def __init__(self, slots: int) -> None:
        self.theta = np.zeros((slots, 12))

    def load(self, slot: int, theta: np.ndarray) -> None:
        self.theta[slot] = theta

    def act(self, obs: np.ndarray) -> np.ndarray:
        t, o = self.theta.T, obs.T
        near = np.clip(o[:_P], -LIMIT, LIMIT)  # f of positions and velocities
        collective = t[0] * near[_EZ] + t[1] * o[_W]
        elevator = t[2] * near[_EX] + t[3] * near[_U] + t[4] * o[_Q] + t[5] * o[_NY]
        aileron = t[6] * near[_EY] + t[7] * near[_V] + t[8] * o[_P] + t[9] * o[_NX]
        rudder = t[10] * o[_R] + t[11] * o[_NZ]
        return np.stack([aileron, elevator, rudder, collective], -1)


class ScorePolicy(SearchPolicy):
    """One weight a feature; chooses among the rows of an observation."""

    def __init__(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator | None = None) -> None:
        rows = obs_space.shape[0] if isinstance(obs_space, spaces.Box) and len(obs_space.shape) == 2 else -1
        if not isinstance(action_space, spaces.Discrete) or rows != action_space.n:
            raise ValueError(
                f"a scoring policy chooses one row of an observation [choices, features], and not in {obs_space}, {action_space}."
            )
        super().__init__(torch.zeros(obs_space.shape[1]))  # type: ignore[index]

    def crowd(self, slots: int) -> Crowd:
        return _Scoring(slots, len(self.start))


class _Scoring:
    def __init__(self, slots: int, features: int) -> None:
        self.theta = np.zeros((slots, features, 1))

    def load(self, slot: int, theta: np.ndarray) -> None:
        self.theta[slot, :, 0] = theta

    def act(self, obs: np.ndarray) -> np.ndarray:
        scores = np.matmul(obs.astype(np.float64), self.theta)[..., 0]
        return np.where(obs.any(-1), scores, -np.inf).argmax(-1)
