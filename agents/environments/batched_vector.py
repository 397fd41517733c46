"""Vectors of environments that know how to step many of themselves at once, in one pass of array operations.

    class Env(gym.Env):
        @classmethod
        def step_many(cls, envs, action [n, …]) -> obs [n, …], reward [n], terminated [n]

Each environment keeps its own state and generator, so that it is seeded, reset and saved as ever, and one alone is a batch of
one: the same bits. Numpy on rows of a batch costs a fortieth of numpy on each environment in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from scg.agents.environments.checked_vector import CheckedVector
from scg.agents.environments.faults import EnvironmentFailed

_WRAPPERS = ("TimeLimit", "OrderEnforcing", "PassiveEnvChecker")


def steps_many(env: gym.Env) -> bool:
    """Whether `env`, under gymnasium's standard wrappers, can be stepped in a batch."""
    layers: Any = env
    while isinstance(layers, gym.Wrapper):
        if type(layers).__name__ not in _WRAPPERS:
            return False
        layers = layers.env
    return hasattr(layers, "step_many") and env.render_mode != "human"


class BatchedVector(CheckedVector):
    """A vector environment in mode SAME_STEP. `infos` hold what the mode needs and nothing else."""

    def __init__(self, constructors: Sequence[Callable[[], gym.Env]], **kwargs: Any) -> None:
        super().__init__(constructors, **kwargs)
        self._bases: list[Any] = [env.unwrapped for env in self.envs]
        self._limits = [_time_limit(env) for env in self.envs]

    def step(self, actions: Any) -> Any:
        which = range(self.num_envs) if self.active is None else np.flatnonzero(self.active).tolist()
        info: dict[str, Any] = {}
        self._terminations[:], self._truncations[:] = False, False
        if len(which):
            rows = list(which)
            self.watch.begin(None, "step_many")
            try:
                found = type(self._bases[0]).step_many([self._bases[i] for i in rows], actions[rows])
            finally:
                self.watch.end()
            shapes = [np.shape(part) for part in found]
            if shapes != [(len(rows), *(self._shape or ())), (len(rows),), (len(rows),)]:
                raise EnvironmentFailed(
                    None, f"step_many gave obs, reward, terminated of shapes {shapes} for {len(rows)} of them"
                )
            self._observations[rows], self._rewards[rows], self._terminations[rows] = found  # type: ignore[index]
        for i in which:
            limit = self._limits[i]
            if limit is not None:
                limit._elapsed_steps += 1
                self._truncations[i] = limit._elapsed_steps >= limit._max_episode_steps
        ended = self._terminations | self._truncations
        if ended.any():
            info["final_obs"] = np.empty(self.num_envs, object)
            for i in np.flatnonzero(ended).tolist():
                info["final_obs"][i] = self._observations[i].copy()  # type: ignore[index]
                if self.faults is None:
                    self._observations[i] = self.reset_one(i)  # type: ignore[index]
        return self._observations, self._rewards.copy(), self._terminations.copy(), self._truncations.copy(), info


def _time_limit(env: gym.Env) -> Any:
    """The wrapper that counts steps, or None."""
    while isinstance(env, gym.Wrapper):
        if type(env).__name__ == "TimeLimit":
            return env
        env = env.env
    return None
