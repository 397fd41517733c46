"""Goals: an observation that also says what is to be achieved and what is, and rewards that can be computed again.

    {observation, desired_goal, achieved_goal} → [observation ‖ desired_goal ‖ achieved_goal]     one array, by `FlattenGoals`
                                                  └────── what nets see ─────┘

    reward = compute_reward(achieved_goal of the next observation, desired_goal)          terminated likewise

Environments of gymnasium's `GoalEnv` protocol have dictionary observations and these functions; `GoalSpace` carries both
beside a flat box, so that rollouts, buffers and nets need no case for dictionaries. A policy's input is the observation and
the goal (Schaul et al. 2015, "Universal value function approximators"): what is achieved can be read off the observation.

The functions are called with whole batches. An environment whose functions cannot take one is called row by row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

PARTS = ("observation", "desired_goal", "achieved_goal")
GOALS = (spaces.Box, spaces.MultiBinary)  # kinds of goals: arrays that are their own flat form, but for shape
GoalFunction = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (achieved [n, goal], desired [n, goal]) → [n]


class GoalSpace(spaces.Box):
    """A box of which the last `goal` numbers are the achieved goal, and as many before them the desired one."""

    def __init__(self, space: spaces.Dict, env: Any) -> None:
        flat = [spaces.flatten_space(space[part]) for part in PARTS]
        assert all(isinstance(part, spaces.Box) for part in flat)
        self.parts = [space[part] for part in PARTS]
        kind = np.float64 if any(part.dtype == np.float64 for part in flat) else np.float32
        low, high = (np.concatenate([getattr(part, end).astype(kind) for part in flat]) for end in ("low", "high"))
        super().__init__(low, high, dtype=kind)
        self.goal_shape = space["achieved_goal"].shape or ()
        self.goal = math.prod(self.goal_shape)
        size = len(low)
        self.features = size - self.goal  # how much of an observation nets see
        self.desired, self.achieved = slice(size - 2 * self.goal, self.features), slice(self.features, size)
        wrap = lambda function, kind: _batched(function, self.goal_shape, kind)  # noqa: E731
        self.reward = wrap(env.compute_reward, np.float64)
        self.terminated = wrap(env.compute_terminated, bool)
        # gymnasium-robotics' own name for "the goal is reached"; elsewhere, reaching it ends the episode.
        self.success = wrap(_without_info(env._is_success), bool) if hasattr(env, "_is_success") else self.terminated


class FlattenGoals(gym.ObservationWrapper):
    """Dictionary observations of the `GoalEnv` protocol as one array, in a `GoalSpace`."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, spaces.Dict)
        self._spaces = [space[part] for part in PARTS]
        self.observation_space = GoalSpace(space, env.unwrapped)
        self._kind: Any = self.observation_space.dtype

    def observation(self, observation: Any) -> np.ndarray:
        parts: list[Any] = [spaces.flatten(space, observation[part]) for space, part in zip(self._spaces, PARTS, strict=True)]
        return np.concatenate(parts).astype(self._kind, copy=False)


def flattened(env: gym.Env) -> gym.Env:
    """`env`, its observations flattened if they are those of a goal environment.

    ValueError for dictionary observations of another kind: it says what is missing.
    """
    space, base = env.observation_space, env.unwrapped
    if not isinstance(space, spaces.Dict):
        return env
    missing = [f"{part!r} in its observations" for part in PARTS if part not in space.spaces]
    if len(missing) == len(PARTS):  # no goal environment, and no attempt at one
        return env
    missing += [f"{name}()" for name in ("compute_reward", "compute_terminated") if not hasattr(base, name)]
    if missing:
        raise ValueError(
            f"{type(base).__name__} has dictionary observations, but no {', no '.join(missing)}. Make it a goal environment "
            "(gymnasium's GoalEnv protocol), or wrap it in gymnasium.wrappers.FlattenObservation."
        )
    goals = [space[part] for part in PARTS[1:]]
    if not all(isinstance(goal, GOALS) for goal in goals) or goals[0].shape != goals[1].shape:
        raise ValueError(
            f"{type(base).__name__} has the goal spaces {goals[0]} (desired) and {goals[1]} (achieved). "
            "Both must be Box or MultiBinary, of one shape."
        )
    return FlattenGoals(env)


def _without_info(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any, dict], Any]:
    return lambda achieved, desired, info: function(achieved, desired)


def _batched(function: Callable[[Any, Any, dict], Any], shape: tuple[int, ...], kind: Any) -> GoalFunction:
    """`function` of goals for flat batches of them, tried at its first call on rows of which every other one is achieved."""
    vectorised: bool | None = None

    def in_one_call(achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.asarray(function(achieved, desired, {}), kind), len(achieved))

    def one_by_one(achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
        return np.array([function(a, d, {}) for a, d in zip(achieved, desired, strict=True)], kind).reshape(len(achieved))

    def is_vectorised(achieved: np.ndarray, desired: np.ndarray) -> bool:
        rows = np.resize(achieved, (8, *shape))
        goals = np.where(np.arange(8).reshape(-1, *[1] * len(shape)) % 2, rows, np.resize(desired, (8, *shape)) + 1)
        try:
            return bool(np.array_equal(in_one_call(rows, goals), one_by_one(rows, goals)))
        except (ValueError, TypeError, IndexError):  # an `if` on an array, a shape that does not fit
            return False

    def call(achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
        nonlocal vectorised
        achieved, desired = achieved.reshape(-1, *shape), desired.reshape(-1, *shape)
        if vectorised is None and len(achieved):
            vectorised = is_vectorised(achieved, desired)
        return in_one_call(achieved, desired) if vectorised else one_by_one(achieved, desired)

    return call
