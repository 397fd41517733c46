"""Goal environments: what they do, what of their observations agents see, and that their runs resume."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from torch import Generator

from scg.agents import config_type
from scg.agents.commands import cli
from scg.agents.environments import envs, robotics
from scg.agents.environments.envs import EnvironmentFault
from scg.agents.environments.goal_space import PARTS, GoalSpace
from scg.agents.environments.goal_tasks import BitFlip, PointReach
from scg.agents.networks.encoder import Encoder
from scg.agents.training.evaluation import evaluate
from scg.agents.training.loop import train
from scg.agents.training.run_directory import RunConfig, RunDirectory, read_table
from tests.agents.common.test_off_policy import whole_state
from tests.agents.training.test_loop import assert_same

IDS = ("BitFlip4-v0", "PointReach-v0")


@pytest.mark.parametrize("env_id", IDS)
def test_goal_environments_keep_gymnasiums_protocol(env_id: str) -> None:
    check_env(gym.make(env_id).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("terminates", [False, True])
def test_rewards_and_endings_follow_from_the_goals_alone(terminates: bool) -> None:
    """gymnasium's `GoalEnv` protocol: what `step` returns is what the functions say of the next observation."""
    made = [BitFlip(3), PointReach(radius=0.4, terminates=terminates)]
    for env in made:
        obs, _ = env.reset(seed=0)
        env.action_space.seed(0)
        rewards = set()
        for t in range(300):
            goal = obs["desired_goal"]
            obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
            assert np.array_equal(obs["desired_goal"], goal)
            assert reward == env.compute_reward(obs["achieved_goal"], goal, info)
            assert terminated == env.compute_terminated(obs["achieved_goal"], goal, info)
            assert truncated == env.compute_truncated(obs["achieved_goal"], goal, info)
            assert info["is_success"] == (reward == 0)
            rewards.add(reward)
            if terminated or t % 10 == 9:
                obs, _ = env.reset()
        assert rewards == {-1.0, 0.0}


def test_bit_flip_flips_the_bit_that_the_action_names_and_ends_at_the_goal() -> None:
    env = gym.make("BitFlip6-v0")
    for seed in range(20):
        obs, _ = env.reset(seed=seed)
        wrong = np.flatnonzero(obs["observation"] != obs["desired_goal"])
        assert len(wrong) > 0  # it never starts at its goal
        for i, bit in enumerate(wrong):
            obs, reward, terminated, truncated, _ = env.step(bit)
            at_goal = i == len(wrong) - 1
            assert (terminated, reward) == (at_goal, 0.0 if at_goal else -1.0)
            assert not truncated or i == 5
    env.reset(seed=0)
    assert [env.step(0)[3] for _ in range(6)] == [False] * 5 + [True]  # as many steps as bits


def test_a_point_moves_by_its_speed_and_stops_at_walls() -> None:
    env = PointReach(speed=0.25)
    env.reset(seed=0)
    env.point = np.array([0.0, 0.9], np.float32)
    obs, *_ = env.step(np.array([-3.0, 1.0]))  # clipped to the unit box
    assert obs["achieved_goal"].tolist() == [-0.25, 1.0]


def test_an_observation_is_one_array_and_nets_see_all_but_what_is_achieved() -> None:
    with envs.make("PointReach-v0", 2) as vector, gym.make("PointReach-v0") as plain:
        space = vector.obs_space
        assert isinstance(space, GoalSpace)
        assert (space.shape, space.features, space.goal_shape) == ((6,), 4, (2,))
        obs, (known, _) = vector.reset([7, 8])[0], plain.reset(seed=7)
        assert np.array_equal(obs, np.concatenate([known[part] for part in PARTS]))
        assert np.array_equal(obs[space.desired], known["desired_goal"])
        assert np.array_equal(obs[space.achieved], known["achieved_goal"])
        encoder = Encoder(space)
        assert encoder.features == 4
        assert np.array_equal(encoder.numpy()(obs[None]), obs[None, :4])
        assert torch.equal(encoder(torch.from_numpy(obs)), torch.from_numpy(obs[:4]))


def test_a_box_that_is_no_goal_space_is_never_cut() -> None:
    """An observation too wide for its net stays an error."""
    encoder = Encoder(spaces.Box(-1, 1, (4,)))
    assert encoder(torch.zeros(3, 6)).shape == (3, 6)
    assert encoder.numpy()(np.zeros((3, 6), np.float32)).shape == (3, 6)


def test_goals_keep_their_shape_for_the_environments_functions() -> None:
    class Matrix(PointReach):
        def compute_reward(self, achieved: Any, desired: Any, info: dict) -> Any:
            assert np.shape(achieved)[-2:] == (2, 3)
            return -np.abs(achieved - desired).sum((-1, -2))

        def compute_terminated(self, achieved: Any, desired: Any, info: dict) -> bool:
            return False  # one answer for a whole batch

    goal = spaces.Box(-1, 1, (2, 3))
    parts = {"observation": spaces.Discrete(5), "desired_goal": goal, "achieved_goal": goal}
    env = Matrix()
    env._is_success = None  # type: ignore[assignment]
    space = GoalSpace(spaces.Dict(parts), env)
    assert (space.shape, space.features) == ((17,), 11)
    one, two = np.random.default_rng(0).normal(size=(2, 7, 6))
    assert np.allclose(space.reward(one, two), -np.abs(one - two).sum(-1), rtol=1e-12)
    assert space.terminated(one, two).tolist() == [False] * 7


