"""`scg.train` and `scg.resume`: environments as classes, functions and instances, and what cannot be made again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

import scg
from scg.agents.commands import cli
from scg.agents.environments import origin
from scg.agents.environments.faults import EnvironmentFault
from scg.agents.execution.options import OptionError
from scg.agents.reinforce import Reinforce
from scg.agents.training.run_directory import RunDirectory, RunError, read_table
from tests.agents.training.test_loop import assert_same, last_state

SHORT: dict[str, Any] = {"steps": 32, "horizon": 8, "hidden": (4,), "checkpoints": 2, "quiet": True}
ALL = {**SHORT, "envs": 2, "evaluations": 1, "eval_episodes": 2}


class Count(gym.Env):
    """Rewards are 1; an episode has `length` steps. Its whole state is a number."""

    observation_space, action_space = spaces.Box(-10.0, 10.0, (1,)), spaces.Discrete(2)

    def __init__(self, length: int = 3) -> None:
        self.length, self.at, self.closed = length, 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.at = 0
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        self.at += 1
        return self._obs(), 1.0, self.at == self.length, False, {}

    def close(self) -> None:
        self.closed += 1

    def get_state(self) -> dict[str, Any]:
        return {"at": self.at}

    def set_state(self, state: dict[str, Any]) -> None:
        self.at = state["at"]

    def _obs(self) -> np.ndarray:
        return np.array([self.at + self.np_random.normal()], np.float32)


def longer() -> gym.Env:
    return Count(length=4)


class Wide(Count):
    observation_space = spaces.Box(-10.0, 10.0, (2,))

    def _obs(self) -> np.ndarray:
        return np.zeros(2, np.float32)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(origin, "_given", {})
    torch.set_default_dtype(torch.float32)


def last_return(run: Path) -> float:
    return read_table(run / "evaluations.csv")[-1]["return"]


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As another process: no object is known."""
    monkeypatch.setattr(origin, "_given", {})


