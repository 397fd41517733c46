"""Soft Q-learning: its value against quadrature, its sampler's gradient against Stein's formula in plain loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Generator, Tensor, nn

from scg.agents.execution.options import OptionError
from scg.agents.experience import acting
from scg.agents.networks.critics import QCritics, target_copy
from scg.agents.networks.encoder import Encoder
from scg.agents.soft_q import Sampler, SoftQ, bandwidth, soft_q, soft_value, squared_distances
from scg.agents.updates.optimiser import Adam
from tests.agents.networks.test_networks import BOX
from tests.agents.networks.test_squashed_normal import legendre

ALPHA = 0.4


def rows(count: int, dim: int, seed: int = 0) -> dict[str, Tensor]:
    g = Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g)  # noqa: E731
    return {
        "obs": draw(count, 3), "action": draw(count, dim).tanh(), "reward": draw(count),
        "discount": torch.full((count,), 0.9), "next_obs": draw(count, 3),
    }  # fmt: skip


def q_nets(dim: int, count: int = 1, seed: int = 0) -> QCritics:
    critics = QCritics(Encoder(BOX), dim, [16], count, Generator().manual_seed(seed))
    with torch.no_grad():
        critics.layers[-1].weight.mul_(4.0)  # values that differ by several α
    return critics


# -- the value -------------------------------------------------------------------------------------------------


def exact_value(critics: nn.Module, obs: Tensor, alpha: float) -> Tensor:
    """α log ∫ exp(Q/α) over one action dimension, by Gauss–Legendre; obs `[3]`."""
    a, w = legendre()
    return alpha * (w * (critics(obs.expand(len(a), 3), a[:, None]).amin(-1) / alpha).exp()).sum().log()


@pytest.mark.parametrize("alpha", [0.05, 0.4, 3.0])
@pytest.mark.parametrize("count", [1, 2])
def test_the_target_is_the_soft_value_of_the_next_state(
    alpha: float, count: int, double: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the uniform draws put at the midpoints of 4,000 cells; the rule's own error is of order 1e-7."""
    cells, given = 4000, rows(3, 1)
    critics, sampler = q_nets(1, count), Sampler(Encoder(BOX), 1, [8], Generator().manual_seed(1))
    graph = soft_q(sampler, critics, target_copy(critics), alpha, 1, particles=2, proposals=cells)
    graph.sample(**given)
    middle = ((torch.arange(cells) + 0.5) / cells)[:, None].expand(3, cells, 1)
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: middle)
    found = graph.sample(**given)["target"]
    value = torch.stack([exact_value(critics, obs, alpha) for obs in given["next_obs"]])
    assert torch.allclose(found, given["reward"] + 0.9 * value, atol=1e-5)
    assert (value - q_nets(1, count)(given["next_obs"], torch.zeros(3, 1)).amin(-1)).abs().min() > 0.01


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_of_a_flat_energy_the_value_is_its_level_and_the_boxs_entropy(dim: int, double: None) -> None:
    assert float(soft_value(torch.full((7,), 1.5), ALPHA, dim)) == pytest.approx(1.5 + ALPHA * dim * math.log(2))


def test_a_cold_value_is_the_maximum_and_does_not_overflow() -> None:
    q = torch.tensor([[1.0, 500.0, -1e4]])
    assert float(soft_value(q, 1e-3, 1)) == pytest.approx(500.0, abs=0.01)


def test_after_a_termination_nothing_is_added_to_the_reward() -> None:
    given = rows(6, 2)
    given["discount"] = torch.tensor([0.9, 0.0] * 3)
    critics, sampler = q_nets(2), Sampler(Encoder(BOX), 2, [8])
    trace = soft_q(sampler, critics, target_copy(critics), ALPHA, 2).sample(**given)
    assert torch.equal(trace["target"][1::2], given["reward"][1::2])


# -- the sampler -----------------------------------------------------------------------------------------------


