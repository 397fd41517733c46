"""Four equal goals around a point in the plane: a problem with four best ways.

    obs = (x, y), starts near (0, 0)        action = velocity in [-1, 1]²        ends at a goal or after 30 steps

    reward = −|action|²/2 − min_g |position − g|²/20 + 10 · [within 1 of a goal],     goals (±5, 0), (0, ±5)

Whoever maximises return alone may always go to the same goal. A policy π ∝ exp(Q/α) goes to all four.

Haarnoja, Tang, Abbeel & Levine (2017), "Reinforcement learning with deep energy-based policies", section 5.1.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

GOALS = np.array([[5.0, 0.0], [-5.0, 0.0], [0.0, 5.0], [0.0, -5.0]])
NEAR = 1.0  # a goal is reached within this distance
PRIZE = 10.0
BORDER = 7.0  # positions are clipped to ± this
STEPS = 30


class MultiGoal(gym.Env):
    """`gymnasium.make("MultiGoal-v0")`, which adds the limit of 30 steps."""

    observation_space = spaces.Box(-BORDER, BORDER, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.position = 0.1 * self.np_random.standard_normal(2)
        return self.position.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        velocity = np.clip(action, -1.0, 1.0).astype(np.float64)
        self.position = np.clip(self.position + velocity, -BORDER, BORDER)
        reached = bool(distance(self.position) < NEAR)
        reward = float(position_reward(self.position)) - 0.5 * float(velocity @ velocity)
        return self.position.astype(np.float32), reward, reached, False, {}


def distance(position: np.ndarray) -> np.ndarray:
    """To the nearest goal, `[*batch]`."""
    return np.linalg.norm(position[..., None, :] - GOALS, axis=-1).min(-1)


def position_reward(position: np.ndarray) -> np.ndarray:
    """What the reward is besides the cost of the action, `[*batch]`."""
    far = distance(position)
    return -0.05 * far**2 + PRIZE * (far < NEAR)
