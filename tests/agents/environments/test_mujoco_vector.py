"""The batched MuJoCo stepper: gymnasium's bits for every family, on any number of threads."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from scg.agents.environments import envs
from scg.agents.environments.checked_vector import SerialVector
from scg.agents.environments.mujoco_vector import _FAMILIES, MujocoVector, family
from scg.agents.experience.rollout import Rollout
from scg.agents.networks.policies import make_policy

STEPS = {
    "HalfCheetah-v5": 60,
    "Hopper-v5": 120,
    "Walker2d-v5": 120,
    "Swimmer-v5": 40,
    "InvertedPendulum-v5": 60,
    "InvertedDoublePendulum-v5": 120,
    "Ant-v5": 60,
    "Humanoid-v5": 60,
}


def vector(kind: type, env_id: str, batch: int, threads: dict[str, int] | None = None, **kwargs: Any) -> Any:
    make = [lambda: gym.make(env_id, **kwargs)] * batch
    return kind(make, copy=False, autoreset_mode=AutoresetMode.SAME_STEP, **(threads or {}))


def compare(env_id: str, steps: int, threads: int, scale: float = 1.0, **kwargs: Any) -> int:
    """Steps both side by side and demands equal bits. Returns how many episodes ended."""
    batch = 3
    theirs, ours = (
        vector(SerialVector, env_id, batch, **kwargs),
        vector(MujocoVector, env_id, batch, {"threads": threads}, **kwargs),
    )
    rng, ended = np.random.default_rng(0), 0
    first, second = theirs.reset(seed=[1, 2, 3])[0], ours.reset(seed=[1, 2, 3])[0]
    assert np.array_equal(first, second)
    shape = (batch, *theirs.single_action_space.shape)
    for t in range(steps):
        action = (scale * rng.uniform(-1, 1, shape)).astype(np.float32)
        expected, found = theirs.step(action), ours.step(action)
        for what, x, y in zip(["obs", "reward", "terminated", "truncated"], expected, found, strict=False):
            assert np.array_equal(x, y), (env_id, t, what)
        over = expected[2] | expected[3]
        ended += int(over.sum())
        for i in np.flatnonzero(over):
            assert np.array_equal(expected[4]["final_obs"][i], found[4]["final_obs"][i])
    theirs.close(), ours.close()
    return ended


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("env_id", STEPS)
def test_every_family_gives_gymnasiums_bits(env_id: str, threads: int) -> None:
    assert len(STEPS) == len(_FAMILIES)
    compare(env_id, STEPS[env_id], threads)


def test_episodes_end_alike_by_falling_and_by_time() -> None:
    assert compare("Hopper-v5", 150, 2) > 3
    assert compare("HalfCheetah-v5", 30, 2, max_episode_steps=7) == 12
    assert compare("Ant-v5", 60, 1, max_episode_steps=20) >= 9


@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        ("HalfCheetah-v5", {"forward_reward_weight": 0.3, "ctrl_cost_weight": 0.7, "frame_skip": 2}),
        ("Hopper-v5", {"exclude_current_positions_from_observation": False, "healthy_reward": 0.4}),
        ("Walker2d-v5", {"terminate_when_unhealthy": False}),
        ("Swimmer-v5", {"exclude_current_positions_from_observation": False}),
        ("InvertedDoublePendulum-v5", {"healthy_reward": 3.0}),
        ("Ant-v5", {"include_cfrc_ext_in_observation": False}),
    ],
)
def test_options_of_the_environment_are_followed(env_id: str, options: dict[str, Any]) -> None:
    compare(env_id, 50, 1, **options)


def test_a_wrong_reward_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison has power: one part in 10^15 of a reward is caught."""
    read = MujocoVector.step

    def off(self: MujocoVector, actions: np.ndarray) -> Any:
        obs, reward, *rest = read(self, actions)
        return obs, np.nextafter(reward, np.inf), *rest

    monkeypatch.setattr(MujocoVector, "step", off)
    with pytest.raises(AssertionError, match="reward"):
        compare("HalfCheetah-v5", 2, 1)


def test_what_gymnasium_has_to_step_itself() -> None:
    assert family(gym.make("HalfCheetah-v5")) is not None
    assert family(gym.make("Reacher-v5")) is None  # not written here
    assert family(gym.make("CartPole-v1")) is None
    assert family(gym.wrappers.ClipReward(gym.make("HalfCheetah-v5"), -1, 1)) is None  # a wrapper that changes numbers
    with envs.make("HalfCheetah-v5", 2) as two, envs.make("HalfCheetah-v5", 1) as one, envs.make("Reacher-v5", 2) as other:
        assert isinstance(two.vector, MujocoVector)
        assert isinstance(one.vector, SerialVector)
        assert isinstance(other.vector, SerialVector)


def test_a_saved_vector_goes_on_bit_for_bit() -> None:
    def rollout(vector: envs.Environments) -> Rollout:
        return Rollout(vector, [5, 6], torch.Generator().manual_seed(2))

    with envs.make("Hopper-v5", 2) as first, envs.make("Hopper-v5", 2, threads=2) as second:
        policy = make_policy(first.obs_space, first.action_space, [8], torch.Generator().manual_seed(1))
        going, resumed = rollout(first), rollout(second)
        going.collect(policy, 30)
        resumed.load_state_dict(going.state_dict())
        expected, found = going.collect(policy, 40), resumed.collect(policy, 40)
        assert all(torch.equal(tensor, found.given()[name]) for name, tensor in expected.given().items())
        assert expected.episodes == found.episodes
        assert expected.episodes