class Particles(nn.Module):
    """A sampler that is its particles: the cost's gradient for them is minus Stein's direction."""

    def __init__(self, u: Tensor) -> None:
        super().__init__()
        self.u = nn.Parameter(u.clone())

    def forward(self, obs: Tensor, noise: Tensor) -> Tensor:
        return self.u.expand(noise.shape)


def log_density(critics: nn.Module, obs: Tensor, u: Tensor) -> Tensor:
    """log p(u) up to a constant, for one particle `[dim]`: the policy exp(Q/α) before squashing."""
    return critics(obs[None], u.tanh()[None]).amin(-1)[0] / ALPHA + (1 - u.tanh().square()).log().sum()


def stein(critics: nn.Module, obs: Tensor, u: Tensor, h: float) -> Tensor:
    """Δ_j = 1/K Σ_i κ(u_i, u_j) ∇ log p(u_i) + ∇_{u_i} κ(u_i, u_j), in two loops."""
    k = len(u)
    direction = torch.zeros_like(u)
    for j in range(k):
        for i in range(k):
            x = u[i].clone().requires_grad_()
            (slope,) = torch.autograd.grad(log_density(critics, obs, x), x)
            kernel = (-(x - u[j]).square().sum() / h).exp()
            (away,) = torch.autograd.grad(kernel, x)
            direction[j] += (kernel.detach() * slope + away) / k
    return direction


def found_direction(critics: nn.Module, given: dict[str, Tensor], u: Tensor) -> Tensor:
    sampler = Particles(u)
    k, dim = u.shape[-2:]
    graph = soft_q(sampler, critics, target_copy(critics), ALPHA, dim, particles=k, proposals=2)
    graph.sample(**given).surrogate("stein").backward()
    assert sampler.u.grad is not None
    return -len(given["obs"]) * sampler.u.grad  # the surrogate is a mean over rows


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("count", [1, 2])
def test_the_samplers_gradient_is_steins_direction_in_plain_loops(dim: int, count: int, double: None) -> None:
    critics, given = q_nets(dim, count), rows(2, dim)
    u = torch.randn(2, 5, dim, generator=Generator().manual_seed(3))
    found = found_direction(critics, given, u)
    for row in range(2):
        squared = [float((u[row, i] - u[row, j]).square().sum()) for i in range(5) for j in range(5) if i != j]
        h = sorted(squared)[(len(squared) - 1) // 2] / math.log(6)
        assert torch.allclose(found[row], stein(critics, given["obs"][row], u[row], h), atol=1e-10)


def test_a_direction_without_repulsion_or_without_the_kernel_would_be_noticed(double: None) -> None:
    critics, given = q_nets(1), rows(1, 1)
    u = torch.randn(1, 5, 1, generator=Generator().manual_seed(3))
    found = found_direction(critics, given, u)[0]
    h = float(bandwidth(squared_distances(u, u)))
    slopes = []
    for one in u[0]:
        x = one.clone().requires_grad_()
        slopes.append(torch.autograd.grad(log_density(critics, given["obs"][0], x), x)[0])
    slope = torch.stack(slopes)
    attraction = (-squared_distances(u, u)[0] / h).exp() @ slope / 5
    assert (found - attraction).abs().max() > 0.01
    assert (found - slope).abs().max() > 0.01


def test_through_a_network_it_is_the_direction_times_the_networks_slope(double: None) -> None:
    critics, given = q_nets(2), rows(4, 2)
    sampler = Sampler(Encoder(BOX), 2, [8], Generator().manual_seed(1))
    trace = soft_q(sampler, critics, target_copy(critics), ALPHA, 2, particles=6, proposals=2).sample(**given)
    trace.surrogate("stein").backward()
    found = [p.grad.clone() for p in sampler.parameters()]  # type: ignore[union-attr]
    u = sampler(given["obs"], trace["noise"])
    direction = found_direction(critics, given, u.detach())
    expected = torch.autograd.grad(-(direction * u).sum() / 4, list(sampler.parameters()))
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-10)


