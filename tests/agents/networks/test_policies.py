"""Policies on every action space: densities integrate to one, entropies and KLs match integrals, numpy acts like torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import integrate
from torch import Generator, Tensor
from torch.distributions import Beta, Categorical, kl_divergence

from scg.agents.environments import envs
from scg.agents.environments.envs import EnvironmentFault
from scg.agents.experience.rollout import Rollout
from scg.agents.networks.bounded_policies import SignedBeta, SquashedNormalWithEntropy
from scg.agents.networks.policies import PolicyKind, make_policy
from scg.agents.networks.squashed_normal import SquashedNormal

torch.set_num_threads(1)
OBS = spaces.Box(-9.0, 9.0, (3,))
BOX = spaces.Box(-2.0, 2.0, (2,))


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


PAIRS = {
    "squashed": (SquashedNormalWithEntropy(t(0.3), t(-0.2)), SquashedNormalWithEntropy(t(-0.4), t(0.1))),
    "wide": (SquashedNormalWithEntropy(t(0.5), t(0.5)), SquashedNormalWithEntropy(t(-1.0), t(0.7))),
    "beta": (SignedBeta(t(1.5), t(3.0)), SignedBeta(t(2.0), t(1.2))),
}


def integral(f, p: SquashedNormal | SignedBeta) -> float:
    """∫ p(a) f(a) da, where u = atanh a spreads the edges out."""

    def integrand(u: float) -> float:
        a = torch.tensor([[np.tanh(u)]], dtype=torch.float64)
        density = float(p.log_prob(a).exp()) / np.cosh(u) ** 2
        return density * float(f(a)) if density > 0 else 0.0

    return integrate.quad(integrand, -12.0, 12.0, limit=400)[0]


@pytest.mark.parametrize("name", PAIRS)
def test_densities_entropies_and_divergences_are_their_integrals(name: str) -> None:
    p, q = PAIRS[name]
    assert integral(lambda a: torch.ones(()), p) == pytest.approx(1.0, abs=1e-6)
    assert float(p.entropy()) == pytest.approx(integral(lambda a: -p.log_prob(a), p), abs=2e-5)
    assert float(kl_divergence(p, q)) == pytest.approx(integral(lambda a: p.log_prob(a) - q.log_prob(a), p), abs=2e-5)
    assert float(kl_divergence(p, p)) == pytest.approx(0.0, abs=1e-12)


def test_the_entropy_of_a_squashed_normal_is_below_the_uniforms() -> None:
    """log 2 is the most that a density on (−1, 1) has; dropping tanh's slope would exceed it."""
    p = SquashedNormalWithEntropy(t(0.0), t(1.0))
    assert float(p.entropy()) < np.log(2) < float(p.log_scale + 1.42)


def test_the_signed_beta_is_torchs_beta_moved() -> None:
    p, base = SignedBeta(t(2.0, 1.3), t(1.1, 4.0)), Beta(t(2.0, 1.3), t(1.1, 4.0))
    b = t(0.2, 0.9)
    assert torch.allclose(p.log_prob(2 * b - 1), (base.log_prob(b) - np.log(2)).sum())
    assert p.mode[0] == pytest.approx(2 * (1.0 / 1.1) - 1)
    assert SignedBeta(t(1.0), t(1.0)).mode.item() == 0.0
    assert torch.isfinite(p.log_prob(t(1.0, -1.0)))  # rounding may produce the edge


@pytest.mark.parametrize("kind", ["gaussian", "state-gaussian", "squashed", "beta"])
def test_numpy_acts_like_torch(kind: PolicyKind) -> None:
    policy = make_policy(OBS, BOX, [8], Generator().manual_seed(0), kind=kind)
    for parameter in policy.parameters():  # away from the small initial weights
        parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=Generator().manual_seed(1)))
    obs = torch.randn(5, 3, generator=Generator().manual_seed(2))
    act, pi = policy.numpy_actor(), policy(obs)
    assert np.allclose(act(obs.numpy(), None), pi.mode.detach(), atol=1e-5)
    many = policy(torch.zeros(3)).expand((4000,)) if kind == "squashed" else policy(torch.zeros(4000, 3))
    noise = policy.noise((4000,), Generator().manual_seed(3))
    drawn = act(np.zeros((4000, 3), np.float32), noise)
    torch.manual_seed(4)
    reference = many.sample()
    error = np.sqrt(2 / 4000) * reference.std(0).numpy()
    assert (np.abs(drawn.mean(0) - reference.mean(0).numpy()) < 5 * error).all()
    assert np.allclose(drawn.std(0), reference.std(0), rtol=0.1)


def test_several_discrete_actions_are_independent_categoricals() -> None:
    policy = make_policy(OBS, spaces.MultiDiscrete([2, 3]), [8], Generator().manual_seed(0))
    for parameter in policy.parameters():
        parameter.data.add_(0.5 * torch.randn(parameter.shape, generator=Generator().manual_seed(1)))
    obs = torch.randn(4, 3)
    pi = policy(obs)
    logits = policy.logits(obs).unflatten(-1, (2, 3))
    parts = [Categorical(logits=logits[..., 0, :2]), Categorical(logits=logits[..., 1, :])]
    pairs = torch.cartesian_prod(torch.arange(2), torch.arange(3))
    log_probs = torch.stack([pi.log_prob(pair.expand(4, 2)) for pair in pairs])
    assert torch.allclose(log_probs.exp().sum(0), torch.ones(4))  # nothing lies beyond a dimension's size
    expected = torch.stack([parts[0].log_prob(a.expand(4)) + parts[1].log_prob(b.expand(4)) for a, b in pairs])
    assert torch.allclose(log_probs, expected, atol=1e-6)
    assert torch.allclose(pi.entropy(), parts[0].entropy() + parts[1].entropy(), atol=1e-6)
    pi.entropy().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in policy.parameters())
    drawn = policy.numpy_actor()(np.zeros((2000, 3), np.float32), policy.noise((2000,), Generator().manual_seed(0)))
    chance = policy(torch.zeros(3)).base_dist.probs.detach().numpy()
    for i, size in enumerate((2, 3)):
        counts = np.bincount(drawn[:, i], minlength=size)
        assert np.allclose(counts / 2000, chance[i, :size], atol=0.06)  # five standard errors


def test_quantised_actions_take_evenly_spaced_values() -> None:
    with envs.make("Pendulum-v1", 3, bins=5) as vector:
        assert vector.action_space == spaces.Discrete(5)
        assert np.allclose(vector._to_bounds(np.array([0, 2, 4])), [[-2], [0], [2]])
    with envs.make("Hopper-v5", 2, bins=3) as vector:
        assert vector.action_space == spaces.MultiDiscrete([3, 3, 3])
        assert np.allclose(vector._to_bounds(np.array([[0, 1, 2], [2, 2, 2]])), [[-1, 0, 1], [1, 1, 1]])
        policy = make_policy(vector.obs_space, vector.action_space, [8], Generator().manual_seed(0))
        block = Rollout(vector, [0, 1], Generator().manual_seed(0)).collect(policy, 5)
        assert block.action.shape == (5, 2, 3)
        assert block.action.dtype == torch.int64


@pytest.mark.parametrize(("env_id", "bins"), [("CartPole-v1", 3), ("Pendulum-v1", 1)])
def test_what_cannot_be_quantised_is_refused(env_id: str, bins: int) -> None:
    with pytest.raises(EnvironmentFault, match=f"{bins} bins for action space .* only a bounded Box"):
        envs.make(env_id, 1, bins=bins)
