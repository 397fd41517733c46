"""Blocks of experience: boundaries, bootstraps, whole episodes, seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from scg.agents.environments import envs
from scg.agents.environments.envs import EnvironmentFault
from scg.agents.experience import acting
from scg.agents.experience.rollout import Block, Rollout
from scg.agents.networks.policies import make_policy


def make_rollout(env_id: str, batch: int = 3, seed: int = 0) -> tuple[Rollout, torch.nn.Module]:
    vector = envs.make(env_id, batch)
    policy = make_policy(vector.obs_space, vector.action_space, [16], Generator().manual_seed(5))
    return Rollout(vector, envs.seeds(seed, "environments", batch), Generator().manual_seed(seed)), policy


def plain_loop(cost: Tensor, terminated: Tensor, truncated: Tensor, after: Tensor, gamma: float) -> Tensor:
    """The definition, step by step."""
    out = torch.zeros_like(cost)
    for i in range(cost.shape[1]):
        following = 0.0
        for t in reversed(range(cost.shape[0])):
            if t == cost.shape[0] - 1 or truncated[t, i]:
                following = after[t, i]
            if terminated[t, i]:
                following = 0.0
            following = out[t, i] = cost[t, i] + gamma * following
    return out


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 3), st.sampled_from([0.0, 0.5, 0.99, 1.0]), st.integers(0, 10**6))
def test_the_scan_equals_the_plain_loop(steps: int, batch: int, gamma: float, seed: int) -> None:
    g = Generator().manual_seed(seed)
    cost = torch.randn(steps, batch, generator=g, dtype=torch.float64)
    terminated = torch.rand(steps, batch, generator=g) < 0.15
    truncated = torch.rand(steps, batch, generator=g) < 0.15
    value = torch.randn(steps, batch, generator=g, dtype=torch.float64)
    block = fake_block(cost, terminated, truncated, value)
    found = block.cost_to_go(lambda obs: obs.squeeze(-1), gamma)
    assert torch.allclose(found, plain_loop(cost, terminated, truncated, value, gamma), rtol=1e-12, atol=1e-12)


def fake_block(cost: Tensor, terminated: Tensor, truncated: Tensor, value_after: Tensor) -> Block:
    nothing = torch.zeros_like(cost)
    next_obs = value_after.unsqueeze(-1)
    return Block(next_obs, nothing, nothing, -cost, terminated, truncated, terminated, next_obs, [])


def test_truncation_bootstraps_and_termination_does_not() -> None:
    cost, value, no = torch.ones(3, 1), torch.full((3, 1), 10.0), torch.zeros(3, 1, dtype=torch.bool)
    middle = torch.tensor([[False], [True], [False]])
    goes_on = fake_block(cost, no, no, value).cost_to_go(lambda obs: obs.squeeze(-1), 0.5)
    terminated = fake_block(cost, middle, no, value).cost_to_go(lambda obs: obs.squeeze(-1), 0.5)
    truncated = fake_block(cost, no, middle, value).cost_to_go(lambda obs: obs.squeeze(-1), 0.5)
    both = fake_block(cost, middle, middle, value).cost_to_go(lambda obs: obs.squeeze(-1), 0.5)
    assert goes_on.flatten().tolist() == [3.0, 4.0, 6.0]  # 6 = 1 + 10/2 at the block's end
    assert terminated.flatten().tolist() == [1.5, 1.0, 6.0]
    assert truncated.flatten().tolist() == [4.0, 6.0, 6.0]
    assert torch.equal(both, terminated)


def test_the_cost_to_go_of_a_known_world_is_its_arithmetic() -> None:
    rollout, policy = make_rollout("Counting-v0")
    block = rollout.collect(policy, 40)
    found = block.cost_to_go(lambda obs: torch.full(obs.shape[:-1], 1e9), 1.0)
    count, length = block.obs.unbind(-1)
    finished = block.terminated.flip(0).cummax(0).values.flip(0)  # this episode ends inside the block
    expected = -(length * (length + 1) - count * (count + 1)) / 2  # -Σ of the rewards count+1 … length
    assert finished.sum() > 90
    assert torch.equal(found[finished], expected[finished])
    assert (found[~finished] > 1e8).all()


def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_stream_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    blocks = []
    for seed in (0, 0, 1):
        rollout, policy = make_rollout("CartPole-v1", seed=seed)
        rollout.collect(policy, 20)
        blocks.append(rollout.collect(policy, 20))
    assert torch.equal(before, torch.get_rng_state())
    for name, tensor in blocks[0].given().items():
        assert torch.equal(tensor, blocks[1].given()[name]), name
    assert not torch.equal(blocks[0].obs, blocks[2].obs)


def test_a_block_has_the_default_float_type(double: None) -> None:
    for env_id in ("CartPole-v1", "Pendulum-v1", "FrozenLake-v1"):
        rollout, policy = make_rollout(env_id)
        block = rollout.collect(policy, 5)
        assert block.reward.dtype == block.log_prob.dtype == torch.float64


def test_blocks_join_without_a_seam() -> None:
    (whole, policy), (parts, _) = make_rollout("Counting-v0"), make_rollout("Counting-v0")
    a, b, c = whole.collect(policy, 12), parts.collect(policy, 5), parts.collect(policy, 7)
    assert torch.equal(a.first, torch.cat([b.first, c.first]))
    assert torch.equal(a.obs, torch.cat([b.obs, c.obs]))  # this world ignores actions, whose noise is drawn by block
    assert a.episodes == b.episodes + c.episodes


def test_the_recorded_log_prob_is_the_policys() -> None:
    for env_id in ("CartPole-v1", "Pendulum-v1"):
        rollout, policy = make_rollout(env_id)
        block = rollout.collect(policy, 10)
        assert torch.equal(block.log_prob, policy(block.obs).log_prob(block.action).detach())
        assert block.log_prob.shape == (10, 3)
        assert block.steps == 30


def test_whole_episodes_are_whole_and_every_environment_gives_as_many() -> None:
    rollout, policy = make_rollout("Counting-v0", batch=4)
    rollout.collect(policy, 3)  # in the middle of episodes
    block = rollout.episodes(policy, each=3)
    assert len(block.episodes) == 12
    assert block.reward.shape[1] == 1
    assert int(block.first.sum()) == int(block.terminated.sum()) == 12
    assert bool(block.first[0])
    assert bool(block.terminated[-1])
    assert block.steps == sum(episode.length for episode in block.episodes)
    assert torch.equal(block.reward, block.obs[..., 0] + 1)
    totals = sorted(episode.total for episode in block.episodes)
    lengths = block.obs[block.first][:, 1]
    assert totals == sorted((lengths * (lengths + 1) / 2).tolist())


def test_a_bad_reward_names_its_environment_and_step() -> None:
    vector = envs.make("Counting-v0", 2, bad_at=3)
    policy = make_policy(vector.obs_space, vector.action_space, [8])
    rollout = Rollout(vector, [0, 1], Generator().manual_seed(0))
    with pytest.raises(EnvironmentFault, match="environment 0, step 2 of the block: reward has nan"):
        rollout.collect(policy, 5)


def test_acting_in_numpy_is_the_policys_own_forward() -> None:
    for env_id in ("CartPole-v1", "Pendulum-v1", "FrozenLake-v1"):
        with envs.make(env_id, 4) as vector:
            policy = make_policy(vector.obs_space, vector.action_space, [16, 16], Generator().manual_seed(0))
            obs = vector.reset([0, 1, 2, 3])
            expected = policy(torch.as_tensor(obs)).mode
            assert np.allclose(acting.mode(policy)(obs), expected.detach(), atol=1e-6)


def test_acting_in_numpy_samples_the_policys_distribution() -> None:
    # 20,000 draws: each frequency is within 5 standard errors (false alarms below 1e-6) of softmax.
    with envs.make("Acrobot-v1", 1) as vector:
        policy = make_policy(vector.obs_space, vector.action_space, [8], Generator().manual_seed(0))
        torch.nn.init.orthogonal_(policy.logits.layers[-1].weight, 2.0, generator=Generator().manual_seed(1))
        obs = np.repeat(vector.reset([0]), 20_000, axis=0)
    drawn = acting.sampler(policy, Generator().manual_seed(0), 1, 20_000)(obs)
    p = policy(torch.as_tensor(obs[:1])).probs.detach().numpy()[0]
    assert p.max() - p.min() > 0.1
    assert (abs(np.bincount(drawn, minlength=3) / 20_000 - p) < 5 * np.sqrt(p * (1 - p) / 20_000)).all()


def test_any_module_that_returns_a_distribution_can_act() -> None:
    class Plain(torch.nn.Module):
        def forward(self, obs: Tensor) -> torch.distributions.Distribution:
            return torch.distributions.Categorical(logits=torch.zeros(*obs.shape[:-1], 2))

    draws = []
    for _ in range(2):
        rollout, _ = make_rollout("CartPole-v1")
        draws.append(rollout.collect(Plain(), 30).action)
    assert torch.equal(*draws)
    assert set(draws[0].flatten().tolist()) == {0, 1}


def test_a_saved_rollout_goes_on_bit_for_bit() -> None:
    rollout, policy = make_rollout("CartPole-v1")
    rollout.collect(policy, 30)
    state = rollout.state_dict()
    expected = rollout.collect(policy, 60)
    other, _ = make_rollout("CartPole-v1", seed=7)
    assert other.load_state_dict(state)
    found = other.collect(policy, 60)
    assert found.episodes == expected.episodes
    assert all(torch.equal(tensor, found.given()[name]) for name, tensor in expected.given().items())
