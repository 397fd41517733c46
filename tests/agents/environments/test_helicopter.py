"""The helicopter: its laws, its crashes, and batches of it with the same bits."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from torch import Generator

from scg.agents.environments import envs
from scg.agents.environments.helicopter import (
    CRASH,
    DAMPING,
    DT,
    GRAVITY,
    INNER,
    LIFT,
    STEPS,
    TAIL,
    TORQUE,
    WIND,
    Helicopter,
    integrate,
    observe,
)
from scg.agents.search.controllers import HoverPolicy

CALM = np.zeros((1, 1, 8))


def state(**parts: object) -> np.ndarray:
    s = np.zeros((1, 13))
    s[0, 9] = 1.0
    for name, value in parts.items():
        s[0, {"position": slice(0, 3), "velocity": slice(3, 6), "rates": slice(6, 9), "q": slice(9, 13)}[name]] = value
    return s


def tilt(axis: list[float], angle: float) -> np.ndarray:
    return np.concatenate([[np.cos(angle / 2)], np.sin(angle / 2) * np.array(axis)])


def stepped(s: np.ndarray, action: list[float] | None = None, weather: np.ndarray = CALM) -> np.ndarray:
    after = s.copy()
    integrate(after, np.array([action or [0, 0, 0, 0]], float), weather)
    return after


def turned(v: np.ndarray, q: np.ndarray) -> np.ndarray:
    """`v [n, 3]` turned by `q`: from the body's frame to the world's."""
    axis, w = q[:, 1:], q[:, :1]
    twist = 2 * np.cross(axis, v)
    return v + w * twist + np.cross(axis, twist)


def test_lift_meets_weight_when_level_and_the_tail_rotor_pushes_sideways() -> None:
    after = stepped(state())
    assert after[0, 3:6] == pytest.approx([0, DT * TAIL, 0])
    assert after[0, :3].tolist() == [0, 0, 0]


def test_each_action_turns_or_lifts_along_its_own_axis() -> None:
    for axis in range(3):
        action = [0.0] * 4
        action[axis] = 0.1
        rates = stepped(state(), action)[0, 6:9]
        assert rates[axis] == pytest.approx(DT * TORQUE[axis] * 0.1)
        assert np.count_nonzero(rates) == 1
    assert stepped(state(), [0, 0, 0, 0.1])[0, 5] == pytest.approx(DT * LIFT * 0.1)


def test_rates_are_damped_and_turn_the_attitude() -> None:
    after = stepped(state(rates=[0.3, 0, 0]))
    assert after[0, 6] == pytest.approx(0.3 * (1 - DT * DAMPING[0]))
    assert after[0, 9:] == pytest.approx(tilt([1, 0, 0], 0.3 * DT))


def test_a_tilt_makes_gravity_pull_towards_it_and_keeps_its_size() -> None:
    rolled = stepped(state(q=tilt([1, 0, 0], 0.2)))
    assert rolled[0, 4] == pytest.approx(DT * (GRAVITY * np.sin(0.2) + TAIL))  # to the right
    pitched = stepped(state(q=tilt([0, 1, 0], 0.2)))
    assert pitched[0, 3] == pytest.approx(-DT * GRAVITY * np.sin(0.2))  # nose up: backwards
    assert pitched[0, 5] == pytest.approx(DT * GRAVITY * (np.cos(0.2) - 1))


def test_drag_is_against_the_wind() -> None:
    blown = CALM.copy()
    blown[0, 0, 6:] = [2.0, 3.0]
    after = stepped(state(), weather=blown)
    assert after[0, 3:5] == pytest.approx([DT * 0.18 * 2.0, DT * (0.43 * 3.0 + TAIL)])
    turned_north = stepped(
        state(q=tilt([0, 0, 1], np.pi / 2)), weather=blown
    )  # facing east: the north wind comes from the left
    assert turned_north[0, 3:5] == pytest.approx([DT * 0.18 * 3.0, DT * (-0.43 * 2.0 + TAIL)])


def test_a_turning_frame_alone_does_not_change_the_velocity_in_the_world() -> None:
    # Without drag a velocity seen in the body turns backwards; to first order its length and its direction in the world stay.
    s = state(velocity=[1.0, 0, 0], rates=[0, 0, 0.5])
    after = stepped(s)
    world = turned(after[:, 3:6], after[:, 9:])
    assert world[0] == pytest.approx([1 - DT * 0.18, DT * TAIL, 0], abs=1e-4)


def test_observations_are_in_the_helicopters_frame_and_point_back_to_level() -> None:
    q = tilt([0, 0, 1], np.pi / 2)  # facing east
    obs = observe(state(position=[1.0, 2.0, 3.0], q=q))[0]
    assert obs[:3] == pytest.approx([-2.0, 1.0, -3.0])
    assert obs[9:] == pytest.approx([0, 0, -np.pi / 2])
    assert observe(state(q=-tilt([1, 0, 0], 0.1)))[0, 9:] == pytest.approx([-0.1, 0, 0])
    assert observe(state())[0].tolist() == [0.0] * 12


def test_observations_are_those_of_rotation_vectors() -> None:
    """The same by numpy's cross products, in any attitude."""
    rng = np.random.default_rng(0)
    s = rng.normal(size=(500, 13))
    s[:, 9:] /= np.linalg.norm(s[:, 9:], axis=-1, keepdims=True)
    q = s[:, 9:] * np.where(s[:, 9:10] < 0, -1.0, 1.0)
    sine = np.linalg.norm(q[:, 1:], axis=-1, keepdims=True)
    assert np.allclose(observe(s)[:, :3], turned(-s[:, :3], q * np.array([1.0, -1.0, -1.0, -1.0])))
    assert np.array_equal(observe(s)[:, 3:9], s[:, 3:9])
    assert np.allclose(observe(s)[:, 9:], -2 * np.arctan2(sine, q[:, :1]) * q[:, 1:] / sine)


