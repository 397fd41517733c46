"""Evaluations end, whatever the environment does."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from torch import Generator

from scg.agents.environments import envs
from scg.agents.experience.rollout import Rollout
from scg.agents.networks.policies import make_policy
from scg.agents.training.evaluation import evaluate


class Endless(gym.Env):
    """Reward 1 a step; every second environment ends after three steps, the others never."""

    observation_space, action_space = gym.spaces.Box(-1.0, 1.0, (1,)), gym.spaces.Discrete(2)
    made = 0

    def __init__(self) -> None:
        self.ends = Endless.made % 2
        Endless.made += 1

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.count += 1
        return np.zeros(1, np.float32), 1.0, bool(self.ends and self.count == 3), False, {}


gym.register("Endless-v0", entry_point=Endless)


@pytest.mark.parametrize("limit", [3, 7, 300])
def test_an_episode_that_never_ends_is_stopped_and_counted(limit: int) -> None:
    policy = make_policy(Endless.observation_space, Endless.action_space, [4], Generator().manual_seed(0))
    Endless.made = 0
    found = evaluate(policy, "Endless-v0", 4, 0, 0, "mode", limit=limit)
    assert sorted(found.lengths) == [3, 3, limit, limit]
    assert sorted(found.returns) == [3.0, 3.0, limit, limit]
    assert found.cut == found.row()["cut"] == 2
    assert found.remark == f", 2 of them stopped after {limit} steps"


def test_a_limit_that_is_not_reached_changes_nothing() -> None:
    policy = make_policy(gym.spaces.Box(-9.0, 9.0, (4,)), gym.spaces.Discrete(2), [4], Generator().manual_seed(0))
    free, limited = (evaluate(policy, "CartPole-v1", 3, 0, 0, "sample", limit=limit) for limit in (0, 501))
    assert free == limited
    assert (free.cut, free.remark) == (0, "")


def test_a_limit_needs_one_episode_of_each_environment() -> None:
    policy = make_policy(Endless.observation_space, Endless.action_space, [4])
    with envs.make("Endless-v0", 1) as vector, pytest.raises(ValueError, match="limit of 5 steps and 2 episodes"):
        Rollout(vector, [0], Generator()).episodes(policy, each=2, limit=5)
