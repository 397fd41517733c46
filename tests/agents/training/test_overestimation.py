"""Overestimation: exact where values are known, right on each kind of ending, and one point a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Generator, Tensor, nn

from scg.agents import config_type
from scg.agents.commands import cli
from scg.agents.commands.overestimation import overestimation
from scg.agents.environments import envs
from scg.agents.experience.rollout import Block
from scg.agents.training.checkpoint import Checkpoints
from scg.agents.training.loop import build
from scg.agents.training.overestimation import NO_LIMIT, Measurement, critics_of, follow, returns, temperature
from scg.agents.training.run_directory import RunConfig, RunDirectory, RunError, read_table

GAMMA = 0.8


class Cycle(gym.Env):
    """States 0 … 4 in turn, reward state + action, for ever; or, with `ends`, terminated on leaving state 4."""

    observation_space = spaces.Box(0, 10, (1,), np.float64)
    action_space = spaces.Box(-1, 1, (1,), np.float64)

    def __init__(self, ends: bool = False) -> None:
        self.ends = ends

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.state = int(self.np_random.integers(5))
        return np.array([self.state], float), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward, ended = self.state + float(action[0]), self.ends and self.state == 4
        self.state = (self.state + 1) % 5
        return np.array([self.state], float), reward, ended, False, {}


gym.register("Cycle-v0", entry_point=Cycle, max_episode_steps=7)


class Half(nn.Module):
    """Always the action 1/2."""

    def noise(self, shape: Any, generator: Generator) -> np.ndarray:
        return np.zeros((*shape, 0))

    def numpy_actor(self) -> Any:
        return lambda obs, noise: np.full((len(obs), 1), 0.5)


def true_values(ends: bool) -> Tensor:
    """Q(s, ½) of the five states: the solution of the linear Bellman equation."""
    goes_on = torch.roll(torch.eye(5), 1, dims=1)
    if ends:
        goes_on[4] = 0
    return torch.linalg.solve(torch.eye(5) - GAMMA * goes_on, torch.arange(5.0) + 0.5)


def measured(ends: bool, wrong: float = 0.0, **how: Any) -> Any:
    values = true_values(ends)
    estimate = lambda block: values[block.obs[..., 0].long()] + wrong  # noqa: E731
    with envs.make("Cycle-v0", 4, max_episode_steps=NO_LIMIT, ends=ends) as vector:
        return follow(Half(), estimate, vector, GAMMA, Measurement(envs=4, **how), visit=20).measured()


@pytest.mark.parametrize("states", ["visited", "start"])
def test_exact_values_are_not_biased_and_a_constant_is_found(states: Any, double: None) -> None:
    """Of episodes that end every return is seen whole, so the equality has no tolerance but rounding."""
    exact = measured(ends=True, states=states)
    assert abs(exact.bias) < 1e-12
    assert exact.error < 1e-12
    assert exact.estimate == pytest.approx(exact.truth, abs=1e-12)
    above = measured(ends=True, wrong=3.25, states=states)
    assert above.bias == pytest.approx(3.25, abs=1e-12)
    assert above.truth == pytest.approx(exact.truth, abs=1e-12)
    assert exact.states == (80 if states == "visited" else exact.states) and exact.states >= 4


def test_endless_episodes_are_followed_beyond_the_time_limit_to_the_stated_tolerance(double: None) -> None:
    """Returns of 7 steps, the time limit, would be 0.21 · 12.5 short. What is left out is at most tolerance · max |G|."""
    for tolerance in (0.1, 1e-3, 1e-6):
        rest = measured(ends=False, tolerance=tolerance)
        assert rest.states == 80
        assert 0 < rest.bias <= tolerance * float(true_values(False).max())


def test_states_without_a_known_return_are_not_counted(double: None) -> None:
    """Where the environment truncates by itself, returns are cut; where γ = 1, only terminations end them."""
    values = torch.flip(torch.arange(5.0).flip(0).cumsum(0), [0]) + 0.5 * torch.arange(5.0, 0, -1)
    estimate = lambda block: values[block.obs[..., 0].long()]  # noqa: E731
    with envs.make("Cycle-v0", 4, max_episode_steps=NO_LIMIT, ends=True) as vector:
        whole = follow(Half(), estimate, vector, 1.0, Measurement(envs=4), visit=20).measured()
    assert abs(whole.bias) < 1e-12
    assert 4 < whole.states < 80  # the last episodes are still going on
    with envs.make("Cycle-v0", 4, ends=False) as vector:  # cut after 7 steps: 0.8⁷ = 0.21
        cut = follow(Half(), estimate, vector, GAMMA, Measurement(envs=4, tolerance=0.5), visit=20).measured()
        assert 0 < cut.states < 80
        with pytest.raises(RunError, match=r"none of .* states is followed by a termination.*Raise --tolerance"):
            follow(Half(), estimate, vector, GAMMA, Measurement(envs=4, tolerance=0.01), visit=20)


def test_returns_equal_a_plain_loop_with_terminations_truncations_and_entropy(double: None) -> None:
    g, gamma, alpha = Generator().manual_seed(0), 0.9, 0.3
    shape = (40, 3)
    reward, log_prob = torch.randn(shape, generator=g), torch.randn(shape, generator=g)
    terminated, truncated = (torch.rand(shape, generator=g) < 0.1 for _ in range(2))
    obs = torch.zeros(*shape, 1)
    block = Block(obs, obs, log_prob, reward, terminated, truncated, terminated, obs, [])
    total, unseen = returns(block, gamma, alpha)
    for t in range(shape[0]):
        for e in range(shape[1]):
            expected, weight, s = 0.0, 1.0, t
            while True:
                expected += weight * float(reward[s, e])
                weight *= gamma
                if terminated[s, e]:
                    weight = 0.0
                if terminated[s, e] or truncated[s, e] or s == shape[0] - 1:
                    break
                s += 1
                expected -= weight * alpha * float(log_prob[s, e])
            assert total[t, e].item() == pytest.approx(expected, abs=1e-12)
            assert unseen[t, e].item() == pytest.approx(weight, abs=1e-12)


def test_the_standard_error_is_that_of_independent_paths(double: None) -> None:
    """Noise that is one number a path: the bias has the error of their mean, however many states each path has."""
    values, noise = true_values(False), torch.randn(200, generator=Generator().manual_seed(0))
    estimate = lambda block: values[block.obs[..., 0].long()] + noise  # noqa: E731
    with envs.make("Cycle-v0", 200, max_episode_steps=NO_LIMIT) as vector:
        found = follow(Half(), estimate, vector, GAMMA, Measurement(envs=200, tolerance=1e-6), visit=20).measured()
    assert found.error == pytest.approx(float(noise.std()) / 200**0.5, rel=1e-3)
    assert found.bias == pytest.approx(float(noise.mean()), abs=1e-4)


# -- runs ----------------------------------------------------------------------------------------------------


def trained(path: Path, agent: str, *flags: str) -> Path:
    common = "--env Pendulum-v1 --steps 60 --envs 2 --hidden 8 --evaluations 1 --eval-episodes 1 --checkpoints 3"
    own = "--horizon 8 --minibatch 8" if agent == "ppo" else "--warmup 20 --batch 8 --report 4 --gamma 0.5"
    command = [agent, *common.split(), *own.split(), "--out", str(path / agent), *flags]
    assert cli.train(command) == 0
    return path / agent


def test_every_checkpoint_of_a_run_is_a_point_in_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(trained(tmp_path, agent, "--keep-checkpoints", "0")) for agent in ("ddpg", "td3", "sac")]
    assert overestimation([*runs, "--envs", "2", "--out", str(tmp_path / "bias.png")]) == 0
    for run in runs:
        rows = read_table(Path(run) / "overestimation.csv")
        assert [row["step"] for row in rows] == [0, 20, 40, 60]
        assert all(row["states"] == 400 for row in rows)  # two paths of 200 steps, the environment's own limit
        assert all(row["bias"] == pytest.approx(row["estimate"] - row["truth"], rel=1e-4) for row in rows)
    assert (tmp_path / "bias.png").stat().st_size > 10_000
    assert "td3 on Pendulum-v1" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["ddpg", "double-q", "dqn", "naf", "sac", "sac-discrete", "sac-v1", "svg", "td3"])
def test_every_agent_with_action_values_can_be_measured(tmp_path: Path, name: str) -> None:
    discrete = name in ("dqn", "sac-discrete")
    config = config_type(name)(hidden=(8,), gamma=0.5)
    run = RunDirectory.create(name, RunConfig("CartPole-v1" if discrete else "Pendulum-v1", envs=2), config, tmp_path / "run")
    with envs.make(run.run.env, 2, max_episode_steps=NO_LIMIT) as vector:
        agent = build(run, vector)
        estimate = critics_of(agent, vector.action_space, Generator())
        found = follow(agent.policy, estimate, vector, 0.5, Measurement(envs=2), 10, temperature(agent, config)).measured()
    assert found.states == 20
    # With γ = ½ a return lies between one and two times the extreme rewards: 1 a step, and at least −16.3. Where the entropy
    # counts, it adds at most α log 2 a step for actions of volume 2, and a fresh policy's is not far below that.
    low, high = (1.0, 2.0) if discrete else (-2 * 16.3, 0.0)
    slack = 2 * temperature(agent, config)
    assert low - slack <= found.truth <= high + slack
    assert 0 < found.error < max(abs(low), abs(high))
    assert found.bias == pytest.approx(found.estimate - found.truth, rel=1e-4)


def test_an_agent_without_action_values_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert overestimation([str(trained(tmp_path, "ppo"))]) == 2
    assert "agent ppo has no action values Q(obs, action). Choose an off-policy agent" in capsys.readouterr().err


def test_measurements_that_make_no_sense_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, says in [(["--envs", "1"], "option envs is 1"), (["--tolerance", "1"], "option tolerance is 1.0")]:
        assert overestimation([str(tmp_path), *options]) == 2
        assert says in capsys.readouterr().err
    with pytest.raises(RunError, match="option keep_checkpoints is -1"):
        RunConfig(keep_checkpoints=-1)


def test_the_estimate_is_the_smaller_critics_and_soft_values_count_entropy(tmp_path: Path) -> None:
    config = config_type("sac")(hidden=(8,), alpha=0.25)
    run = RunDirectory.create("sac", RunConfig("Pendulum-v1", envs=2), config, tmp_path / "run")
    with envs.make("Pendulum-v1", 2) as vector:
        agent = build(run, vector)
        obs, action = torch.randn(3, 2, 3), torch.rand(3, 2, 1)
        block = Block(obs, action, None, *[torch.zeros(3, 2, dtype=kind) for kind in (None, bool, bool, bool)], obs, [])
        got = critics_of(agent, vector.action_space, Generator())(block)
        critics: Any = agent.state["critics"]
        assert torch.allclose(got, critics(obs, action).amin(-1), atol=1e-6)
        assert temperature(agent, config) == pytest.approx(0.25)
        assert temperature(agent, config_type("td3")()) == pytest.approx(0.25)  # the learned one comes first
        assert temperature(build(RunDirectory.open(_td3(tmp_path)), vector), config_type("td3")()) == 0.0


def _td3(path: Path) -> Path:
    return RunDirectory.create("td3", RunConfig("Pendulum-v1"), config_type("td3")(), path / "td3").path


@pytest.mark.parametrize(("keep", "left"), [(0, 5), (2, 2), (1, 1)])
def test_keeping_none_is_keeping_all_checkpoints(tmp_path: Path, keep: int, left: int) -> None:
    checkpoints = Checkpoints(tmp_path, keep)
    for step in range(5):
        checkpoints.save(step, {})
    assert len(checkpoints.paths()) == left