def test_it_is_an_environment_of_gymnasium() -> None:
    check_env(Helicopter(), skip_render_check=True)


def test_a_seed_is_a_wind() -> None:
    one, other = Helicopter(), Helicopter()
    one.reset(seed=3), other.reset(seed=3)
    assert np.array_equal(one.weather, other.weather)
    other.reset(seed=4)
    assert not np.array_equal(one.weather, other.weather)
    winds = []
    for seed in range(20):
        one.reset(seed=seed)
        winds.append(one.weather[:, 6:].mean(0))
    assert np.abs(winds).max() < WIND + 0.3
    assert np.std(winds) > 0.5


def test_who_flies_off_pays_for_the_rest_of_the_minute() -> None:
    env = Helicopter()
    env.reset(seed=0)
    count, terminated = 0, False
    while not terminated:
        _, reward, terminated, _, _ = env.step(np.array([0, 0, 0, 1.0]))
        count += 1
    assert count < 30
    assert reward == -CRASH * (1 + STEPS - count)


def test_a_batch_has_the_bits_of_each_alone() -> None:
    actions = np.random.default_rng(0).uniform(-0.1, 0.1, (8, 5, 4))
    with envs.make("Helicopter-v0", 5) as batch, envs.make("Helicopter-v0", 1) as alone:
        batch.reset(list(range(5)))
        first = alone.reset([3])
        assert first.shape == (1, 12)
        for action in actions:
            together, single = batch.step(action), alone.step(action[3:4])
            assert np.array_equal(together.obs[3], single.obs[0])
            assert together.reward[3] == single.reward[0]


def test_a_saved_helicopter_flies_on_with_the_same_bits() -> None:
    with envs.make("Helicopter-v0", 2) as one, envs.make("Helicopter-v0", 2) as other:
        one.reset([1, 2])
        one.step(np.full((2, 4), 0.1))
        saved = one.state_dict()
        assert saved is not None
        after = one.step(np.full((2, 4), 0.05))
        other.reset([7, 8])
        other.load_state_dict(saved)
        assert np.array_equal(other.step(np.full((2, 4), 0.05)).obs, after.obs)


def test_the_controller_is_the_notes() -> None:
    with envs.make("Helicopter-v0", 1) as one:
        policy = HoverPolicy(one.obs_space, one.action_space, Generator())
    theta = np.arange(1.0, 13.0)
    ex, ey, ez, u, v, w, p, q, r, nx, ny, nz = obs = np.array([0.3, -0.2, 9.0, 0.1, -7.0, 0.2, 0.1, 0.2, 0.3, 0.01, 0.02, 0.03])
    crowd = policy.crowd(2)
    crowd.load(1, theta)
    f = lambda x: min(max(x, -5.0), 5.0)  # noqa: E731
    collective = 1 * f(ez) + 2 * w
    elevator = 3 * f(ex) + 4 * f(u) + 5 * q + 6 * ny
    aileron = 7 * f(ey) + 8 * f(v) + 9 * p + 10 * nx
    rudder = 11 * r + 12 * nz
    found = crowd.act(np.stack([obs, obs]))
    assert found[1] == pytest.approx([aileron, elevator, rudder, collective])
    assert found[0].tolist() == [0, 0, 0, 0]
    assert pytest.approx(0.1) == INNER * DT
