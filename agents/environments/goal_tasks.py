"""Goal environments to learn from hindsight on, without a simulator.

    BitFlip{n}-v0      n bits, action i flips bit i; reward −1, and 0 in the state that the goal names, which ends the episode
    PointReach-v0      a point on the square [−1, 1]², action its velocity; reward −1, and 0 within the radius of the goal

Both have dictionary observations (observation, achieved_goal, desired_goal), sparse rewards, and a time limit: n steps, and 50.
With 8 bits a random episode succeeds 3 times in 100, with 40 practically never, so that without hindsight no reward but −1
is seen.

Andrychowicz et al. (2017), "Hindsight experience replay", section 3.1 (bit-flip).
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

Observation = dict[str, np.ndarray]
Outcome = tuple[Observation, float, bool, bool, dict[str, Any]]


class _GoalEnv(gym.Env):
    """What follows from the goals alone."""

    goal: np.ndarray

    def _achieved(self) -> np.ndarray:
        raise NotImplementedError

    def _is_success(self, achieved: np.ndarray, desired: np.ndarray) -> Any:
        raise NotImplementedError

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: dict[str, Any]) -> Any:
        """−1, and 0 where the goal is achieved; goals `[*batch, …]`."""
        return np.where(self._is_success(achieved_goal, desired_goal), 0.0, -1.0)

    def compute_terminated(self, achieved_goal: Any, desired_goal: Any, info: dict[str, Any]) -> Any:
        raise NotImplementedError

    def compute_truncated(self, achieved_goal: Any, desired_goal: Any, info: dict[str, Any]) -> bool:
        """Only a time limit cuts an episode."""
        return False

    def _outcome(self) -> Outcome:
        achieved, info = self._achieved(), {"is_success": bool(self._is_success(self._achieved(), self.goal))}
        reward = float(self.compute_reward(achieved, self.goal, info))
        return self._obs(), reward, bool(self.compute_terminated(achieved, self.goal, info)), False, info

    def _obs(self) -> Observation:
        return {"observation": self._achieved(), "achieved_goal": self._achieved(), "desired_goal": self.goal.copy()}


class BitFlip(_GoalEnv):
    """States and goals are drawn uniformly, and differ."""

    def __init__(self, bits: int = 10) -> None:
        if bits < 1:
            raise ValueError(f"BitFlip: {bits} bits. Give at least 1.")
        self.bits = bits
        self.action_space: gym.Space = spaces.Discrete(bits)
        self.observation_space = _goal_dict(spaces.MultiBinary(bits))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = self.np_random.integers(2, size=self.bits, dtype=np.int8)
        self.goal = self.state
        while np.array_equal(self.goal, self.state):
            self.goal = self.np_random.integers(2, size=self.bits, dtype=np.int8)
        return self._obs(), {}

    def step(self, action: Any) -> Outcome:
        self.state[int(action)] ^= 1
        return self._outcome()

    def _achieved(self) -> np.ndarray:
        return self.state.copy()

    def _is_success(self, achieved: np.ndarray, desired: np.ndarray) -> Any:
        return (np.asarray(achieved) == desired).all(-1)

    def compute_terminated(self, achieved_goal: Any, desired_goal: Any, info: dict[str, Any]) -> Any:
        return self._is_success(achieved_goal, desired_goal)


class PointReach(_GoalEnv):
    """A step moves the point by `speed` · action, and walls stop it. `terminates` ends the episode at the goal."""

    def __init__(self, speed: float = 0.1, radius: float = 0.05, terminates: bool = False) -> None:
        self.speed, self.radius, self.terminates = speed, radius, terminates
        self.action_space: gym.Space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = _goal_dict(spaces.Box(-1.0, 1.0, (2,), np.float32))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self.point, self.goal = self.np_random.uniform(-1.0, 1.0, (2, 2)).astype(np.float32)
        return self._obs(), {}

    def step(self, action: Any) -> Outcome:
        moved = self.point + np.float32(self.speed) * np.clip(action, -1.0, 1.0)
        self.point = np.clip(moved, -1.0, 1.0).astype(np.float32)
        return self._outcome()

    def _achieved(self) -> np.ndarray:
        return self.point.copy()

    def _is_success(self, achieved: np.ndarray, desired: np.ndarray) -> Any:
        return np.linalg.norm(np.subtract(achieved, desired), axis=-1) <= self.radius

    def compute_terminated(self, achieved_goal: Any, desired_goal: Any, info: dict[str, Any]) -> Any:
        return self.terminates & self._is_success(achieved_goal, desired_goal)


def _goal_dict(space: gym.Space) -> spaces.Dict:
    return spaces.Dict({"observation": space, "achieved_goal": space, "desired_goal": space})
