"""The squashed Gaussian: its density against quadrature, torch and float64; its edges; both ways to differentiate it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

import scg
from scg import Pathwise, ScoreFunction, dist
from scg.agents.networks.squashed_normal import SquashedNormal, log_slope
from scg.estimators import LeaveOneOut


def hermite(n: int = 80) -> tuple[Tensor, Tensor]:
    """Nodes and weights of E[f(ε)], ε ~ N(0, 1)."""
    x, w = np.polynomial.hermite_e.hermegauss(n)
    return torch.from_numpy(x), torch.from_numpy(w / w.sum())


@cache
def legendre(n: int = 600) -> tuple[Tensor, Tensor]:
    """Nodes and weights of ∫ f(a) da over (-1, 1)."""
    x, w = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy(x), torch.from_numpy(w)


def at_noise(monkeypatch: pytest.MonkeyPatch, noise: Tensor) -> None:
    """From here on, the sampler draws `noise`."""

    def randn(shape: torch.Size, **_: object) -> Tensor:
        assert tuple(shape) == tuple(noise.shape)
        return noise

    monkeypatch.setattr(torch, "randn", randn)


@pytest.mark.parametrize(("loc", "log_scale"), [(0.0, -0.5), (0.4, -1.0), (-0.8, -2.0), (0.1, -0.2)])
def test_the_density_integrates_to_one(loc: float, log_scale: float, double: None) -> None:
    a, w = legendre()
    p = SquashedNormal(torch.full((600, 1), loc), torch.full((600, 1), log_scale)).log_prob(a[:, None]).exp()
    assert float((w * p).sum()) == pytest.approx(1.0, abs=1e-9)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.floats(-2, 2), st.floats(-3, 0.5), st.floats(-0.999, 0.999))
def test_it_is_torchs_transformed_distribution_in_the_bulk(loc: float, log_scale: float, value: float) -> None:
    """Value, and the derivatives for both parameters and for the value."""
    arguments = [torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (loc, log_scale, value)]

    def theirs(loc: Tensor, log_scale: Tensor, value: Tensor) -> Tensor:
        return Independent(TransformedDistribution(Normal(loc, log_scale.exp()), TanhTransform()), 1).log_prob(value)

    one, two = SquashedNormal(*arguments[:2]).log_prob(arguments[2]), theirs(*arguments)
    assert torch.allclose(one, two, rtol=1e-9, atol=1e-9)
    for ours, reference in zip(torch.autograd.grad(one, arguments), torch.autograd.grad(two, arguments), strict=True):
        assert torch.allclose(ours, reference, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("u", [0.0, 0.5, -3.0, 9.0, -12.0, 40.0, 1000.0])
def test_its_own_draws_are_scored_to_rounding_however_far_out(u: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 against the closed form in float64: log(1 − tanh² u) = log 4 − 2|u| − 2 log(1 + exp(−2|u|))."""
    log_scale = torch.tensor([0.5])
    distribution = SquashedNormal(torch.tensor([0.25]), log_scale)
    at_noise(monkeypatch, (torch.tensor([u]) - 0.25) / log_scale.exp())
    log_prob = distribution.log_prob(distribution.sample())
    normal = -0.5 * ((u - 0.25) / math.exp(0.5)) ** 2 - 0.5 - 0.5 * math.log(2 * math.pi)
    exact = normal - (math.log(4) - 2 * abs(u) - 2 * math.log1p(math.exp(-2 * abs(u))))
    assert float(log_prob) == pytest.approx(exact, rel=2e-6, abs=2e-6)


def test_at_the_edges_everything_is_finite() -> None:
    """Actions of ±1, and far tails, as values of another's recording and as draws; densities and gradients."""
    loc, log_scale = torch.zeros(4, 1, requires_grad=True), torch.zeros(4, 1, requires_grad=True)
    value = torch.tensor([[1.0], [-1.0], [1 - 1e-7], [0.0]], requires_grad=True)
    log_prob = SquashedNormal(loc, log_scale).log_prob(value)
    assert torch.isfinite(log_prob).all()
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(log_prob.sum(), [loc, log_scale, value]))
    far = torch.tensor([[60.0], [-60.0], [9.1], [0.0]], requires_grad=True)
    distribution = SquashedNormal(far, log_scale)
    drawn = distribution.rsample()
    assert drawn[0].item() == 1.0  # rounded there
    total = distribution.log_prob(drawn).sum()
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(total, [far, log_scale]))
    assert torch.isfinite(log_slope(torch.tensor([-1e4, 1e4]))).all()


