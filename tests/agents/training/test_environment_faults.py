"""What an environment must not do is one message: which one, when, what was found, the last good checkpoint; exit code 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from scg.agents.commands import cli
from scg.agents.environments import envs
from scg.agents.environments.faults import EnvironmentFailed, EnvironmentFault
from scg.agents.environments.recipe import Recipe
from scg.agents.networks.encoder import Encoder


class Faulty(gym.Env):
    """Episodes of three steps. Instance `who` and those after it do `fault` in their `at`th step, or in `reset`."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012
    fault, at, who, made = "", 20, 0, 0

    def __init__(self, space: gym.Space | None = None, render_mode: str | None = None) -> None:
        self.observation_space = space or spaces.Box(-1.0, 1.0, (3,))
        self.action_space, self.render_mode = spaces.Discrete(2), render_mode
        self.bad, self.steps = Faulty.made >= Faulty.who, 0
        Faulty.made += 1

    def obs(self) -> Any:
        return np.zeros(self.observation_space.shape, self.observation_space.dtype)[()]

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        match Faulty.fault if self.bad else "":
            case "reset raises":
                raise KeyError("map")
            case "reset without info":
                return self.obs()
        return self.obs(), {}

    def step(self, action: int) -> Any:
        self.steps += 1
        reward, obs, ended = 1.0, self.obs(), self.steps % 3 == 0
        if self.bad and self.steps >= Faulty.at:
            match Faulty.fault:
                case "raises":
                    raise ZeroDivisionError("no mass\nat all")
                case "four":
                    return obs, reward, ended, {}
                case "nan reward":
                    reward = float("nan")
                case "array reward":
                    reward = np.array([1.0])  # type: ignore[assignment]
                case "no reward":
                    reward = None  # type: ignore[assignment]
                case "nan obs":
                    obs = obs + np.nan
                case "short obs":
                    obs = np.zeros(1, np.float32)
                case "no obs":
                    obs = None
                case "no flag":
                    ended = None  # type: ignore[assignment]
        return obs, reward, ended, False, {}

    def render(self) -> Any:
        if Faulty.fault == "render raises":
            raise OSError("no screen")
        return None if Faulty.fault == "no picture" else np.zeros((8, 8, 3), np.uint8)


gym.register("Faulty-v0", entry_point=Faulty)

FAULTS = {
    "raises": "step raised ZeroDivisionError: no mass",
    "four": "must return (observation, reward, terminated, truncated, info)",
    "nan reward": "reward has nan",
    "array reward": "reward is an array of shape (1,)",
    "no reward": "reward is None (NoneType)",
    "nan obs": "obs has nan",
    "short obs": "an observation of shape (1,). The space declares (3,)",
    "no obs": "an observation that is no array of numbers: None",
    "no flag": "terminated is None",
}


@pytest.fixture(autouse=True)
def _harmless() -> None:
    Faulty.fault, Faulty.at, Faulty.who, Faulty.made = "", 20, 0, 0


def train(out: Path, *more: str, agent: str = "reinforce") -> int:
    words = f"{agent} --env Faulty-v0 --hidden 4 --eval-episodes 2 --out {out}".split()
    return cli.train([*words, *more])


def small(out: Path) -> int:
    return train(out, *["--steps", "64", "--envs", "2", "--horizon", "8", "--evaluations", "1"])


