"""An environment whose state cannot be saved: its position is in no attribute that a checkpoint knows."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Forgetful(gym.Env):
    observation_space, action_space = spaces.Box(-100.0, 100.0, (1,)), spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.at, self.steps = float(self.np_random.normal()), 0
        return np.array([self.at], np.float32), {}

    def step(self, action: int) -> Any:
        self.at += 0.1 * (2 * int(action) - 1)
        self.steps += 1
        return np.array([self.at], np.float32), -abs(self.at), self.steps == 10, False, {}


gym.register("Forgetful-v0", entry_point=Forgetful)