@pytest.mark.parametrize(("env", "wanted"), [(Count, 3.0), (longer, 4.0)])
def test_a_class_and_a_function_are_recorded_by_their_names_and_any_process_makes_them(
    env: Any, wanted: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = scg.train("reinforce", env, **ALL)
    assert run == Path(f"runs/reinforce-{env.__qualname__}-seed0")
    assert last_return(run) == wanted
    assert RunDirectory.open(run).run.env == f"{__name__}:{env.__qualname__}"
    forget(monkeypatch)
    assert cli.evaluate([str(run), "--episodes", "2", "--trust"]) == 0
    assert f"return {wanted}" in capsys.readouterr().out
    assert scg.resume(run, steps=48, trust=True, quiet=True) == run
    with pytest.raises(RunError, match="Say --trust"):
        scg.load(run)
    assert scg.load(run, env=env)(np.zeros(1)) in (0, 1)  # the caller has it: nothing is imported


def test_arguments_of_a_class_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    run = scg.train("reinforce", Count, env_kwargs={"length": 5}, **ALL)
    assert last_return(run) == 5.0
    assert RunDirectory.open(run).run.env_kwargs == ("length=5",)
    with pytest.raises(RunError, match="option env_kwargs is .*: a run keeps numbers"):
        scg.train("reinforce", Count, env_kwargs={"length": np.float64}, **ALL)


def test_a_lambda_trains_and_evaluates_here_and_is_asked_for_by_name_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make = lambda: TimeLimit(Count(length=9), 6)  # noqa: E731
    run = scg.train(Reinforce(hidden=(4,), horizon=8), make, steps=32, envs=2, evaluations=1, eval_episodes=2, quiet=True)
    assert last_return(run) == 6.0
    assert run == Path("runs/reinforce-given-lambda-seed0")
    scg.resume(run, steps=48, quiet=True)
    forget(monkeypatch)
    assert cli.evaluate([str(run)]) == 2
    assert "environment 'given/lambda' was given to scg.train as an object" in capsys.readouterr().err
    scg.resume(run, steps=64, env=make, quiet=True)
    assert last_return(run) == 6.0
    assert scg.load(run, env=make)(np.zeros(1)) in (0, 1)


def test_an_instance_is_one_environment_and_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    env = Count()
    run = scg.train("reinforce", env, **SHORT)
    opened = RunDirectory.open(run).run
    assert (opened.env, opened.envs, opened.evaluations) == ("given/Count", 1, 0)
    assert env.closed == 0 and not (run / "evaluations.csv").exists()
    again = scg.train("reinforce", env, **SHORT)  # it was given back
    assert RunDirectory.open(again).run.env == "given/Count"
    forget(monkeypatch)
    with pytest.raises(EnvironmentFault, match=r"Give it again, from Python: scg.resume\(run, env=…\)"):
        scg.resume(run, steps=48, quiet=True)
    scg.resume(run, steps=48, env=env, quiet=True)
    assert read_table(run / "metrics.csv")[-1]["step"] == 48


def test_a_run_on_an_instance_with_a_state_ends_in_the_same_bits_when_it_resumes() -> None:
    whole = scg.train("reinforce", Count(length=5), **{**SHORT, "checkpoints": 4}, keep_checkpoints=0, out="whole")
    parts = scg.train("reinforce", Count(length=5), **{**SHORT, "checkpoints": 4}, keep_checkpoints=0, out="parts")
    for file in sorted((parts / "checkpoints").glob("step-*.pt"))[2:]:
        file.unlink()
    scg.resume(parts, env=Count(length=5), quiet=True)
    assert_same(last_state(RunDirectory.open(whole)), last_state(RunDirectory.open(parts)))


@pytest.mark.parametrize("option", ["envs", "evaluations"])
def test_a_second_one_beside_an_instance_is_refused_by_name(option: str) -> None:
    with pytest.raises(RunError, match=f"option {option} is 2, but env is an environment that was made"):
        scg.train("reinforce", Count(), **{**SHORT, option: 2})
    assert not Path("runs").exists()


def test_an_instance_that_is_in_use_is_not_lent_again() -> None:
    name = origin.give(Count())
    made = origin.origin(name).make()
    with pytest.raises(RuntimeError, match="it is one object, in use already"):
        origin.origin(name).make()
    made.close()
    origin.origin(name).make()


def test_other_spaces_than_those_of_the_run_are_refused() -> None:
    run = scg.train("reinforce", Count(), **SHORT)
    with pytest.raises(RunError, match=r"its observation space is Box\(1,\) of numbers, and this environment's is Box\(2,\)"):
        scg.resume(run, steps=48, env=Wide(), quiet=True)
    scg.resume(run, steps=48, env=Count(), quiet=True)


def test_another_class_than_the_runs_is_refused() -> None:
    run = scg.train("reinforce", Count, **ALL)
    with pytest.raises(RunError, match="Leave env out, or give that one"):
        scg.resume(run, env=longer, quiet=True)


FAULTS: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "env": (3, {}, EnvironmentFault, "env is a int. Give an id of gymnasium"),
    "returns": (lambda: 3, {}, EnvironmentFault, "cannot start: TypeError: it returned int, no gymnasium.Env"),
    "option": (Count, {"horizn": 3}, OptionError, "no option is called 'horizn'. Did you mean 'horizon'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_makes_no_sense_is_one_message(fault: str) -> None:
    env, options, kind, message = FAULTS[fault]
    with pytest.raises(kind, match=message):
        scg.train("reinforce", env, **ALL, **options)
    with pytest.raises(OptionError, match="Give a name of scg train"):
        scg.train(3, Count)
    assert not Path("runs").exists()


FILE = """
import gymnasium as gym
from tests.agents.commands.test_python import Count

class Mine(Count):
    pass

class Doubled(gym.RewardWrapper):
    def reward(self, reward):
        return 2 * reward

gym.register("InAFile-v0", entry_point=Mine)
"""


@pytest.mark.parametrize("name", ["Mine", "InAFile-v0"])
def test_an_environment_and_a_wrapper_are_found_by_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "world.py").write_text(FILE)
    words = ["--steps", "32", "--envs", "2", "--horizon", "8", "--hidden", "4", "--evaluations", "1", "--eval-episodes", "2"]
    env = ["--env", f"mine/world.py:{name}", "--wrapper", "mine/world.py:Doubled"]
    assert cli.train(["reinforce", *env, *words]) == 0
    run = tmp_path / "runs" / f"reinforce-{name}-seed0"
    assert last_return(run) == 6.0
    content = json.loads((run / "config.json").read_text())["run"]
    assert content["env"] == f"{folder / 'world.py'}:{name}" and content["wrapper"] == [f"{folder / 'world.py'}:Doubled"]
    other = tmp_path / "elsewhere"
    other.mkdir()
    monkeypatch.chdir(other)
    capsys.readouterr()
    assert cli.evaluate([str(run), "--episodes", "2"]) == 2
    assert f"runs the Python file {folder / 'world.py'}" in capsys.readouterr().err
    assert cli.evaluate([str(run), "--episodes", "2", "--trust"]) == 0
    assert "return 6.0" in capsys.readouterr().out
    (folder / "world.py").unlink()
    assert cli.evaluate([str(run), "--trust"]) == 2
    assert "there is no file" in capsys.readouterr().err
    sys.modules.pop("world", None)


def test_a_file_without_that_name_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "world.py").write_text(FILE.replace("InAFile", "InAFile2"))
    assert cli.train(["reinforce", "--env", "world.py:Mien"]) == 2
    assert f"Nor has {tmp_path / 'world.py'} a class or function 'Mien'" in capsys.readouterr().err
    assert cli.train(["reinforce", "--env", "wrld.py:Mine"]) == 2
    assert "there is no file" in capsys.readouterr().err
    sys.modules.pop("world", None)
