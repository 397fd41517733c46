"""What the search gradients estimate, by exact integrals (Gauss–Hermite) and sums: the gradient of the smoothed objective."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from scg.agents.search import credits, functions
from scg.agents.search.distributions import DiagonalGaussian, FullGaussian
from scg.agents.search.perturbations import Perturbations
from scg.agents.search.specification import search_graph, surrogate
from scg.testing import check_unbiased

Objective = Callable[[Tensor], Tensor]
MEAN, SCALE = torch.tensor([0.7, -0.4], dtype=torch.float64), 0.3


def quadrature(dim: int, points: int = 12) -> tuple[Tensor, Tensor]:
    """Nodes `[points^dim, dim]` and probabilities of N(0, I): exact for polynomials of degree 2 points − 1 in each axis."""
    x, w = np.polynomial.hermite_e.hermegauss(points)
    w = w / w.sum()
    nodes = torch.tensor(list(itertools.product(x, repeat=dim)), dtype=torch.float64)
    return nodes, torch.tensor([math.prod(ws) for ws in itertools.product(w, repeat=dim)], dtype=torch.float64)


def estimate(distribution: torch.nn.Module, theta: Tensor, utility: Tensor, weight: Tensor) -> Tensor:
    """The gradient of the mean that the graph gives: of reward, so negated."""
    distribution.zero_grad()
    surrogate(search_graph(distribution, "weight"), "weight", theta, utility, weight).backward()
    return -distribution.mean.grad


def expected(f: Objective, scale: float = SCALE) -> Tensor:
    """The estimator's mean over the Gaussian's members."""
    nodes, p = quadrature(2)
    distribution = DiagonalGaussian(MEAN, scale, learn_scale=False)
    theta = distribution.members(nodes)
    return estimate(distribution, theta, f(theta), len(p) * p * f(theta))


def smoothed_gradient(f: Objective, scale: float = SCALE) -> Tensor:
    """∇ E[f(mean + scale ξ)], through the integral's nodes."""
    nodes, p = quadrature(2)
    mean = MEAN.clone().requires_grad_()
    (p * f(mean + scale * nodes)).sum().backward()
    return mean.grad


def gradient(f: Objective) -> Tensor:
    mean = MEAN.clone().requires_grad_()
    f(mean).backward()
    return mean.grad


def quartic(x: Tensor) -> Tensor:
    return -functions.rosenbrock(x)


def quadratic(x: Tensor) -> Tensor:
    return 3 * x[..., 0] ** 2 - x[..., 0] * x[..., 1] + x[..., 1] - 2


def test_evolution_strategies_estimate_the_gradient_of_the_smoothed_objective() -> None:
    assert torch.allclose(expected(quartic), smoothed_gradient(quartic), rtol=1e-12)


def test_it_is_not_the_gradient_of_the_objective_itself() -> None:
    # The twin: whoever takes the estimate for ∇f at the mean is wrong by O(scale²), which this test would see.
    assert float((expected(quartic) - gradient(quartic)).norm()) > 10
    assert torch.allclose(expected(quartic, 1e-4), gradient(quartic), atol=1e-3)


def test_where_the_objective_steps_the_estimate_is_the_smoothed_ones_slope() -> None:
    # f = 1 for theta > 0: E f = Φ(mean/scale), whose slope is a density. ∇f is 0 wherever it exists.
    distribution = DiagonalGaussian(torch.tensor([0.2]), 0.5, learn_scale=False)
    edges = torch.linspace(-8, 8, 160_001, dtype=torch.float64)
    noise = ((edges[1:] + edges[:-1]) / 2)[:, None]
    mass = torch.special.ndtr(edges).diff()
    theta = distribution.members(noise)
    f = (theta[:, 0] > 0).double()
    found = estimate(distribution, theta, f, len(f) * mass * f)
    density = math.exp(-0.5 * (0.2 / 0.5) ** 2) / math.sqrt(2 * math.pi) / 0.5
    assert float(found) == pytest.approx(density, abs=1e-6)


def test_the_gradient_of_the_scale_is_the_smoothed_objectives_too() -> None:
    nodes, p = quadrature(2)
    distribution = DiagonalGaussian(MEAN, SCALE)
    theta = distribution.members(nodes)
    surrogate(search_graph(distribution, "w"), "w", theta, quartic(theta), len(p) * p * quartic(theta)).backward()
    log_scale = torch.full((2,), math.log(SCALE), dtype=torch.float64, requires_grad=True)
    (p * quartic(MEAN + log_scale.exp() * nodes)).sum().backward()
    assert torch.allclose(-distribution.log_scale.grad, log_scale.grad, rtol=1e-10)


def test_the_complete_graph_is_checked_as_any_other_and_a_biased_twin_is_found() -> None:
    distribution = DiagonalGaussian(MEAN, SCALE, learn_scale=False)
    graph = search_graph(distribution, "utility", lambda theta: -((theta - 1) ** 4).sum(-1))
    assert not [found for found in graph.check() if found.level == "error"]
    smoothed = 4 * (MEAN - 1) ** 3 + 12 * SCALE**2 * (MEAN - 1)  # of the cost; the first term alone is that at the mean
    assert check_unbiased(graph, {}, wrt=[distribution.mean], oracle=smoothed, detectable=0.1)
    assert not check_unbiased(graph, {}, wrt=[distribution.mean], oracle=4 * (MEAN - 1) ** 3, detectable=0.1)


