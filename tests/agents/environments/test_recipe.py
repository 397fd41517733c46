"""Environments of one's own: a module of the current folder, arguments, wrappers; kept with the run."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import scg
from scg.agents.commands import cli
from scg.agents.environments import envs
from scg.agents.environments.faults import EnvironmentFault
from scg.agents.environments.recipe import Recipe
from scg.agents.training.run_config import migrated
from scg.agents.training.run_directory import RunDirectory, read_table

MINE = """
import gymnasium as gym
import numpy as np

class Level(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1.0, 1.0, (1,)), gym.spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}

    def __init__(self, level=0.0, word="", render_mode=None):
        self.level, self.word, self.render_mode = level, word, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), self.level + len(self.word), True, False, {}

    def render(self):
        return np.zeros((8, 8, 3), np.uint8)

class Doubled(gym.RewardWrapper):
    def reward(self, reward):
        return 2 * reward

class Longer(gym.ObservationWrapper):
    def __init__(self, env):
        super().__init__(env)
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (5,))

    def observation(self, obs):
        return np.zeros(5, np.float32)

def nothing(env):
    return None

gym.register("Level-v0", entry_point=Level)
"""
OPTIONS = "--env mine_here:Level-v0 --env-kwargs level=3 word=four --wrapper mine_here:Doubled"
SHORT = "--steps 32 --envs 2 --horizon 8 --hidden 4 --evaluations 1 --eval-episodes 2 --checkpoints 1 --out run"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine_here.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "mine_here", raising=False)
    return tmp_path


def test_a_run_keeps_module_arguments_and_wrappers_of_its_environment(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.train(["reinforce", *OPTIONS.split(), *SHORT.split()]) == 0
    assert [row["return"] for row in read_table(here / "run" / "evaluations.csv")] == [14.0]  # 2 · (3 + 4)
    assert RunDirectory.open(here / "run").run.recipe == Recipe(
        "mine_here:Level-v0", ("level=3", "word=four"), ("mine_here:Doubled",)
    )
    capsys.readouterr()
    assert cli.evaluate(["run", "--trust", "--episodes", "2"]) == 0
    assert "return 14.0" in capsys.readouterr().out
    assert cli.video(["run", "--trust", "--out", "film.gif"]) == 0
    assert "return 14.0" in capsys.readouterr().out
    assert cli.train(["--resume", "run", "--steps", "64", "--trust"]) == 0
    assert [row["return"] for row in read_table(here / "run" / "evaluations.csv")][-1] == 14.0


def test_a_loaded_policy_knows_the_environment_that_it_was_trained_in(here: Path) -> None:
    """Its arguments and wrappers, which may change the spaces of observations and actions."""
    options = ["--env", "mine_here:Level-v0", "--env-kwargs", "level=3", "word=four", "--wrapper", "mine_here:Longer"]
    assert cli.train(["reinforce", *options, *SHORT.split()]) == 0
    policy = scg.load("run", trust=True)
    assert policy.obs_space.shape == (5,)
    assert policy.action_space.contains(policy(np.zeros(5, np.float32)))


def test_the_module_of_a_wrapper_is_not_imported_without_a_word(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.train(["reinforce", "--wrapper", "mine_here:Doubled", *SHORT.split()]) == 0
    sys.modules.pop("mine_here")
    assert cli.evaluate(["run"]) == 2
    assert "imports the Python module 'mine_here'" in capsys.readouterr().err
    assert "mine_here" not in sys.modules


FAULTS = {
    "--env-kwargs level": "option env_kwargs: 'level'. Say name=value",
    "--env-kwargs 1a=3": "option env_kwargs: '1a=3'. Say name=value",
    "--env-kwargs level=1 level=2": "'level' is given twice",
    "--env-kwargs colour=1": "environment 'mine_here:Level-v0' cannot start: TypeError",
    "--wrapper Doubled": "option wrapper: 'Doubled'. Say module:Class",
    "--wrapper mine_here:Trebled": "module 'mine_here' has no class 'Trebled'",
    "--wrapper no_module:X": "wrapper 'no_module:X': module 'no_module' cannot be imported",
    "--wrapper mine_here:nothing": "wrapper 'mine_here:nothing' returned NoneType. It must return an environment",
    "--wrapper gymnasium.wrappers:TimeLimit": "cannot wrap 'mine_here:Level-v0': TypeError",
    "--wrapper gymnasium.wrappers:NormalizeReward": "is wrapped in NormalizeReward, whose running statistics",
}


@pytest.mark.parametrize("words", FAULTS)
def test_what_cannot_be_made_is_one_message_and_leaves_nothing(
    words: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.train(["reinforce", "--env", "mine_here:Level-v0", *words.split(), *SHORT.split()]) == 2
    assert FAULTS[words] in capsys.readouterr().err
    assert not (here / "run").exists()


def test_an_unknown_id_says_how_a_module_is_named() -> None:
    with pytest.raises(EnvironmentFault, match="If a module registers it, say module:Id"):
        envs.make("Nowhere-v0", 1)


def test_workers_of_their_own_process_make_it_too(here: Path) -> None:
    words = f"a3c --learners 1 {OPTIONS} {SHORT}"
    assert cli.train(words.split()) == 0
    assert [row["return"] for row in read_table(here / "run" / "evaluations.csv")] == [14.0]


def test_files_of_before_have_no_arguments_and_no_wrappers() -> None:
    content = {"version": 1, "agent": "td3", "run": {"env": "X"}, "config": {"lr": 1.0}, "execution": {}}
    now, assumed = migrated(content, "here")
    assert now["run"] == {"env": "X", "env_kwargs": [], "wrapper": [], "start": ""}
    assert now["config"] == {"lr": 1.0, "normalise_obs": False} and now["version"] == 3 and not assumed