@pytest.mark.parametrize("env_id", IDS)
def test_evaluation_says_how_often_the_goal_is_reached(env_id: str) -> None:
    """A policy that knows the way reaches it always, one that does nothing useful does not."""
    size = 4 if "Bit" in env_id else 2

    class Knows(torch.nn.Module):
        def __init__(self, sign: float) -> None:
            super().__init__()
            self.sign = sign

        def noise(self, shape: Any, generator: Generator) -> np.ndarray:
            return np.zeros((*shape, 0))

        def numpy_actor(self) -> Any:
            def act(obs: np.ndarray, noise: Any) -> np.ndarray:
                missing = obs[:, size : 2 * size] - obs[:, :size]
                return np.abs(self.sign * missing + (self.sign < 0)).argmax(-1) if "Bit" in env_id else self.sign * 10 * missing

            return act

    with_sign = [evaluate(Knows(sign), env_id, 20, 0, 0, "mode").success for sign in (1.0, -1.0)]
    assert with_sign[0] == 1.0
    assert with_sign[1] is not None and with_sign[1] < 0.3
    assert evaluate(Knows(1.0), env_id, 2, 0, 0, "mode").row()["success"] == 1.0


def test_a_killed_run_with_hindsight_resumes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = RunConfig("BitFlip4-v0", steps=60, envs=2, evaluations=1, eval_episodes=2, checkpoints=6)
    config = config_type("dqn")(her="episode", n_step=2, warmup=10, horizon=1, batch=8, hidden=(8,), replay=30, report=1)
    whole, killed = (RunDirectory.create("dqn", options, config, tmp_path / name) for name in ("whole", "killed"))
    train(whole, quiet=True)
    from scg.agents.training.loop import _Training

    update, calls = _Training._update, iter(range(1000))

    def dies(self: Any) -> None:
        if next(calls) == 17:
            raise KeyboardInterrupt
        update(self)

    with monkeypatch.context() as patch:
        patch.setattr(_Training, "_update", dies)
        with pytest.raises(KeyboardInterrupt):
            train(killed, quiet=True)
    train(RunDirectory.open(tmp_path / "killed"), resume=True, quiet=True)
    assert_same(whole_state(whole), whole_state(killed))


def test_runs_on_goals_report_their_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "sac --env PointReach-v0 --steps 60 --her final --warmup 40 --hidden 8 --batch 8 --report 5 --evaluations 2"
    flags = [*text.split(), "--eval-episodes", "2", "--checkpoints", "1", "--out", str(tmp_path / "run")]
    assert cli.train(flags) == 0
    assert all(0 <= row["success"] <= 1 for row in read_table(tmp_path / "run" / "evaluations.csv"))
    assert cli.evaluate([str(tmp_path / "run"), "--episodes", "3"]) == 0
    assert "goal reached at the end of" in capsys.readouterr().out


# -- gymnasium-robotics --------------------------------------------------------------------------------------


def test_joint_types_compare_with_numbers_where_mujocos_do_not() -> None:
    module = SimpleNamespace(mujoco=mujoco)
    robotics.repair(module, mujoco)
    for name in robotics.JOINTS:
        joint = getattr(module.mujoco.mjtJoint, name)
        assert joint == np.int32(int(getattr(mujoco.mjtJoint, name)))
    assert module.mujoco.mj_name2id is mujoco.mj_name2id
    assert mujoco.mjtJoint.mjJNT_SLIDE is not module.mujoco.mjtJoint.mjJNT_SLIDE  # nobody else's are changed


def test_a_mujoco_whose_joint_types_compare_is_left_alone() -> None:
    older = SimpleNamespace(mjtJoint=SimpleNamespace(**{name: np.int32(i) for i, name in enumerate(robotics.JOINTS)}))
    module = SimpleNamespace(mujoco=older)
    robotics.repair(module, older)
    assert module.mujoco is older


def test_a_missing_robotics_package_is_an_error_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robotics, "find_spec", lambda name: None)
    with pytest.raises(
        EnvironmentFault, match=r"'FetchNothing-v9' is one of gymnasium-robotics'.*pip install 'torch-scg\[robotics\]'"
    ):
        envs.make("FetchNothing-v9", 1)


def test_a_package_is_registered_by_whoever_asks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's versions are written before its first environment is made."""

    def prepare(env_id: str) -> bool:
        gym.register("FetchLate-v0", "gymnasium.envs.classic_control.cartpole:CartPoleEnv", max_episode_steps=7)
        return True

    monkeypatch.setattr(robotics, "prepare", prepare)
    try:
        assert envs.versions("FetchLate-v0")["env"]["max_episode_steps"] == 7
    finally:
        gym.registry.pop("FetchLate-v0", None)
    monkeypatch.undo()
    monkeypatch.setattr(robotics, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault, match="is one of gymnasium-robotics'"):
        envs.versions("FetchNothing-v9")


def test_a_module_before_the_name_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_environments.py").write_text(
        "import gymnasium as gym\n"
        "gym.register('Mine-v0', 'gymnasium.envs.classic_control.cartpole:CartPoleEnv', max_episode_steps=5)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert envs.versions("my_environments:Mine-v0")["env"]["id"] == "Mine-v0"
        with envs.make("my_environments:Mine-v0", 1) as vector:
            assert vector.batch == 1
    finally:
        gym.registry.pop("Mine-v0", None)
    with pytest.raises(EnvironmentFault, match="'nowhere:Mine-v0': module 'nowhere' cannot be imported"):
        envs.make("nowhere:Mine-v0", 1)
