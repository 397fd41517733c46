"""Known dynamics as gymnasium environments, so that every agent can be trained and evaluated in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Generator, Tensor
from torch.distributions import Distribution

from scg.agents.dynamics import known


class DynamicsEnv(gym.Env):
    """`dynamics` is a name of `scg.agents.dynamics.KNOWN`. Computed in float64; the noise is drawn from the environment's generator."""

    def __init__(self, dynamics: str) -> None:
        self.dynamics = known(dynamics).double()
        size, dim = self.dynamics.obs_size, self.dynamics.action_size
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (dim,), np.float32)
        self.state = np.zeros(self.dynamics.state_size)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        generator = Generator().manual_seed(int(self.np_random.integers(2**31)))
        self.state = self.dynamics.start(1, generator)[0].double().numpy()
        return self._observed(torch.from_numpy(self.state)), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated = self.step_many([self], np.asarray(action)[None])
        return obs[0], float(reward[0]), bool(terminated[0]), False, {}

    @classmethod
    def step_many(cls, envs: Sequence[DynamicsEnv], action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        dynamics = envs[0].dynamics
        state = torch.from_numpy(np.stack([env.state for env in envs]))
        act = torch.from_numpy(np.asarray(action, np.float64))
        following: Tensor | Distribution = dynamics.transition(state, act)
        if isinstance(following, Distribution):
            noise = torch.from_numpy(np.stack([env.np_random.standard_normal(dynamics.state_size) for env in envs]))
            following = following.mean + following.stddev * noise
        reward = dynamics.reward(state, act, following)
        for env, row in zip(envs, following.numpy(), strict=True):
            env.state = row.copy()
        return envs[0]._observed(following), reward.numpy(), dynamics.ended(following).numpy()

    def _observed(self, state: Tensor) -> np.ndarray:
        return self.dynamics.observe(state).numpy().astype(np.float32)

    def get_state(self) -> dict[str, Any]:
        return {"state": self.state}

    def set_state(self, state: dict[str, Any]) -> None:
        self.state = np.asarray(state["state"], np.float64)
