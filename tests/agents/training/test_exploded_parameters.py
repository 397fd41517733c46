"""Parameters that explode are named as such, whoever meets the NaN first; an environment's NaN is the environment's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Generator

from scg.agents.commands import cli
from scg.agents.environments import envs
from scg.agents.environments.faults import EnvironmentFailed
from scg.agents.experience import acting
from scg.agents.experience.rollout import Rollout
from scg.agents.networks.finite_check import NotFinite
from scg.agents.networks.policies import make_policy

ON = "--epochs 1 --steps 4096"
OFF = "--steps 1500 --warmup 200 --hidden 16 --no-compile"


@pytest.mark.parametrize(
    "words",
    [
        f"ppo --env CartPole-v1 {ON}",
        f"ppo --env Pendulum-v1 {ON}",
        "reinforce --env CartPole-v1 --steps 2048",
        "reinforce --env Pendulum-v1 --steps 2048",
        "a2c --env Pendulum-v1 --steps 2048",
        f"sac --env Pendulum-v1 {OFF}",
        f"td3 --env Pendulum-v1 {OFF}",
        f"dqn --env CartPole-v1 {OFF}",
    ],
)
def test_a_learning_rate_that_is_too_high_is_said(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.train([*words.split(), "--lr", "1e38", "--eval-episodes", "1", "--out", str(tmp_path / "run")]) == 1
    shown = capsys.readouterr().err
    assert ", after step 0: " in shown
    assert re.search(r"parameter [a-z]+\.[a-z0-9_.]+ has (-?inf|nan|-?1e\+38)", shown), shown
    assert "The parameters have exploded: lower the learning rate." in shown
    assert f"Last good checkpoint: {tmp_path}/run/checkpoints/step-000000000000.pt" in shown


class Fussy(gym.Env):
    """Raises where an action is NaN; its observation is NaN from step `bad_at` on."""

    observation_space, action_space = gym.spaces.Box(-1.0, 1.0, (2,)), gym.spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, bad_at: int = 1000) -> None:
        self.bad_at, self.count = bad_at, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.count += 1
        assert np.isfinite(action).all(), "what is that"
        return np.full(2, np.nan if self.count >= self.bad_at else 0, np.float32), 0.0, False, False, {}


gym.register("Fussy-v0", entry_point=Fussy)


@pytest.mark.parametrize("env_id", ["Fussy-v0", "CartPole-v1"])
@pytest.mark.parametrize("parameter", ["first", "last"])
def test_a_policy_with_a_nan_does_not_act(env_id: str, parameter: str) -> None:
    with envs.make(env_id, 2) as vector:
        policy = make_policy(vector.obs_space, vector.action_space, [4], Generator().manual_seed(0))
        rollout = Rollout(vector, [0, 1], Generator().manual_seed(0))
        rollout.collect(policy, 3)
        named = dict(policy.named_parameters())
        parameters = list(named.values())
        with torch.no_grad():
            parameters[0 if parameter == "first" else -1].flatten()[0] = torch.nan
        with pytest.raises(NotFinite, match=r"(step 0 of the block.*policy's).*lower the learning rate"):
            rollout.collect(policy, 5)
        if parameter == "last" or "log_scale" not in named:
            with pytest.raises(NotFinite, match=r"the policy's network gives nan\. .*lower the learning rate"):
                acting.mode(policy)(np.zeros((1, *vector.obs_space.shape), np.float32))


@pytest.mark.parametrize("bad_at", [1, 3, 4])
def test_a_nan_of_the_environment_is_the_environments(bad_at: int) -> None:
    with envs.make("Fussy-v0", 2, bad_at=bad_at) as vector:
        policy = make_policy(vector.obs_space, vector.action_space, [4], Generator().manual_seed(0))
        rollout = Rollout(vector, [0, 1], Generator().manual_seed(0))
        with pytest.raises(EnvironmentFailed, match=f"environment 0, step {bad_at - 1} of the block: next_obs has nan"):
            rollout.collect(policy, 4)
