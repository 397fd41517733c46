"""Small worlds of populations: one that fails in every way, and one with a peak."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Fragile(gym.Env):
    """Four steps; the reward is the action, which fails in a way of its own at −1, −2, −3."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.count, self.start = 0, self.np_random.uniform(0.5, 1.0, 2).astype(np.float32)
        if seed == 13:
            raise OSError("no such seed")
        return self.start, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.count += 1
        kind = round(float(action[0]))
        if kind == -1 and self.count == 2:
            raise RuntimeError("the motor is hot")
        reward = np.nan if kind == -2 else float(action[0])
        obs = np.full(2, np.nan, np.float32) if kind == -3 else self.start
        return obs, reward, self.count == 4, False, {}


gym.register("Fragile-v0", entry_point=Fragile)
gym.register("FragileLimited-v0", entry_point=Fragile, max_episode_steps=3)


class Peak(gym.Env):
    """Four steps; the reward is largest where the action is the sum of the observations."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.count = 0
        return self._look(), {}

    def _look(self) -> np.ndarray:
        self.seen = self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32)
        return self.seen.copy()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.count += 1
        reward = float(np.exp(-((float(action[0]) - self.seen.sum()) ** 2)))
        return self._look(), reward, self.count == 4, False, {}


gym.register("Peak-v0", entry_point=Peak)