def test_particles_at_the_policys_quantiles_stand_still(double: None) -> None:
    """p(a) ∝ exp(Q/α) by quadrature; 200 particles at its quantiles feel 200 times less than ones of twice the temperature."""
    critics, given = q_nets(1), rows(1, 1)
    grid = torch.linspace(-1, 1, 20_001)
    q = critics(given["obs"].expand(len(grid), 3), grid[:, None]).amin(-1).detach()

    def force(alpha: float) -> float:
        mass = (q / alpha).softmax(0).cumsum(0)
        at = torch.searchsorted(mass, (torch.arange(200) + 0.5) / 200)
        return float(found_direction(critics, given, grid[at].atanh()[None, :, None]).abs().mean())

    assert force(ALPHA) < 0.005
    assert force(2 * ALPHA) > 0.05


def test_a_particle_alone_climbs_to_the_mode(double: None) -> None:
    critics, given = q_nets(1), rows(1, 1)
    u = torch.tensor([[[0.3]]])
    x = u[0, 0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(log_density(critics, given["obs"][0], x), x)
    assert torch.allclose(found_direction(critics, given, u)[0, 0], slope)


class TwoHills(nn.Module):
    """Q with two equal maxima, at ±0.6, wherever one is."""

    def __init__(self) -> None:
        super().__init__()
        self.height = nn.Parameter(torch.tensor(8.0))

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        return -self.height * (action.square() - 0.36).square()


def test_the_sampler_learns_every_mode_and_the_energys_spread() -> None:
    """Half of its actions on either hill, and the standard deviation of exp(Q/α), by quadrature, within a tenth."""
    critics, g = TwoHills(), Generator().manual_seed(0)
    sampler = Sampler(Encoder(BOX), 1, [32], g)
    graph = soft_q(sampler, critics, target_copy(critics), ALPHA, 1, particles=32, proposals=1)
    optimiser = Adam(sampler.parameters())
    optimiser.rate.fill_(1e-2)
    for i in range(300):
        loss = graph.sample(generator=g, **rows(8, 1, seed=i)).surrogate("stein")
        optimiser.step(torch.autograd.grad(loss, optimiser.parameters))
    obs = torch.randn(2000, 3, generator=g).numpy()
    a = acting.sampler(sampler, g, 1, 2000)(obs)[:, 0]
    grid = np.linspace(-1, 1, 2001)
    mass = np.exp(-8.0 * (grid**2 - 0.36) ** 2 / ALPHA)
    assert 0.35 < (a > 0).mean() < 0.65
    assert a.std() == pytest.approx(np.sqrt((mass * grid**2).sum() / mass.sum()), rel=0.1)


def test_acting_in_numpy_is_what_the_module_says() -> None:
    sampler = Sampler(Encoder(BOX), 2, [8], Generator().manual_seed(0))
    obs = torch.randn(5, 3)
    noise = torch.from_numpy(sampler.noise((1, 5), Generator().manual_seed(1)))[0]
    drawn = acting.sampler(sampler, Generator().manual_seed(1), 1, 5)(obs.numpy())
    assert np.allclose(drawn, sampler(obs, noise[:, None])[:, 0].detach().tanh(), atol=1e-6)
    still = sampler(obs, torch.zeros(5, 1, 2))[:, 0].detach().tanh()
    assert np.allclose(acting.mode(sampler)(obs.numpy()), still, atol=1e-6)


@pytest.mark.parametrize("space", [spaces.Discrete(4), spaces.Box(-1.0, 1.0, (2, 3), np.float32), BOX])
def test_any_observation_that_can_be_encoded_will_do(space: Any) -> None:
    agent = SoftQ(hidden=(8,), replay=10).build(space, spaces.Box(-1.0, 1.0, (2,)), Generator().manual_seed(0))
    assert {"bellman", "stein"} <= set(agent.graph.structure.costs)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"alpha": 0.0}, "option alpha is 0.0. Give a number above 0"), ({"particles": 0}, "option particles is 0")],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        SoftQ(**options)
