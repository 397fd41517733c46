"""NAF: its parabola against the formula, its maximum and integral, and a regulator whose action value it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from scg.agents.execution.options import OptionError
from scg.agents.experience import acting
from scg.agents.naf import LOG_DIAGONAL, NAF, QuadraticCritic, naf
from scg.agents.networks.critics import target_copy
from scg.agents.networks.encoder import Encoder
from tests.agents.networks.test_networks import BOX
from tests.agents.networks.test_squashed_normal import hermite
from tests.agents.test_off_policy_graphs import Gain, Regulator


def parabola(dim: int, unit: float = 1.0, seed: int = 0) -> QuadraticCritic:
    net = QuadraticCritic(Encoder(BOX), dim, [8], Generator().manual_seed(seed), unit)
    with torch.no_grad():
        net.net.layers[-1].weight.mul_(3.0)  # some way from the identity
    return net


def precision(net: QuadraticCritic, obs: Tensor) -> Tensor:
    """P `[rows, dim, dim]`, filled entry by entry from the network's outputs."""
    out, d = net.net(net.encoder(obs)).detach(), net.dim
    made = torch.zeros(len(obs), d, d)
    for i in range(len(obs)):
        lower = torch.zeros(d, d)
        below = iter(out[i, 1 + 2 * d :])
        for row in range(d):
            lower[row, row] = math.exp(LOG_DIAGONAL * math.tanh(float(out[i, 1 + d + row]) / LOG_DIAGONAL))
            for column in range(row):
                lower[row, column] = next(below)
        made[i] = lower @ lower.T
    return made


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("unit", [1.0, 100.0])
def test_the_action_value_is_the_parabola_of_the_formula(dim: int, unit: float, double: None) -> None:
    net, g = parabola(dim, unit), Generator().manual_seed(1)
    obs, action = torch.randn(5, 3, generator=g), torch.randn(5, dim, generator=g)
    out = net.net(net.encoder(obs))
    away = action - out[:, 1 : 1 + dim].tanh()
    expected = unit * out[:, 0] - 0.5 * torch.einsum("ri,rij,rj->r", away, precision(net, obs), away)
    assert torch.allclose(net.q(obs, action), expected)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_its_maximum_is_the_value_and_lies_where_the_policy_acts(dim: int, double: None) -> None:
    net, obs = parabola(dim), torch.randn(6, 3, generator=Generator().manual_seed(2))
    best = torch.from_numpy(acting.mode(net)(obs.numpy())).requires_grad_()
    q = net.q(obs, best)
    (slope,) = torch.autograd.grad(q.sum(), best)
    assert torch.allclose(q, net.value(obs))
    assert slope.abs().max() < 1e-12
    assert best.abs().max() < 1.0
    others = torch.rand(200, 6, dim, generator=Generator().manual_seed(3)) * 2 - 1
    assert (net.q(obs, others) < net.value(obs)).all()
    assert torch.linalg.eigvalsh(precision(net, obs)).min() > 0


@pytest.mark.parametrize("dim", [1, 2])
def test_the_integral_of_its_exponential_is_known(dim: int, double: None) -> None:
    """∫ exp(Q) over all of ℝᵈ by Gauss–Hermite around zero, with a width that reaches beyond the parabola's."""
    net, obs = parabola(dim), torch.randn(3, 3, generator=Generator().manual_seed(2))
    x, w = hermite(120)
    grid = torch.cartesian_prod(*[x] * dim).reshape(-1, dim)
    mass = torch.cartesian_prod(*[w] * dim).reshape(-1, dim).prod(-1)
    width = 1.6
    weight = mass * (0.5 * grid.square().sum(-1)).exp() * (2 * math.pi) ** (dim / 2) * width**dim
    found = (weight[:, None] * net.q(obs, (width * grid)[:, None].expand(-1, 3, -1)).exp()).sum(0)
    exact = net.value(obs).exp() * ((2 * math.pi) ** dim / torch.linalg.det(precision(net, obs))).sqrt()
    assert torch.allclose(found, exact, rtol=1e-6)


class Solved(nn.Module):
    """The regulator's best action value, −(s, a)ᵀ M (s, a), as V − ½ (a − μ)ᵀ P (a − μ) by completing the square."""

    def __init__(self, m: Tensor) -> None:
        super().__init__()
        self.m = nn.Parameter(m.clone())

    def value(self, obs: Tensor) -> Tensor:
        m = self.m
        return -torch.einsum("ri,ij,rj->r", obs, m[:2, :2] - m[:2, 2:] @ m[2:, :2] / m[2, 2], obs)

    def q(self, obs: Tensor, action: Tensor) -> Tensor:
        best = -obs @ self.m[:2, 2:] / self.m[2, 2]
        return self.value(obs) - self.m[2, 2] * (action - best).square().sum(-1)


def improved(times: int) -> Tensor:
    """M after so many rounds of policy iteration."""
    actor = Gain()
    for _ in range(times):
        m = Regulator(actor).m.detach()
        with torch.no_grad():
            actor.k.copy_(m[2:, :2] / m[2, 2])
    return Regulator(actor).m.detach()


@pytest.mark.parametrize(("rounds", "stands_still"), [(30, True), (0, False)])
def test_at_the_regulators_solution_and_nowhere_before_the_error_is_zero(rounds: int, stands_still: bool, double: None) -> None:
    """Riccati's equation is Bellman's: the maximum over actions in the target is exact."""
    world, g = Regulator(Gain()), Generator().manual_seed(0)
    obs, action = torch.randn(40, 2, generator=g), torch.randn(40, 1, generator=g)
    critic = Solved(improved(rounds))
    given = {
        "obs": obs, "action": action, "reward": -(obs.square().sum(-1) + 0.5 * action[:, 0].square()),
        "discount": torch.full((40,), world.gamma), "next_obs": obs @ world.a.T + action @ world.b.T,
    }  # fmt: skip
    trace = naf(critic, target_copy(critic)).sample(**given)  # type: ignore[arg-type]
    trace.surrogate("bellman").backward()
    error = (trace["q"][:, 0] - trace["target"]).abs().max()
    assert critic.m.grad is not None
    if stands_still:
        assert error < 1e-10
        assert critic.m.grad.abs().max() < 1e-9
    else:
        assert error > 0.01


def test_a_terminated_target_is_the_reward_and_errors_are_weighed() -> None:
    net, g = parabola(2), Generator().manual_seed(0)
    given = {
        "obs": torch.randn(4, 3, generator=g), "action": torch.randn(4, 2, generator=g), "reward": torch.randn(4, generator=g),
        "discount": torch.tensor([0.9, 0.0, 0.9, 0.0]), "next_obs": torch.randn(4, 3, generator=g),
    }  # fmt: skip
    share = torch.tensor([0.1, 0.2, 0.3, 0.4])
    plain = naf(net, parabola(2, seed=1)).sample(**given)
    assert torch.equal(plain["target"][1::2], given["reward"][1::2])
    weighed = naf(net, parabola(2, seed=1)).sample(**given, importance=share)
    assert torch.allclose(weighed["bellman"], share * (plain["q"][:, 0] - plain["target"]).square())


def test_acting_in_numpy_is_what_the_module_says() -> None:
    net, obs = parabola(2, unit=100.0), torch.randn(5, 3)
    assert np.allclose(acting.mode(net)(obs.numpy()), net(obs)[1].detach(), atol=1e-6)


def test_noise_is_not_negative() -> None:
    with pytest.raises(OptionError, match="option noise is -0.1"):
        NAF(noise=-0.1)
