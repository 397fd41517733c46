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


def test_rewards_are_scaled_by_the_running_returns_of_every_environment() -> None:
    """Against the loop that one would write for each environment, over the whole stream."""
    rng = np.random.default_rng(0)
    reward, first = rng.normal(1.0, 3.0, (12, 3)), rng.random((12, 3)) < 0.3
    scale = RewardScale(0.9)
    blocks = [slice(0, 5), slice(5, 6), slice(6, 12)]
    scaled = [scale(torch.from_numpy(reward[b]), torch.from_numpy(first[b]), torch.from_numpy(first[b])) for b in blocks]
    returns = np.zeros((12, 3))
    for env in range(3):
        running = 0.0
        for t in range(12):
            running = reward[t, env] + (0.0 if first[t, env] else 0.9 * running)
            returns[t, env] = running
    for block, found in zip(blocks, scaled, strict=True):
        deviation = returns[: block.stop].std()
        assert np.allclose(found, reward[block] / deviation, rtol=1e-6)


@pytest.mark.parametrize("offset", [0.0, 5.0, 100.0, -1e6])
def test_scaled_rewards_keep_their_differences_at_any_offset(offset: float) -> None:
    """One-step episodes: the scale is the deviation of the rewards themselves, the centre their mean in its units."""
    reward = torch.tensor([[0.0, 1.0, 1.0, 1.0]], dtype=torch.float64) + offset
    scale = RewardScale(0.99)
    every = torch.ones(1, 4, dtype=torch.bool)
    scaled = scale(reward, every, every)
    expected = (
        scaled.std(correction=0) if abs(offset) < 1e3 else reward.std(correction=0) / (1e-3 * reward.square().mean().sqrt())
    )
    assert torch.allclose(scaled[0, 1] - scaled[0, 0], expected / 0.75**0.5 / 0.25**0.5, rtol=1e-6)
    assert torch.allclose(scaled.mean(), scale.centre)


@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
def test_the_centres_temporal_differences_have_mean_zero(gamma: float) -> None:
    g = Generator().manual_seed(0)
    reward, terminated = torch.randn(40, 3, dtype=torch.float64, generator=g) + 5, torch.rand(40, 3, generator=g) < 0.2
    first = torch.cat([torch.ones(1, 3, dtype=torch.bool), terminated[:-1]])
    scale = RewardScale(gamma)
    scaled = scale(reward, first, terminated)
    differences = scaled + gamma * (~terminated).double() * scale.centre - scale.centre
    assert abs(float(differences.mean())) < 1e-12 * float(scale.centre)


@pytest.mark.parametrize(("reward", "expected"), [(0.0, 0.0), (5.0, 1000.0), (-1e-12, -1000.0)])
def test_constant_returns_are_scaled_by_their_size(reward: float, expected: float) -> None:
    every = torch.ones(3, 2, dtype=torch.bool)
    scaled = RewardScale(0.99)(torch.full((3, 2), reward, dtype=torch.float64), every, every)
    assert scaled.flatten().tolist() == pytest.approx([expected] * 6)


def test_the_reward_scale_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    g = Generator().manual_seed(0)
    reward, first = torch.randn(8, 2, generator=g), torch.rand(8, 2, generator=g) < 0.2
    whole, part, resumed = RewardScale(0.99), RewardScale(0.99), RewardScale(0.99)
    whole(reward[:5], first[:5], first[:5]), part(reward[:5], first[:5], first[:5])
    tensor_files.save(tmp_path / "s.pt", {"scale": part.state_dict()})
    resumed.load_state_dict(tensor_files.load(tmp_path / "s.pt")["scale"])
    assert torch.equal(whole(reward[5:], first[5:], first[5:]), resumed(reward[5:], first[5:], first[5:]))
    assert whole.centre == resumed.centre


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