def test_one_minus_tanh_squared_would_not_have_been() -> None:
    """The twin that this must catch: the textbook form is −∞ from |u| ≈ 9.1 on in float32."""
    u = torch.tensor([5.0, 9.5])
    textbook = (1 - u.tanh().square()).log()
    assert float(textbook[1]) == -math.inf
    assert torch.allclose(log_slope(u), torch.tensor([math.log(4) - 10, math.log(4) - 19]), atol=1e-3)


def test_another_tensor_is_never_taken_for_the_last_draw(double: None) -> None:
    distribution = SquashedNormal(torch.zeros(3, 1), torch.zeros(3, 1))
    drawn = distribution.sample()
    assert torch.allclose(distribution.log_prob(drawn), distribution.log_prob(drawn.clone()))
    moved = drawn / 2
    assert torch.allclose(distribution.log_prob(moved), SquashedNormal(torch.zeros(3, 1), torch.zeros(3, 1)).log_prob(moved))
    assert distribution.expand((2, 3)).batch_shape == (2, 3)
    assert distribution.rsample(torch.Size((5,))).shape == (5, 3, 1)
    assert torch.equal(distribution.mode, torch.zeros(3, 1))


# -- both estimators, exactly ----------------------------------------------------------------------------------

THETA = (0.3, -0.4)  # loc and log-scale


def soft_cost(a: Tensor, log_prob: Tensor) -> Tensor:
    """What SAC's actor is charged with: α log π(a) − Q(a), Q no polynomial."""
    return 0.2 * log_prob - (torch.sin(3 * a) - (a - 0.2) ** 2).squeeze(-1)


def objective_graph(estimator: scg.Estimator) -> scg.Graph:
    graph = scg.Graph()

    @graph.stochastic(estimator)
    def action(loc: Tensor, log_scale: Tensor, ones: Tensor) -> SquashedNormal:
        return SquashedNormal(loc * ones, log_scale * ones)

    @graph.cost
    def cost(action: Tensor, mass: Tensor, pi=dist("action")) -> Tensor:
        return mass * soft_cost(action, pi.log_prob(action))

    return graph


def exact_gradient() -> list[Tensor]:
    """∇ ∫ p(a; θ) (α log p(a; θ) − Q(a)) da on a grid of actions that stands still: through the density alone."""
    theta = [torch.tensor(x, requires_grad=True) for x in THETA]
    a, w = legendre()
    log_prob = SquashedNormal(*(t.expand(600, 1) for t in theta)).log_prob(a[:, None])
    return list(torch.autograd.grad((w * log_prob.exp() * soft_cost(a[:, None], log_prob)).sum(), theta))


def one_sample() -> tuple[Tensor, Tensor]:
    x, w = hermite()
    return x[:, None], w


def two_samples() -> tuple[Tensor, Tensor]:
    x, w = hermite(64)
    pairs = torch.cartesian_prod(x, x)
    return pairs.T[..., None].contiguous(), torch.cartesian_prod(w, w).prod(-1)


@pytest.mark.parametrize(
    ("estimator", "draws"),
    [
        (Pathwise(smooth=True), one_sample),
        (ScoreFunction(), one_sample),
        (LeaveOneOut(samples=2), two_samples),
    ],
)
def test_each_estimators_mean_is_the_exact_gradient(
    estimator: scg.Estimator,
    draws: Callable[[], tuple[Tensor, Tensor]],
    double: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The batch runs over Gauss–Hermite nodes (over pairs of them), each weighed with its mass: no sampling noise."""
    noise, mass = draws()
    graph = objective_graph(estimator)
    loc, log_scale = (torch.tensor(x, requires_grad=True) for x in THETA)
    inputs = {"loc": loc, "log_scale": log_scale, "ones": torch.ones(len(mass), 1), "mass": mass * len(mass)}
    graph.sample(**inputs)  # examined on ordinary draws
    at_noise(monkeypatch, noise)
    with scg.examination(again=False):  # its own draws would ask the stand-in for other shapes
        gradient = torch.autograd.grad(graph.surrogate(**inputs), [loc, log_scale])
    for ours, exact in zip(gradient, exact_gradient(), strict=True):
        assert float(ours) == pytest.approx(float(exact), abs=1e-8)
