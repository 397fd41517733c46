"""Normalisers: numpy on the whole stream, vectors of environments, evaluation and checkpoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Generator

from scg.agents.experience import tensor_files
from scg.agents.networks.critics import value_critic
from scg.agents.networks.encoder import obs_normaliser
from scg.agents.networks.normalisers import LIMIT, Moments, ObsNormaliser, RewardScale
from scg.agents.networks.policies import make_policy


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_moments_of_a_stream_in_blocks_are_numpys_of_the_whole(offset: float) -> None:
    stream = np.random.default_rng(0).normal(offset, 2.0, (100, 3))
    moments = Moments((3,))
    for block in np.split(stream, [1, 2, 40, 40, 99]):  # one of them is empty
        moments.absorb(torch.from_numpy(block))
    assert moments.count == 100
    assert np.allclose(moments.mean, stream.mean(0), rtol=1e-12)
    assert np.allclose(moments.variance, stream.var(0), rtol=1e-9)


def test_the_observation_normaliser_is_the_whole_streams() -> None:
    stream = np.random.default_rng(0).normal(1.0, [0.1, 2.0], (6, 4, 2)).astype(np.float32)
    normaliser = ObsNormaliser((2,))
    x = torch.from_numpy(stream)
    assert torch.equal(normaliser(x), x)  # nothing known: the identity
    for block in x.split(2):
        normaliser.absorb(block)
    flat = stream.reshape(-1, 2).astype(np.float64)
    expected = (stream - flat.mean(0)) / flat.std(0)
    assert np.allclose(normaliser(x), expected, rtol=1e-4, atol=1e-5)
    assert np.allclose(normaliser.numpy()(stream), normaliser(x), rtol=1e-6, atol=1e-6)
    assert normaliser(torch.full((2,), 1e9)).tolist() == [LIMIT, LIMIT]
    assert normaliser.numpy()(np.full(2, -1e9, np.float32)).tolist() == [-LIMIT, -LIMIT]


def test_a_constant_observation_stays_finite() -> None:
    normaliser = ObsNormaliser((1,))
    normaliser.absorb(torch.full((5, 1), 7.0))
    assert normaliser(torch.full((1,), 7.0)).item() == 0.0
    assert torch.isfinite(normaliser(torch.full((1,), 7.1)))


Rewards = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # reward, first, terminated


def episodes(seed: int = 0, steps: int = 12, batch: int = 3, share: float = 0.3, gone_before: int = 0) -> Rewards:
    """Random rewards of mean 1, in episodes that terminate at random."""
    rng = np.random.default_rng(seed)
    terminated = rng.random((steps, batch)) < share
    first = np.concatenate([np.ones((1, batch), bool), terminated[:-1]])
    first[0, :gone_before] = False
    return torch.from_numpy(rng.normal(1.0, 3.0, (steps, batch))), torch.from_numpy(first), torch.from_numpy(terminated)


def fixed(length: int, rewards: list[float]) -> Rewards:
    """One environment, whose episodes terminate after `length` steps."""
    time = torch.arange(len(rewards))[:, None]
    return torch.tensor(rewards, dtype=torch.float64)[:, None], time % length == 0, time % length == length - 1


def test_rewards_are_shaped_and_scaled_by_the_running_returns_of_every_environment() -> None:
    """Against the loop that one would write for each environment, over the whole stream."""
    stream = reward, first, terminated = episodes()
    scale, gamma = RewardScale(0.9), 0.9
    blocks = [slice(0, 5), slice(5, 6), slice(6, 12)]
    found = [scale(*(x[b] for x in stream)) for b in blocks]
    running, returns = np.zeros(3), []
    for block, scaled in zip(blocks, found, strict=True):
        seen = slice(0, block.stop)
        c = float(reward[seen].mean() / (1 - gamma * (1 - terminated[seen].double().mean())))
        shaped = (reward[block] - c + gamma * c * ~terminated[block]).numpy()
        for t, row in enumerate(shaped):
            running = row + gamma * running * ~first[block][t].numpy()
            returns.append(running)
        assert np.allclose(scaled, shaped / np.std(returns), rtol=1e-6)


@pytest.mark.parametrize("offset", [5.0, 100.0, -100.0])
@pytest.mark.parametrize("length", [1, 4, 300])
def test_an_offset_of_every_reward_changes_nothing_in_episodes_of_one_length(offset: float, length: int) -> None:
    """Nor with time limits in their place: the episodes that only stop to be looked at."""
    rewards = torch.randn(900, dtype=torch.float64, generator=Generator().manual_seed(0)).tolist()
    reward, first, over = fixed(length, rewards)
    for terminated in (over, torch.zeros_like(over)):
        plain, moved = RewardScale(0.99)(reward, first, terminated), RewardScale(0.99)(reward + offset, first, terminated)
        assert torch.allclose(plain, moved, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_shaping_leaves_the_order_of_policies(gamma: float, timed: bool) -> None:
    """Σ γ^t of an episode's shaped rewards is that of its rewards, less what was expected when it began."""
    reward, first, terminated = fixed(8, [3.0, 1.0] * 16) if timed else episodes(steps=40, share=0.2)
    scale = RewardScale(gamma)
    shaped = scale(reward, first, terminated) * scale.deviation
    start = scale.potential(torch.tensor(0))
    for env in range(reward.shape[1]):
        ends = terminated[:, env].nonzero().flatten().tolist()
        for begin, end in zip([-1, *ends], ends, strict=False):
            weights = gamma ** torch.arange(end - begin, dtype=torch.float64)
            total, after = ((weights * x[begin + 1 : end + 1, env]).sum() for x in (reward, shaped))
            assert torch.allclose(after, total - start, rtol=1e-9)


