"""Dynamics in torch beside gymnasium's: the same numbers, step for step; and their derivatives beside differences."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from torch import Generator, Tensor
from torch.distributions import Distribution

from scg.agents.dynamics import KNOWN, known
from scg.agents.dynamics.base import Dynamics
from scg.agents.dynamics.classic import CartPole, DoubleIntegrator, Pendulum
from scg.agents.dynamics.contact import Push, Wall
from scg.agents.environments import envs
from scg.agents.execution.options import OptionError

pytestmark = pytest.mark.usefixtures("double")


def test_the_pendulum_is_gymnasiums_step_for_step() -> None:
    env, dynamics = gym.make("Pendulum-v1").unwrapped, Pendulum()
    env.reset(seed=3)
    state = torch.tensor(env.state)[None]
    noise = np.random.default_rng(0)
    for _ in range(300):
        action = noise.uniform(-1.2, 1.2)  # beyond the bounds too
        obs, reward, *_ = env.step(np.array([2.0 * action]))
        act = torch.tensor([[action]])
        after = dynamics.transition(state, act)
        assert np.abs(after[0].numpy() - env.state).max() < 1e-12
        assert float(dynamics.reward(state, act, after)) == pytest.approx(reward, abs=1e-12)
        np.testing.assert_allclose(dynamics.observe(after)[0], obs, atol=1e-6)  # gymnasium's is float32
        state = after


def test_the_cart_pole_is_gymnasiums_step_for_step_and_ends_where_it_ends() -> None:
    env, dynamics, ends = gym.make("CartPole-v1").unwrapped, CartPole(), 0
    noise = np.random.default_rng(0)
    for seed in range(5):
        env.reset(seed=seed)
        state = torch.tensor(np.asarray(env.state))[None]
        for _ in range(200):
            action = int(noise.integers(2))
            _, _, terminated, *_ = env.step(action)
            state = dynamics.transition(state, torch.tensor([[2.0 * action - 1.0]]))
            assert np.abs(state[0].numpy() - np.asarray(env.state)).max() < 1e-12
            assert bool(dynamics.ended(state)) == terminated
            if terminated:
                ends += 1
                break
    assert ends == 5


def mean(dynamics: Dynamics, state: Tensor, action: Tensor) -> Tensor:
    found = dynamics.transition(state, action)
    return found.mean if isinstance(found, Distribution) else found


@pytest.mark.parametrize("name", [name for name in KNOWN if name != "wall"])
def test_derivatives_are_those_of_the_values(name: str) -> None:
    dynamics = known(name)
    g = Generator().manual_seed(0)
    state = dynamics.start(3, g) + 0.1 * torch.randn(3, dynamics.state_size, generator=g)
    action = 0.5 * torch.rand(3, dynamics.action_size, generator=g) - 0.25

    def step(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        after = mean(dynamics, state, action)
        return after, dynamics.observe(after), dynamics.reward(state, action, after)

    assert torch.autograd.gradcheck(step, (state.requires_grad_(), action.requires_grad_()))


def test_a_ball_flies_over_the_wall_only_where_it_is_high_enough() -> None:
    wall = Wall()
    low, high = wall.jumps()
    action = torch.tensor([[-0.9], [-0.2], [low - 1e-6], [low + 1e-6], [0.0], [high - 1e-6], [high + 1e-6]])
    landed = wall.transition(torch.zeros(7, 1), action).squeeze(-1)
    free = 10 * (2 * wall.angle(action)).sin().squeeze(-1)
    expected = torch.stack([free[0], *[torch.tensor(5.0)] * 2, free[3], free[4], free[5], torch.tensor(5.0)])
    torch.testing.assert_close(landed, expected)
    assert float(landed[3] - landed[2]) > 4.5


def test_a_block_moves_only_when_it_is_pushed() -> None:
    push, state = Push(), Push().start(2)
    ahead = torch.tensor([[1.0], [-1.0]])
    for _ in range(4):
        state = push.transition(state, ahead)
    torch.testing.assert_close(state, torch.tensor([[0.2, 0.2], [-2.2, 0.0]]))


@pytest.mark.parametrize("env_id", ["CartPoleForce-v0", "DoubleIntegrator-v0", "Wall-v0", "Push-v0"])
def test_they_are_environments_too(env_id: str) -> None:
    check_env(gym.make(env_id).unwrapped, skip_render_check=True)
    with envs.make(env_id, 3) as batch, envs.make(env_id, 1) as alone:
        first = batch.reset([5, 6, 7]), alone.reset([6])
        assert np.array_equal(first[0][1:2], first[1])
        action = np.full((3, 1), 0.3, np.float32)
        one, other = batch.step(action), alone.step(action[:1])
        assert np.array_equal(one.next_obs[1:2], other.next_obs) and one.reward[1] == other.reward[0]
        assert batch.state_dict() is not None


def test_the_double_integrator_ends_where_its_closed_form_says() -> None:
    dynamics = DoubleIntegrator(noise=0.0)
    state = torch.tensor([[0.0, 0.0]])
    for _ in range(10):
        state = mean(dynamics, state, torch.ones(1, 1))
    torch.testing.assert_close(state, torch.tensor([[0.5, 1.0]]))  # ½ t², t


def test_names_that_lead_nowhere_are_refused() -> None:
    with pytest.raises(OptionError, match="'pendulun' is unknown.*pendulum"):
        known("pendulun")
    with pytest.raises(OptionError, match="no scg.agents.dynamics.base.Dynamics"):
        known("scg.agents.dynamics:KNOWN")


@pytest.mark.parametrize("env_id", ["InvertedPendulum-v5", "Swimmer-v5"])
def test_simulated_dynamics_are_gymnasiums_step_for_step(env_id: str) -> None:
    env, dynamics = gym.make(env_id).unwrapped, known(f"mujoco:{env_id}")
    env.reset(seed=1)
    state = torch.from_numpy(np.concatenate([env.data.qpos, env.data.qvel]))[None]
    noise = np.random.default_rng(0)
    for _ in range(20):
        action = noise.uniform(-1.0, 1.0, dynamics.action_size)
        obs, reward, terminated, *_ = env.step(action * env.action_space.high)
        act = torch.from_numpy(action)[None]
        after = dynamics.transition(state, act)
        np.testing.assert_allclose(dynamics.observe(after)[0], obs, atol=1e-7)
        if env_id == "Swimmer-v5":  # the other's reward has no slope, and ours stands in for it
            assert float(dynamics.reward(state, act, after)) == pytest.approx(reward, abs=1e-6)
        assert bool(dynamics.ended(after)) == terminated
        if terminated:
            break
        state = after
    assert torch.autograd.gradcheck(
        dynamics.transition, (state.requires_grad_(), 0.5 * act.requires_grad_()), atol=1e-3, eps=1e-5
    )


def test_a_simulator_that_is_not_written_is_refused() -> None:
    with pytest.raises(OptionError, match="mujoco:Ant-v5 is unknown.*Known are InvertedPendulum-v5"):
        known("mujoco:Ant-v5")
