"""A corridor of five cells, as anybody writes an environment for gymnasium."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Corridor(gym.Env[np.ndarray, int]):
    """Action 1 goes right, 0 left; each step costs 1, and the right end is the goal."""

    observation_space = spaces.Box(0.0, 1.0, (5,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.cell = int(self.np_random.integers(0, 3))
        return self._obs(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.cell = max(0, self.cell + (1 if action == 1 else -1))
        return self._obs(), -1.0, self.cell == 4, False, {}

    def _obs(self) -> np.ndarray:
        return np.eye(5, dtype=np.float32)[self.cell]


gym.register("Corridor-v0", entry_point="tests.extensions.environment:Corridor", max_episode_steps=40)
