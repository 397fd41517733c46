"""Evaluations end, whatever the environment does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from torch import Generator

from scg.agents.commands import cli
from scg.agents.environments import envs
from scg.agents.experience.rollout import Rollout
from scg.agents.networks.policies import make_policy
from scg.agents.training.evaluation import Evaluation, evaluate


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


class Single(gym.Env):
    """One step, its reward what the seed gave. There can be one instance at a time."""

    observation_space, action_space = gym.spaces.Box(-1.0, 1.0, (1,)), gym.spaces.Discrete(2)
    alive = 0

    def __init__(self) -> None:
        if Single.alive:
            raise OSError("port 5005 is in use")
        Single.alive = 1

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.zeros(1, np.float32), self.np_random.uniform(), True, False, {}

    def close(self) -> None:
        Single.alive = 0


class Many(Single):
    def __init__(self) -> None:
        pass


gym.register("Endless-v0", entry_point=Endless)
gym.register("Single-v0", entry_point=Single)
gym.register("Many-v0", entry_point=Many)


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


@pytest.mark.parametrize("actions", ["mode", "sample"])
def test_episodes_run_one_after_the_other_where_there_can_be_one_environment(actions: str) -> None:
    policy = make_policy(Single.observation_space, Single.action_space, [4], Generator().manual_seed(0))
    one, many = (evaluate(policy, env_id, 4, 0, 0, actions) for env_id in ("Single-v0", "Many-v0"))
    assert one == many
    assert len(set(one.returns)) == 4


WORDS = "reinforce --hidden 4 --horizon 8 --steps 32 --eval-episodes 2"


def test_an_environment_that_exists_once_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "run")]
    for more in (["--envs", "1"], ["--evaluations", "0"]):
        assert cli.train([*WORDS.split(), "--env", "Single-v0", *more, *out]) == 2
        shown = capsys.readouterr().err
        assert "'Single-v0' cannot start: OSError: port 5005 is in use\nOnly 1 of 2 instances could be made" in shown
        assert "--envs 1 --evaluations 0" in shown
        assert not (tmp_path / "run").exists()
    assert Single.alive == 0


def test_a_run_without_evaluations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert cli.train([*WORDS.split(), "--env", "Single-v0", "--envs", "1", "--evaluations", "0", "--out", str(out)]) == 0
    assert f"done, without an evaluation; graph and checkpoints in {out}" in capsys.readouterr().out
    assert not (out / "evaluations.csv").exists()
    assert cli.train(["--resume", str(out), "--steps", "64"]) == 0
    assert cli.evaluate([str(out), "--episodes", "3"]) == 0
    assert "3 fresh episodes of Single-v0" in capsys.readouterr().out


def test_small_returns_are_said_to_three_places() -> None:
    small, large = Evaluation([0.81, 0.92, 0.75], [48] * 3), Evaluation([-3.25, 500.0], [9, 9])
    assert [small.shown(x) for x in (small.mean, small.error)] == ["0.827", "0.050"]
    assert [large.shown(x) for x in (large.mean, -3.25)] == ["248.4", "-3.2"]


def test_the_limit_is_on_by_default_and_said_in_the_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Endless.made = 0
    assert cli.train([*WORDS.split(), "--env", "Endless-v0", "--evaluations", "1", "--out", str(tmp_path / "run")]) == 0
    assert "done: evaluation return 5001.5, 1 of them stopped after 10000 steps;" in capsys.readouterr().out


def test_whole_episodes_in_training_end_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("scg.agents.reinforce.ENDLESS", 50)
    monkeypatch.setattr("scg.agents.search.agent.ENDLESS", 50)
    out = ["--env", "Endless-v0", "--steps", "60", "--eval-steps", "9", "--eval-episodes", "2"]
    assert cli.train(["reinforce", "--horizon", "0", "--envs", "2", *out, "--out", str(tmp_path / "a")]) == 0
    assert cli.train(["es", "--population", "2", *out, "--out", str(tmp_path / "b")]) == 1
    assert "an episode has not ended after 60 steps. A return needs whole episodes" in capsys.readouterr().err