def test_axes_are_central_differences() -> None:
    h, dim = 0.05, 2
    distribution = DiagonalGaussian(MEAN, h / math.sqrt(dim), learn_scale=False)
    theta = distribution.members(Perturbations(0, dim, "axes").rows(0, range(2 * dim)))
    utility = quartic(theta)
    steps = h * torch.eye(dim, dtype=torch.float64)
    differences = torch.stack([(quartic(MEAN + step) - quartic(MEAN - step)) / (2 * h) for step in steps])
    assert torch.allclose(estimate(distribution, theta, utility, credits.mirrored(utility)), differences, rtol=1e-9)


def test_repeated_axes_average_their_evaluations() -> None:
    distribution = DiagonalGaussian(MEAN, 0.1, learn_scale=False)
    theta = distribution.members(Perturbations(0, 2, "axes").rows(0, range(12)))
    noise = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    utility = quadratic(theta) + noise
    found = estimate(distribution, theta, utility, credits.mirrored(utility))
    h = 0.1 * math.sqrt(2)
    sides = utility.view(3, 2, 2).mean(0)  # [axis, side]
    assert torch.allclose(found, (sides[:, 0] - sides[:, 1]) / (2 * h), rtol=1e-9)


def test_mirrored_signs_are_simultaneous_perturbation() -> None:
    distribution = DiagonalGaussian(MEAN, 0.1, learn_scale=False)
    noise = Perturbations(3, 2, "signs", mirrored=True).rows(0, range(2))
    theta = distribution.members(noise)
    utility = quartic(theta)
    spsa = (utility[0] - utility[1]) / (2 * 0.1 * noise[0])
    assert torch.allclose(estimate(distribution, theta, utility, credits.mirrored(utility)), spsa, rtol=1e-9)


def test_on_a_quadratic_differences_spsa_and_evolution_strategies_have_one_mean() -> None:
    exact = gradient(quadratic)
    for noise in (
        Perturbations(0, 2, "axes").rows(0, range(4)),
        torch.tensor(list(itertools.product((-1.0, 1.0), repeat=2)), dtype=torch.float64),  # all signs
    ):
        distribution = DiagonalGaussian(MEAN, SCALE, learn_scale=False)
        theta = distribution.members(noise)
        assert torch.allclose(estimate(distribution, theta, quadratic(theta), quadratic(theta)), exact, rtol=1e-9)
    assert torch.allclose(expected(quadratic), exact, rtol=1e-9)


def test_mirroring_takes_the_even_part_of_the_objective_out() -> None:
    # A pair's estimate is odd(ξ) ξ / scale exactly; two independent members also carry Var[even(ξ) ξ / scale] / 2.
    nodes, p = quadrature(2)
    distribution = DiagonalGaussian(MEAN, SCALE, learn_scale=False)
    up, down = quartic(MEAN + SCALE * nodes), quartic(MEAN - SCALE * nodes)
    odd, even = (up - down) / 2, (up + down) / 2
    for i in (0, 17, 100):
        theta = distribution.members(torch.stack([nodes[i], -nodes[i]]))
        found = estimate(distribution, theta, quartic(theta), credits.mirrored(quartic(theta)))
        assert torch.allclose(found, odd[i] * nodes[i] / SCALE, rtol=1e-9)

    def variance(value: Tensor) -> float:
        slopes = value[:, None] * nodes / SCALE
        return float((p[:, None] * slopes.square()).sum() - (p @ slopes).square().sum())

    two_alone = variance(up) / 2
    assert variance(odd) + variance(even) == pytest.approx(2 * two_alone, rel=1e-9)
    # So a pair beats two members alone wherever the even part varies more, as with any large constant in the return.
    shifted = variance(up + 1e4) / 2
    assert variance(odd) < shifted / 10


def test_a_failed_member_takes_its_mirror_image_with_it_and_the_mean_stays() -> None:
    # Members fail at random, whatever they return. Enumerate which of four fail; keep the patterns with a whole pair.
    distribution = DiagonalGaussian(MEAN, SCALE, learn_scale=False)
    theta = distribution.members(Perturbations(5, 2, mirrored=True).rows(0, range(4)))
    utility = 100 + quadratic(theta)
    whole = estimate(distribution, theta, utility, credits.mirrored(utility))
    found, twin = [], []
    for failed in range(4):
        broken = utility.clone()
        broken[failed] = torch.nan
        found.append(estimate(distribution, theta, broken, credits.mirrored(broken)))
        lonely = torch.where(torch.isfinite(broken), utility, 0.0) * 4 / 3  # drops the member, keeps its mirror image
        twin.append(estimate(distribution, theta, broken, lonely))
    assert torch.allclose(torch.stack(found).mean(0), whole, rtol=1e-9)
    assert not torch.allclose(torch.stack(twin)[0], torch.stack(found)[0], rtol=1.0)


def test_full_and_diagonal_gaussians_agree_where_they_are_the_same() -> None:
    noise = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    diagonal, full = DiagonalGaussian(MEAN, SCALE), FullGaussian(MEAN, SCALE)
    theta = diagonal.members(noise)
    assert torch.allclose(theta, full.members(noise))
    assert torch.allclose(
        estimate(diagonal, theta, quartic(theta), quartic(theta)), estimate(full, theta, quartic(theta), quartic(theta))
    )