def test_the_clock_counts_down_to_the_length_at_which_most_episodes_terminate() -> None:
    scale = RewardScale(0.9)
    scale(*fixed(4, [2.0] * 8))
    endless = 2.0 / (1 - 0.9 * 0.75)
    assert scale.potential(torch.arange(4)).tolist() == pytest.approx([endless] * 4)  # two ends may be chance
    scale(*fixed(4, [2.0] * 4))
    assert scale.potential(torch.arange(5)).tolist() == pytest.approx([2 * (1 - 0.9**n) / 0.1 for n in (4, 3, 2, 1, 0)])
    scale(*fixed(6, [2.0] * 6))  # a longer episode: that was not the length
    assert scale.potential(torch.arange(2)).tolist() == pytest.approx([2.0 / (1 - 0.9 * (1 - 4 / 18))] * 2)


def test_episodes_that_go_on_in_the_next_block_keep_their_age() -> None:
    whole, parts = RewardScale(0.9), RewardScale(0.9)
    stream = fixed(5, [1.0] * 15)
    whole(*stream)
    for block in (slice(0, 3), slice(3, 4), slice(4, 15)):
        parts(*(x[block] for x in stream))
    assert (whole.longest, whole.last, whole.age.tolist()) == (parts.longest, parts.last, parts.age.tolist()) == (5, 3, [5])


@pytest.mark.parametrize("offset", [0.0, 5.0, 100.0, -1e6])
def test_scaled_rewards_keep_their_differences_at_any_offset(offset: float) -> None:
    """One-step episodes: the scale is the deviation of the rewards themselves."""
    reward = torch.tensor([[0.0, 1.0, 1.0, 1.0]], dtype=torch.float64) + offset
    every = torch.ones(1, 4, dtype=torch.bool)
    scaled = RewardScale(0.99)(reward, every, every)
    narrow = 1 / (1e-3 * reward.square().mean().sqrt())
    expected = 1 / 0.1875**0.5 if abs(offset) < 1e3 else float(narrow)
    assert float(scaled[0, 1] - scaled[0, 0]) == pytest.approx(expected, rel=1e-6)
    assert float(scaled.mean()) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
def test_shaped_rewards_have_mean_zero(gamma: float) -> None:
    scaled = RewardScale(gamma)(*episodes(steps=40, share=0.2))
    assert abs(float(scaled.mean())) < 1e-12


@pytest.mark.parametrize("reward", [0.0, 5.0, -1e-12])
def test_constant_rewards_are_nothing_to_learn_from(reward: float) -> None:
    every = torch.ones(3, 2, dtype=torch.bool)
    scaled = RewardScale(0.99)(torch.full((3, 2), reward, dtype=torch.float64), every, every)
    assert scaled.flatten().tolist() == pytest.approx([0.0] * 6)


def test_the_reward_scale_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    stream = episodes(steps=8, batch=2)
    before, after = ([x[part] for x in stream] for part in (slice(0, 5), slice(5, 8)))
    whole, part, resumed = RewardScale(0.99), RewardScale(0.99), RewardScale(0.99)
    whole(*before), part(*before)
    tensor_files.save(tmp_path / "s.pt", {"scale": part.state_dict()})
    resumed.load_state_dict(tensor_files.load(tmp_path / "s.pt")["scale"])
    assert torch.equal(whole(*after), resumed(*after))
    assert whole.deviation == resumed.deviation


def test_policy_and_critic_share_one_normaliser_and_checkpoints_hold_it() -> None:
    box, action = spaces.Box(-9.0, 9.0, (2,)), spaces.Discrete(2)

    def networks() -> tuple[torch.nn.Module, torch.nn.Module]:
        shared = obs_normaliser(box)
        return tuple(  # type: ignore[return-value]
            make(Generator().manual_seed(0))
            for make in (
                lambda g: make_policy(box, action, [4], g, shared),
                lambda g: value_critic(box, [4], g, normaliser=shared),
            )
        )

    policy, value = networks()
    obs = torch.randn(50, 2) * 3 + 1
    before = value(obs)
    policy.encoder.normaliser.absorb(obs)
    assert not torch.equal(before, value(obs))  # the critic sees it too
    other, _ = networks()
    other.load_state_dict(policy.state_dict())
    assert torch.equal(other(obs).logits, policy(obs).logits)
    policy(obs), policy.numpy_actor()(obs.numpy(), None)
    assert int(policy.encoder.normaliser.count) == 50  # acting and evaluating move nothing
    assert np.array_equal(policy.numpy_actor()(obs.numpy(), None), policy(obs).mode.numpy())
    assert obs_normaliser(spaces.Discrete(3)) is None
