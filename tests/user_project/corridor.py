"""A user's environment: walk right along a corridor of ten fields. `import corridor` registers `Corridor-v0`."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Corridor(gym.Env):
    observation_space = spaces.Box(0.0, 1.0, (2,), np.float32)

    def __init__(self, continuous: bool = False) -> None:
        self.continuous = continuous
        self.action_space = spaces.Box(-2.0, 2.0, (1,), np.float32) if continuous else spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.at, self.steps = int(self.np_random.integers(0, 5)), 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        right = bool(action[0] > 0) if self.continuous else bool(action)
        self.at = min(max(self.at + (1 if right else -1), 0), 10)
        self.steps += 1
        return self._obs(), float(right), self.at == 10, self.steps >= 20, {}

    def _obs(self) -> np.ndarray:
        return np.array([self.at / 10, 1.0], np.float32)


class Pictured(Corridor):
    """The same, of which only a picture is shown."""

    observation_space = spaces.Box(0, 255, (12, 12, 1), np.uint8)

    def _obs(self) -> np.ndarray:
        picture = np.zeros((12, 12, 1), np.uint8)
        picture[4:8, self.at : self.at + 2] = 255
        return picture


gym.register("Corridor-v0", entry_point=Corridor)
gym.register("CorridorBox-v0", entry_point=Corridor, kwargs={"continuous": True})
