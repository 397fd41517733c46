"""Environments that go wrong in their sixth step, for processes that import them by name."""

from __future__ import annotations

import os
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Breaks(gym.Env):
    observation_space, action_space = spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(3, np.float32), {}

    def step(self, action: int) -> Any:
        self.steps += 1
        return self.goes_wrong() if self.steps == 6 else np.zeros(3, np.float32), 1.0, False, False, {}

    def goes_wrong(self) -> Any:
        raise ZeroDivisionError("no mass")


class Dies(Breaks):
    def goes_wrong(self) -> Any:
        os._exit(7)


for made in (Breaks, Dies):
    gym.register(f"{made.__name__}-v0", entry_point=made)
