"""Policies, critics and the factory for an environment's spaces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from threadpoolctl import threadpool_info
from torch import Generator
from torch.distributions import Categorical, Independent

from scg.agents.experience import acting
from scg.agents.networks.critics import value_critic
from scg.agents.networks.mlp import MLP
from scg.agents.networks.policies import make_policy

BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)


def test_shapes_with_any_batch() -> None:
    obs = torch.randn(7, 5, 3)
    discrete = make_policy(BOX, spaces.Discrete(4), [8])(obs)
    continuous = make_policy(BOX, spaces.Box(-1.0, 1.0, (2,)), [8])(obs)
    assert isinstance(discrete, Categorical)
    assert discrete.batch_shape == (7, 5)
    assert isinstance(continuous, Independent)
    assert continuous.batch_shape == (7, 5)
    assert continuous.event_shape == (2,)
    assert value_critic(BOX, [8])(obs).shape == (7, 5)


def test_discrete_observations_are_one_hot_and_images_are_flattened() -> None:
    critic = value_critic(spaces.Discrete(4, start=2), [8], Generator().manual_seed(0))
    assert critic(torch.tensor([[2, 5]])).shape == (1, 2)
    image = value_critic(spaces.Box(0.0, 1.0, (2, 3)), [8])
    assert image(torch.rand(9, 4, 2, 3)).shape == (9, 4)


def test_weights_are_orthogonal_and_come_from_the_generator() -> None:
    first, second = (MLP([16, 16, 4], 0.01, Generator().manual_seed(0)) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))
    inner, last = (layer.weight for layer in first.layers)
    assert torch.allclose(inner @ inner.T, 2 * torch.eye(16), atol=1e-5)
    assert torch.allclose(last @ last.T, 1e-4 * torch.eye(4), atol=1e-8)


def test_the_gaussian_scale_does_not_depend_on_the_observation() -> None:
    policy = make_policy(BOX, spaces.Box(-1.0, 1.0, (2,)), [8])
    scale = policy(torch.randn(5, 3)).base_dist.scale
    assert torch.equal(scale, scale[:1].expand(5, 2))
    assert scale[0, 0].item() == pytest.approx(np.exp(-0.5))


def test_numpy_weights_follow_the_optimiser() -> None:
    mlp = MLP([3, 8, 2])
    forward, x = mlp.numpy(), np.ones((4, 3), np.float32)
    with torch.no_grad():
        for parameter in mlp.parameters():
            parameter.add_(0.1)
    assert np.allclose(forward(x), mlp(torch.from_numpy(x)).detach(), atol=1e-6)


@pytest.mark.parametrize(
    ("obs", "action", "says"),
    [
        (BOX, spaces.Text(3), "only Discrete, MultiDiscrete, MultiBinary and Box are known"),
        (BOX, spaces.Discrete(3, start=1), "starts at 1"),
        (BOX, spaces.Box(-1.0, 1.0, (2, 2)), "flatten the space"),
        (spaces.Dict(a=BOX), spaces.Discrete(2), "no array of numbers"),
    ],
)
def test_other_spaces_are_refused_by_name(obs: spaces.Space, action: spaces.Space, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make_policy(obs, action, [8])


def test_numpy_keeps_to_one_thread_inside_and_gets_its_own_back() -> None:
    def threads() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["internal_api"] == "openblas"}

    before = threads()
    with acting.one_blas_thread():
        assert threads() <= {1}
    assert threads() == before
