"""A world whose every number is known: it counts, and ends after as many steps as its reset drew."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces


class Counting(gym.Env):
    """obs = (steps since reset, length of this episode), reward = 1 + steps, terminated after `length` ∈ 2…5 steps."""

    observation_space = spaces.Box(0.0, 100.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, longest: int = 5, bad_at: int = -1) -> None:
        self.longest, self.bad_at, self.lifetime = longest, bad_at, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.count, self.length = 0, int(self.np_random.integers(2, self.longest + 1))
        return self._obs(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.lifetime += 1
        self.count += 1
        reward = float("nan") if self.lifetime == self.bad_at else float(self.count)
        return self._obs(), reward, self.count >= self.length, False, {}

    def _obs(self) -> np.ndarray:
        return np.array([self.count, self.length], np.float32)


gym.register("Counting-v0", entry_point=Counting)
gym.register("CountingLimited-v0", entry_point=Counting, max_episode_steps=3)


@pytest.fixture(autouse=True)
def _as_agents_run() -> Iterator[None]:
    """float32 and one thread, whatever the rest of the suite computes in."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1), torch.set_default_dtype(torch.float32)
    yield
    torch.set_num_threads(threads), torch.set_default_dtype(dtype)


@pytest.fixture
def double(_as_agents_run: None) -> None:
    """float64, for equalities."""
    torch.set_default_dtype(torch.float64)


@pytest.fixture
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler's front half: what it traces, run by torch's own kernels, so that it takes no time."""
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **kwargs: compiled(f, backend="aot_eager", **kwargs))
