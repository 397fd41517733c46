"""The four-goal world: its rewards, its symmetry, its state in a checkpoint; and its picture."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from torch import Tensor, nn

from scg.agents.commands import cli
from scg.agents.commands.multigoal import multigoal as command
from scg.agents.environments import environment_state, multigoal
from scg.agents.networks.critics import QCritics
from scg.agents.networks.encoder import Encoder
from scg.agents.networks.policy import NumpyActor
from scg.agents.training import goal_coverage


class Heads(nn.Module):
    """A policy that goes one way, or with noise any way."""

    def __init__(self, *direction: float) -> None:
        super().__init__()
        self.direction = np.array(direction, np.float32)

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> np.ndarray:
        return (0.05 * torch.randn(*shape, 2, generator=generator)).numpy()

    def numpy_actor(self) -> NumpyActor:
        return lambda obs, noise: self.direction + (0.0 if noise is None else noise) + 0.0 * obs


def test_it_is_an_environment_as_gymnasium_means_it() -> None:
    check_env(gym.make("MultiGoal-v0").unwrapped, skip_render_check=True)


def walk(actions: np.ndarray, start: np.ndarray) -> tuple[list[float], bool]:
    env = gym.make("MultiGoal-v0")
    env.reset(seed=0)
    env.unwrapped.position = start.copy()  # type: ignore[attr-defined]
    rewards, terminated = [], False
    for action in actions:
        _, reward, terminated, _, _ = env.step(action.astype(np.float32))
        rewards.append(float(reward))
        if terminated:
            break
    return rewards, terminated


def test_rewards_are_those_of_the_formula_and_a_goal_ends_the_episode() -> None:
    rewards, terminated = walk(np.array([[1.0, 0.0]] * 5), np.array([0.5, 0.0]))
    # at x = 1.5, 2.5, 3.5, 4.5: squared distance to (5, 0); the action costs a half
    assert rewards == pytest.approx([-0.5 - d**2 / 20 for d in (3.5, 2.5, 1.5)] + [-0.5 - 0.25 / 20 + 10])
    assert terminated
    rewards, terminated = walk(np.array([[1.0, 0.0]] * 4), np.array([-0.5, 0.0]))
    assert not terminated  # x = 3.5 is 1.5 away
    assert max(rewards) < 0


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_no_goal_is_better_than_another(turns: int) -> None:
    """A quarter turn of the start and of all actions changes no reward."""
    g = np.random.default_rng(0)
    turn = np.linalg.matrix_power(np.array([[0.0, -1.0], [1.0, 0.0]]), turns)
    for _ in range(5):
        start, actions = g.standard_normal(2), g.uniform(-1, 1, (20, 2))
        one, other = walk(actions, start), walk(actions @ turn.T, turn @ start)
        assert one[0] == pytest.approx(other[0], abs=1e-5)
        assert one[1] == other[1]


def test_positions_stay_inside_and_episodes_end_after_thirty_steps() -> None:
    env = gym.make("MultiGoal-v0")
    env.reset(seed=0)
    for step in range(30):
        obs, _, terminated, truncated, _ = env.step(np.array([1.0, 1.0], np.float32))
        assert not terminated
        assert truncated == (step == 29)
    assert obs == pytest.approx([7.0, 7.0])


def test_a_saved_world_goes_on_bit_for_bit() -> None:
    env, other = gym.make("MultiGoal-v0"), gym.make("MultiGoal-v0")
    env.reset(seed=3), other.reset(seed=4)
    env.step(np.array([0.3, 0.1], np.float32))
    state = environment_state.save(env)
    assert state is not None
    environment_state.load(other, state)
    for action in np.random.default_rng(0).uniform(-1, 1, (40, 2)).astype(np.float32):
        one, two = env.step(action), other.step(action)
        assert np.array_equal(one[0], two[0])
        assert one[1:4] == two[1:4]
        if one[2] or one[3]:
            assert np.array_equal(env.reset()[0], other.reset()[0])


@pytest.mark.parametrize(("direction", "goal"), [((0.7, 0.0), 0), ((-0.7, 0.0), 1), ((0.0, 0.7), 2), ((0.0, -0.7), 3)])
def test_whoever_goes_one_way_reaches_one_goal(direction: tuple[float, float], goal: int) -> None:
    counts, paths = goal_coverage.reached(Heads(*direction), episodes=12)
    assert counts == [12 if g == goal else 0 for g in range(4)]
    assert all(np.linalg.norm(path[-1] - multigoal.GOALS[goal]) < 1.0 for path in paths)
    assert all(np.linalg.norm(path[0]) < 0.6 for path in paths)


def test_whoever_goes_nowhere_reaches_none() -> None:
    assert goal_coverage.reached(Heads(0.0, 0.0), episodes=4)[0] == [0, 0, 0, 0]


def test_the_grid_of_values_has_the_second_action_along_its_rows() -> None:
    class First(nn.Module):
        def forward(self, obs: Tensor, action: Tensor) -> Tensor:
            return (action[..., :1] + 10 * action[..., 1:]) * torch.tensor([1.0, 2.0]) + 100 + 0 * obs[..., :1]

    ticks, q = goal_coverage.action_values(First(), (0.0, 0.0), side=3)
    assert ticks.tolist() == [-1.0, 0.0, 1.0]
    # the smaller of two critics: the second where the first is negative
    assert q[1].tolist() == [98.0, 100.0, 101.0]
    assert q[:, 1].tolist() == [80.0, 100.0, 110.0]


def test_the_picture_is_written_and_counts_what_it_shows(tmp_path: Path) -> None:
    critics = QCritics(Encoder(multigoal.MultiGoal.observation_space), 2, [8], 1)
    counts = goal_coverage.picture(Heads(0.7, 0.0), critics, tmp_path / "a.png", episodes=3, samples=20)
    assert counts == [3, 0, 0, 0]
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_the_command_draws_a_run_and_refuses_one_that_it_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--warmup", "20", "--batch", "4", "--hidden", "4", "--steps", "24"]
    flags += ["--evaluations", "1", "--eval-episodes", "1"]
    assert cli.train(["soft-q", "--env", "MultiGoal-v0", *flags, "--out", str(tmp_path / "soft")]) == 0
    assert command([str(tmp_path / "soft"), "--episodes", "2", "--out", str(tmp_path / "b.png")]) == 0
    assert "of 2 episodes reached (5, 0): " in capsys.readouterr().out
    assert (tmp_path / "b.png").exists()
    assert cli.train(["soft-q", "--env", "Pendulum-v1", *flags, "--out", str(tmp_path / "other")]) == 0
    assert command([str(tmp_path / "other")]) == 2
    assert "soft-q on Pendulum-v1. The picture is of an agent with critics" in capsys.readouterr().err
    assert command([str(tmp_path / "soft"), "--episodes", "0"]) == 2
    assert "option episodes is 0. Give at least 1" in capsys.readouterr().err