@pytest.mark.parametrize("fault", FAULTS)
def test_in_training(fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Faulty.fault = fault
    assert small(tmp_path / "run") == 1
    shown = capsys.readouterr().err
    assert shown.startswith("stopped: update 3, after step 32: environment 0, step 3 of the block: ")
    assert FAULTS[fault] in shown
    assert f"Last good checkpoint: {tmp_path}/run/checkpoints/step-" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("fault", FAULTS)
def test_in_an_evaluation(fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Faulty.fault, Faulty.at, Faulty.who = fault, 2, 4  # two are tried, two train; the evaluation's come after
    code = small(tmp_path / "run")
    shown = capsys.readouterr().err
    assert code == 1, shown
    assert shown.startswith("stopped: evaluation at step 64: environment ")
    assert FAULTS[fault] in shown
    assert "Last good checkpoint: " in shown


@pytest.mark.parametrize(("agent", "more"), [("dqn", "--warmup 16"), ("es", "--population 4")])
def test_in_other_agents(agent: str, more: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Faulty.fault = "array reward"
    Faulty.at = 1 if agent == "es" else 20
    assert train(tmp_path / "run", *f"--steps 64 {more}".split(), agent=agent) == 1
    shown = capsys.readouterr().err
    assert "reward is an array of shape (1,)" in shown
    assert "Last good checkpoint: " in shown


@pytest.mark.parametrize(
    ("fault", "says"),
    [("reset raises", "reset raised KeyError: 'map'"), ("reset without info", "It must return (observation, info)")],
)
def test_a_reset_that_fails_leaves_nothing_behind(
    fault: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Faulty.fault = fault
    assert small(tmp_path / "run") == 1
    shown = capsys.readouterr().err
    assert shown.startswith("stopped: environment 0")
    assert says in shown
    assert not (tmp_path / "run").exists()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    assert small(tmp_path / "run") == 0
    return tmp_path / "run"


def test_in_scg_eval(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Faulty.fault, Faulty.at = "short obs", 2
    assert cli.evaluate([str(run), "--episodes", "2"]) == 1
    assert "environment 0, step 1 of the block: step gave an observation of shape (1,)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("no picture", "step 0 of the episode: render returned NoneType"),
        ("render raises", "step 0 of the episode: render raised OSError: no screen"),
        ("raises", "step 1 of the episode: step raised ZeroDivisionError"),
        ("nan reward", "step 1 of the episode: reward has nan"),
    ],
)
def test_in_a_video(fault: str, says: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Faulty.fault, Faulty.at = fault, 2
    film = run / "films" / "policy.gif"
    assert cli.video([str(run), "--out", str(film)]) == 1
    assert says in capsys.readouterr().err
    assert list(film.parent.iterdir()) == []
    Faulty.fault = ""
    assert cli.video([str(run), "--out", str(film)]) == 0
    assert list(film.parent.iterdir()) == [film]


@pytest.mark.parametrize(
    ("space", "obs", "says"),
    [
        (spaces.Discrete(4), -1, "-1, which is outside its space"),
        (spaces.Discrete(4), 4, "4, which is outside its space"),
        (spaces.Discrete(4), np.array([1]), "of shape (1,). The space declares ()"),
        (spaces.Box(-1, 1, (3,)), np.zeros((1, 3), np.float32), "of shape (1, 3)"),
        (spaces.Box(0, 255, (2,), np.uint8), np.array([0.5, 0.0]), "with 0.5, which uint8 cannot hold"),
        (spaces.Box(0, 255, (2,), np.uint8), np.array([-1, 0]), "with -1, which uint8 cannot hold"),
        (spaces.Box(-1, 1, (2,)), np.array([1j, 0]), "that is no array of numbers"),
        (spaces.Box(-1, 1, (2,)), [[1.0], [2.0, 3.0]], "that is no array of numbers"),
        (spaces.Box(-1, 1, (2,)), [0.5, 1], ""),
        (spaces.Box(-1, 1, (2,)), [0.5, 2], "outside its space: entry [1] is 2, its bounds are -1 and 1. If the environment"),
        (spaces.Box(-1, 1, (2,)), np.array([-1.00002, 0], np.float32), "outside its space: entry [0] is -1.00002"),
        (spaces.Box(-1, 1, (2,)), np.array([-1.00001, 1.000009], np.float32), ""),  # roundings
        (spaces.Box(0, np.inf, (2,)), np.array([1e30, -1e-4], np.float32), "outside its space: entry [1] is -0.0001"),
        (spaces.Box(0, np.inf, (2,)), np.array([1e30, -1e-6], np.float32), ""),
        (spaces.Box(0, 200, (2,), np.uint8), np.array([3, 201], np.uint8), "outside its space: entry [1] is 201"),
        (spaces.Box(-np.inf, np.inf, (2,)), np.array([np.inf, -3], np.float32), ""),
        (spaces.Box(0, 255, (2,), np.uint8), np.array([3, 255]), ""),
        (spaces.Discrete(4, start=-1), -1, ""),
    ],
)
def test_an_observation_must_be_one_of_its_space(
    space: gym.Space, obs: Any, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with envs.make("Faulty-v0", 2, space=space) as vector:
        vector.reset([0, 1])
        monkeypatch.setattr(Faulty, "obs", lambda self: obs)
        if not says:
            assert np.array_equal(vector.step(np.zeros(2, np.int64)).next_obs[1], obs)
            return
        with pytest.raises(EnvironmentFailed) as caught:
            vector.step(np.zeros(2, np.int64))
        assert f"environment 0: step gave an observation {says}" in str(caught.value)
        with pytest.raises(EnvironmentFailed, match="environment 0: reset gave an observation"):
            vector.reset([0, 1])


class Thin(Faulty):
    """Steps many of itself at once, and gives one number where three are declared."""

    @classmethod
    def step_many(cls, envs: Any, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.zeros((len(envs), 1)), np.zeros(len(envs)), np.zeros(len(envs), bool)


gym.register("Thin-v0", entry_point=Thin)


def test_a_batch_of_observations_of_another_shape_is_not_broadcast() -> None:
    with envs.make("Thin-v0", 2, step_timeout=9.0) as vector:
        vector.reset([0, 1])
        with pytest.raises(EnvironmentFailed, match=r"step_many gave .* of shapes \[\(2, 1\), \(2,\), \(2,\)\] for 2 of them"):
            vector.step(np.zeros(2, np.int64))


def test_an_environment_with_wrong_bounds_has_a_way_on(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = np.array([0.0, 7.0, 0.0], np.float32)
    monkeypatch.setattr(Faulty, "obs", lambda self: outside)
    with envs.make("Faulty-v0", 1) as vector, pytest.raises(EnvironmentFailed, match="Unbounded") as caught:
        vector.reset([0])
    _, _, wrapper = str(caught.value).rpartition("--wrapper ")
    with envs.make(Recipe("Faulty-v0", (), (wrapper,)), 1) as vector:
        assert np.array_equal(vector.reset([0])[0], outside)
    with pytest.raises(EnvironmentFault, match="Only a Box of floating-point numbers"):
        envs.make(Recipe("Faulty-v0", (), (wrapper,)), 1, space=spaces.Discrete(4))


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0"])
def test_the_declared_bounds_of_classic_control_hold(env: str) -> None:
    with envs.make(env, 2) as vector:
        vector.reset([0, 1])
        dice = np.random.default_rng(0)
        for _ in range(300):
            discrete = isinstance(vector.action_space, spaces.Discrete)
            vector.step(dice.integers(2, size=2) if discrete else dice.uniform(-1, 1, (2, 1)).astype(np.float32))


def test_observations_of_several_numbers_come_one_hot() -> None:
    with envs.make("Faulty-v0", 1, space=spaces.MultiDiscrete([3, 4])) as vector:
        assert Encoder(vector.obs_space)(torch.as_tensor(vector.reset([0]))).shape == (1, 7)
