"""Offsets of rewards change nothing that is learned, by any on-policy agent, in episodes of any length."""

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
from scg.agents.off_policy_gradient import OffPolicyGradient
from scg.agents.ppo import PPO
from scg.agents.reinforce import Reinforce
from scg.agents.trpo import TRPO


class Sign(gym.Env):
    """obs = ±1; reward = offset + [the action is its sign]; `length` steps an episode, which terminates or is cut."""

    observation_space, action_space = spaces.Box(-1.0, 1.0, (1,)), spaces.Discrete(2)

    def __init__(self, offset: float = 0.0, length: int = 1, truncates: bool = False) -> None:
        self.offset, self.length, self.truncates = offset, length, truncates

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.left = self.length
        return self._obs(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward = self.offset + float((self.sign > 0) == action)
        self.left -= 1
        return self._obs(), reward, self.left == 0 and not self.truncates, self.left == 0 and self.truncates, {}

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
    "off-policy-pg": OffPolicyGradient(**SMALL, value_epochs=1, gradient_steps=1),
    "reinforce": Reinforce(hidden=(8,), horizon=16, value_steps=2),
}


def trained(config: Any, blocks: int, **world: Any) -> Agent:
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


@pytest.mark.parametrize("world", [{}, {"length": 4}], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_an_offset_changes_no_parameter(name: str, world: dict[str, Any], double: None) -> None:
    plain, moved = trained(CONFIGS[name], 2, **world), trained(CONFIGS[name], 2, offset=100.0, **world)
    for (where, one), (_, other) in zip(plain.policy.named_parameters(), moved.policy.named_parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-8), where


@pytest.mark.parametrize(
    ("name", "length", "truncates"),
    [("a2c", 1, False), ("npg", 100, False), ("npg", 100, True), ("reinforce", 100, False)],
)
def test_the_task_is_learned_at_any_offset(name: str, length: int, truncates: bool) -> None:
    """Episodes longer than a block: the critic sees no clock, and an offset of 100 makes returns of 10,000 of its steps."""
    options: dict[str, dict[str, Any]] = {"a2c": {"lr": 0.01}, "npg": {"kl": 0.05}, "reinforce": {"lr": 0.02}}
    config = replace(CONFIGS[name], **options[name])
    assert share_right(trained(config, 30, offset=100.0, length=length, truncates=truncates)) > 0.8
