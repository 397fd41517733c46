"""Running statistics inside an environment are refused: an evaluation would have others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import NormalizeObservation, NormalizeReward

from scg.agents.commands import cli
from scg.agents.environments import envs


class Mine(NormalizeObservation):
    """Of a user's own."""


def frozen(env: gym.Env) -> gym.Env:
    wrapper = NormalizeObservation(env)
    wrapper.obs_rms.mean[:] = 1.0
    wrapper.update_running_mean = False
    return wrapper


def under(wrap: Any) -> Any:
    return lambda: wrap(gym.make("Pendulum-v1"))


gym.register("WithObs-v0", entry_point=under(NormalizeObservation))
gym.register("WithMine-v0", entry_point=under(Mine))
gym.register("WithReward-v0", entry_point=under(NormalizeReward), max_episode_steps=7)
gym.register("Frozen-v0", entry_point=under(frozen))


@pytest.mark.parametrize(
    ("env_id", "name", "remedy"),
    [
        ("WithObs-v0", "NormalizeObservation", "--normalise-obs"),
        ("WithMine-v0", "NormalizeObservation", "--normalise-obs"),
        ("WithReward-v0", "NormalizeReward", "--scale-reward"),
    ],
)
@pytest.mark.parametrize("agent", ["ppo", "sac", "es"])
def test_a_wrapper_that_learns_is_refused(
    agent: str, env_id: str, name: str, remedy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.train([agent, "--env", env_id, "--out", str(tmp_path / "run")]) == 2
    shown = capsys.readouterr().err
    assert f"error: environment '{env_id}' is wrapped in {name}, whose running statistics" in shown
    assert remedy in shown
    assert not (tmp_path / "run").exists()


def test_statistics_that_stand_still_are_allowed() -> None:
    with envs.make("Frozen-v0", 2) as vector, envs.make("Pendulum-v1", 2) as plain:
        assert np.allclose(vector.reset([0, 1]), plain.reset([0, 1]) - 1.0, atol=1e-5)
