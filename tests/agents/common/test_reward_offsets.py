"""Offsets of rewards: in one-step episodes they change nothing that is learned, by any on-policy agent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Generator

from scg.agents.a2c import A2C
from scg.agents.common.agent import Agent
from scg.agents.environments import envs
from scg.agents.experience.rollout import Rollout
from scg.agents.npg import NPG
from scg.agents.ppo import PPO
from scg.agents.trpo import TRPO


class Sign(gym.Env):
    """obs = ±1; reward = offset + [the action is its sign]; one step an episode."""

    observation_space, action_space = spaces.Box(-1.0, 1.0, (1,)), spaces.Discrete(2)

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self._obs(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward = self.offset + float((self.sign > 0) == action)
        return self._obs(), reward, True, False, {}

    def _obs(self) -> np.ndarray:
        self.sign = self.np_random.choice([-1.0, 1.0])
        return np.array([self.sign], np.float32)


gym.register("Sign-v0", entry_point=Sign)

SMALL: dict[str, Any] = {"hidden": (8,), "horizon": 16, "normalise_obs": False}
CONFIGS = {
    "a2c": A2C(**SMALL),
    "ppo": PPO(**SMALL, epochs=2),
    "npg": NPG(**SMALL, value_epochs=2),
    "trpo": TRPO(**SMALL, value_epochs=2),
}


def trained(config: Any, blocks: int, **world: float) -> Agent:
    with envs.make("Sign-v0", 8, **world) as vector:
        agent = config.build(vector.obs_space, vector.action_space, Generator().manual_seed(0))
        rollout = Rollout(vector, list(range(8)), Generator().manual_seed(0))
        for block in range(blocks):
            agent.update(agent.collect(rollout, 10**6), block / blocks)
    return agent


def share_right(agent: Agent) -> float:
    with torch.no_grad():
        probs = agent.policy(torch.tensor([[-1.0], [1.0]])).probs
    return float(probs[0, 0] + probs[1, 1]) / 2


@pytest.mark.parametrize("offset", [5.0, 100.0])
@pytest.mark.parametrize("name", CONFIGS)
def test_an_offset_changes_no_parameter_in_one_step_episodes(name: str, offset: float, double: None) -> None:
    plain, moved = trained(CONFIGS[name], 1), trained(CONFIGS[name], 1, offset=offset)
    for (where, one), (_, other) in zip(plain.policy.named_parameters(), moved.policy.named_parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-9), where


@pytest.mark.parametrize(("name", "offset"), [("a2c", 5.0), ("npg", 100.0)])
def test_the_task_is_learned_at_any_offset(name: str, offset: float) -> None:
    config = replace(CONFIGS[name], **({"lr": 0.01} if name == "a2c" else {"kl": 0.05}))
    assert share_right(trained(config, 25, offset=offset)) > 0.8
