"""Vector environments: one data stream whatever the autoreset mode, and errors that help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from scg.agents.environments import environment_state, envs
from scg.agents.environments.envs import EnvironmentFault, Environments
from scg.agents.experience.rollout import Block, Rollout
from scg.agents.networks.policies import make_policy

MODES = list(AutoresetMode)


def block_of(env_id: str, autoreset: AutoresetMode, steps: int = 60, batch: int = 3) -> Block:
    with envs.make(env_id, batch, autoreset) as vector:
        weights = torch.Generator().manual_seed(1)
        policy = make_policy(vector.obs_space, vector.action_space, [8], weights)
        rollout = Rollout(vector, [3, 4, 5], torch.Generator().manual_seed(2))
        rollout.collect(policy, 7)  # the second block starts in the middle of episodes
        return rollout.collect(policy, steps)


@pytest.mark.parametrize("env_id", ["Counting-v0", "CountingLimited-v0", "CartPole-v1"])
@pytest.mark.parametrize("autoreset", MODES[1:])
def test_every_autoreset_mode_gives_the_same_bits(env_id: str, autoreset: AutoresetMode) -> None:
    expected, block = block_of(env_id, MODES[0]), block_of(env_id, autoreset)
    for name, tensor in expected.given().items():
        assert torch.equal(tensor, block.given()[name]), name
    assert expected.episodes == block.episodes
    assert len(block.episodes) > 3


@pytest.mark.parametrize("autoreset", MODES)
def test_no_step_with_an_ignored_action_enters_the_data(autoreset: AutoresetMode) -> None:
    # Counting rewards 1 + the steps since reset, so a row from a reset (reward 0) or a skipped step would show.
    block = block_of("Counting-v0", autoreset)
    assert torch.equal(block.reward, block.obs[..., 0] + 1)
    assert torch.equal(block.next_obs[..., 0], block.obs[..., 0] + 1)
    assert torch.equal(block.first, block.obs[..., 0] == 0)


@pytest.mark.parametrize("autoreset", MODES)
def test_the_last_observation_of_an_episode_is_kept(autoreset: AutoresetMode) -> None:
    block = block_of("CountingLimited-v0", autoreset)
    assert block.truncated.any()
    assert block.terminated.any()
    assert torch.equal(block.next_obs[block.terminated][:, 0], block.obs[block.terminated][:, 1])
    assert (block.next_obs[block.truncated][:, 0] == 3).all()
    ended = (block.terminated | block.truncated)[:-1]
    assert torch.equal(block.first[1:], ended)
    assert torch.equal(block.next_obs[:-1][~ended], block.obs[1:][~ended])


class ResetsAll(SyncVectorEnv):
    """Ignores `reset_mask`, as vector environments of other packages may."""

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return super().reset(seed=seed)


def test_a_vector_environment_that_cannot_reset_a_part_is_refused() -> None:
    wrapped = Environments(ResetsAll([lambda: gym.make("Counting-v0")] * 2))
    wrapped.reset([0, 1])
    with pytest.raises(EnvironmentFault, match="ResetsAll: asked to reset 1 of 2 environments, it changed others too"):
        all(wrapped.step(np.array([0, 0])) for _ in range(20))


def test_actions_are_clipped_and_mapped_to_the_bounds() -> None:
    with envs.make("Pendulum-v1", 2) as vector:  # torque in [-2, 2]
        mapped = vector._to_bounds(np.array([[0.25], [7.0]], np.float32))
        assert mapped.tolist() == [[0.5], [2.0]]
        assert mapped.dtype == np.float32


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [("CartPole-v7", "CartPole-v1"), ("cartpole-v1", "CartPole-v1"), ("HalfCheeta-v5", "HalfCheetah-v5")],
)
def test_an_unknown_environment_names_the_nearest(asked: str, nearest: str) -> None:
    with pytest.raises(EnvironmentFault, match=f"environment '{asked}' is not registered.*{nearest}"):
        envs.make(asked, 1)


def test_an_environment_like_no_other_says_what_to_do() -> None:
    with pytest.raises(EnvironmentFault, match="Install the package that registers it"):
        envs.make("ale/Qwertzuiop-v3", 1)


def test_missing_mujoco_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*args: object, **kwargs: object) -> None:
        raise gym.error.DependencyNotInstalled("MuJoCo is not installed")

    monkeypatch.setattr(gym, "make", absent)
    with pytest.raises(EnvironmentFault, match=r"'Hopper-v5' cannot start: MuJoCo.*gymnasium\[mujoco\]"):
        envs.make("Hopper-v5", 1)


def test_seeds_differ_by_purpose_and_repeat_by_seed() -> None:
    assert envs.seeds(0, "weights", 4) == envs.seeds(0, "weights", 4)
    drawn = [
        *envs.seeds(0, "environments", 50),
        *envs.seeds(0, "evaluation", 50, 0),
        *envs.seeds(0, "evaluation", 50, 1000),
        *envs.seeds(1, "environments", 50),
    ]
    assert len(set(drawn)) == 200
    with envs.make("Counting-v0", 3) as vector, pytest.raises(EnvironmentFault, match="2 seeds for 3 environments"):
        vector.reset([1, 2])


def test_versions_name_what_a_result_depends_on() -> None:
    found = envs.versions("CartPole-v1")
    assert found["gymnasium"] == gym.__version__
    assert found["torch"] == torch.__version__
    assert found["mujoco"] is None
    assert found["env"]["id"] == "CartPole-v1"
    assert found["env"]["max_episode_steps"] == 500


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "MountainCar-v0", "Acrobot-v1", "FrozenLake-v1"])
def test_a_saved_environment_goes_on_bit_for_bit(env_id: str) -> None:
    continue_both(env_id)


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Ant-v5", "Humanoid-v5", "Hopper-v5"])
def test_a_saved_simulation_goes_on_bit_for_bit(env_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mujoco")
    pytest.importorskip("imageio")
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings into the working directory
    continue_both(env_id)


def continue_both(env_id: str) -> None:
    one, other = gym.make(env_id), gym.make(env_id)
    one.reset(seed=0), other.reset(seed=99)
    one.action_space.seed(0)
    actions = [one.action_space.sample() for _ in range(80)]
    for action in actions[:11]:
        if any(one.step(action)[2:4]):
            one.reset()
    environment_state.load(other, environment_state.save(one) or pytest.fail("not saved"))
    for action in actions[11:]:
        (obs, *outcome, _), (obs2, *outcome2, _) = one.step(action), other.step(action)
        assert np.array_equal(obs, obs2)
        assert outcome == outcome2
        if outcome[1] or outcome[2]:
            assert np.array_equal(one.reset()[0], other.reset()[0])


def test_an_unknown_environment_class_is_not_saved() -> None:
    with envs.make("Counting-v0", 2) as vector:
        vector.reset([0, 1])
        assert vector.state_dict() is None


def test_observations_that_are_not_one_array_are_made_one() -> None:
    with envs.make("Blackjack-v1", 1) as one:
        assert one.reset([0]).shape == (1, 32 + 11 + 2) and one.reset([0]).sum() == 3


class Reusing(gym.Env):
    """obs and action space of three numbers; one array for all observations, and actions are written into."""

    observation_space, action_space = gym.spaces.Box(-9.0, 9.0, (3,)), gym.spaces.MultiDiscrete([4, 4, 4])

    def __init__(self) -> None:
        self.obs = np.zeros(3, np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.obs[:], self.count = 0, 0
        return self.obs, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.count += 1
        self.obs[:] = self.count
        reward = float(action.sum())
        action[:] = 3
        return self.obs, reward, self.count == 2, False, {}


gym.register("Reusing-v0", entry_point=Reusing, disable_env_checker=True)


@pytest.mark.parametrize("autoreset", MODES)
def test_arrays_that_an_environment_uses_again_are_copied(autoreset: AutoresetMode) -> None:
    block = block_of("Reusing-v0", autoreset)
    count = torch.where(block.first, 1.0, 2.0)
    assert torch.equal(block.next_obs, count.unsqueeze(-1).expand_as(block.next_obs))
    assert torch.equal(block.obs, block.next_obs - 1)
    assert torch.equal(block.action.sum(-1).to(block.reward.dtype), block.reward)
