"""Probes: small environments, each of which one ability alone solves. Returns lie in [0, 1].

RepeatPrevious-v0    show a symbol, want the one of two steps before                     memory       blind: 1/symbols
MovingTarget-v0      a picture of 42 × 42 × 3 bytes: the blue square is to follow a red  images       random: 0.26, `chase`: 0.89
HiddenDoors-v0       of eight actions two are allowed, said in info["action_mask"] alone masks        without: nearly 0
                     any other ends the episode; want the better one by the observation
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class RepeatPrevious(gym.Env):
    """Each of the steps after the first `delay` pays where the action is the symbol shown `delay` steps before."""

    def __init__(self, symbols: int = 4, delay: int = 2, length: int = 18) -> None:
        self.symbols, self.delay, self.length = symbols, delay, length
        self.observation_space, self.action_space = spaces.Discrete(symbols), spaces.Discrete(symbols)
        self.shown: tuple[int, ...] = ()

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.shown = (int(self.np_random.integers(self.symbols)),)
        return self.shown[-1], {}

    def step(self, action: Any) -> Any:
        now = len(self.shown) - 1
        right = now >= self.delay and int(action) == self.shown[now - self.delay]
        self.shown = (*self.shown, int(self.np_random.integers(self.symbols)))
        return self.shown[-1], float(right) / (self.length - self.delay), now + 1 == self.length, False, {}


class MovingTarget(gym.Env):
    """A target drifts and bounces off the walls; a step pays the more the nearer the follower is, nothing from half the picture on.

    Two colours, not two shades of one: where the target lies from the follower is then a linear function of the picture, which a
    network learns in a fraction of the steps.
    """

    SIZE, SQUARE, LENGTH = 42, 6, 48
    MOVES: ClassVar[np.ndarray] = 3 * np.array([(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)])

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 255, (self.SIZE, self.SIZE, 3), np.uint8)
        self.action_space = spaces.Discrete(len(self.MOVES))
        self.target = self.follower = np.zeros(2)
        self.drift, self.time = np.zeros(2), 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        room = self.SIZE - self.SQUARE
        self.target, self.follower = self.np_random.uniform(0, room, 2), self.np_random.uniform(0, room, 2)
        angle = self.np_random.uniform(0, 2 * np.pi)
        self.drift, self.time = np.array([np.cos(angle), np.sin(angle)]), 0
        return self._picture(), {}

    def step(self, action: Any) -> Any:
        room = self.SIZE - self.SQUARE
        self.follower = np.clip(self.follower + self.MOVES[int(action)], 0, room)
        moved = self.target + self.drift
        self.drift = np.where((moved < 0) | (moved > room), -self.drift, self.drift)
        self.target = np.clip(moved, 0, room)
        self.time += 1
        near = max(0.0, 1 - np.abs(self.target - self.follower).max() / (self.SIZE / 2))
        return self._picture(), float(near) / self.LENGTH, False, self.time == self.LENGTH, {}

    def chase(self) -> int:
        """The action that comes nearest at once: what a policy that reads the picture can do."""
        after = np.abs(self.target + self.drift - self.follower - self.MOVES)
        return int(np.lexsort((after.sum(1), after.max(1)))[0])

    def _picture(self) -> np.ndarray:
        picture = np.zeros((self.SIZE, self.SIZE, 3), np.uint8)
        for (y, x), colour in ((self.target, 0), (self.follower, 2)):
            picture[round(y) : round(y) + self.SQUARE, round(x) : round(x) + self.SQUARE, colour] = 255
        return picture


class HiddenDoors(gym.Env):
    """The observation says what each door is worth, the mask which two are open."""

    metadata: dict[str, Any] = {"action_mask": True, "render_modes": []}  # noqa: RUF012 (gymnasium's declaration)

    def __init__(self, doors: int = 8, open_doors: int = 2, length: int = 16, masked: bool = True) -> None:
        if not masked:
            self.metadata = {"render_modes": []}
        self.doors, self.open_doors, self.length = doors, open_doors, length
        self.observation_space = spaces.Box(0.0, 1.0, (doors,), np.float32)
        self.action_space = spaces.Discrete(doors)
        self.worth, self.mask, self.time = np.zeros(doors), np.ones(doors, np.int8), 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self._shown()

    def step(self, action: Any) -> Any:
        self.time += 1
        allowed = bool(self.mask[int(action)])
        best = allowed and self.worth[int(action)] == self.worth[self.mask.astype(bool)].max()
        obs, info = self._shown()
        return obs, float(best) / self.length, not allowed or self.time == self.length, False, info

    def _shown(self) -> Any:
        self.worth = self.np_random.uniform(size=self.doors)
        self.mask = np.zeros(self.doors, np.int8)
        self.mask[self.np_random.choice(self.doors, self.open_doors, replace=False)] = 1
        return self.worth.astype(np.float32), {"action_mask": self.mask}
