"""CMA-ES: invariances, the natural gradient, positive definiteness, and the reference library `cma` beside it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from scg.agents.search import functions
from scg.agents.search.cma import CMA, Rates, default_population
from scg.agents.search.restarts import Restarting
from scg.agents.search.specification import search_graph, surrogate

Objective = Callable[[Tensor], Tensor]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def generations(cma: CMA, f: Objective, noise: Tensor) -> CMA:
    for block in noise:
        theta = cma.members(block)
        cma.update(theta, cma.credit(-f(theta)))
    return cma


def evaluations(f: Objective, start: Tensor, seed: int, target: float = 1e-9, most: int = 60_000) -> float:
    cma, generator, count = CMA(start, 0.5), torch.Generator().manual_seed(seed), 0
    while count < most:
        theta = cma.members(torch.randn(cma.rates.members, len(start), dtype=torch.float64, generator=generator))
        values, count = f(theta), count + cma.rates.members
        if float(values.min()) < target:
            return count
        if float(values.max() - values.min()) < 1e-12:  # in another minimum
            break
        cma.update(theta, cma.credit(-values))
    return float("nan")


def reference(f: Objective, start: Tensor, seed: int, target: float = 1e-9, most: int = 20_000) -> float:
    library = pytest.importorskip("cma")
    es, count = library.CMAEvolutionStrategy(start.numpy(), 0.5, {"seed": seed + 1, "verbose": -9}), 0
    while count < most:
        points = es.ask()
        values, count = f(torch.from_numpy(np.array(points))), count + len(points)
        if float(values.min()) < target:
            return count
        if es.stop():
            break
        es.tell(points, values.tolist())
    return float("nan")


@pytest.mark.parametrize(("dim", "members"), [(2, 6), (5, 8), (20, 12), (1000, 24), (10, 200)])
def test_rates_are_the_reference_librarys(dim: int, members: int) -> None:
    library = pytest.importorskip("cma")
    es = library.CMAEvolutionStrategy(np.zeros(dim), 1.0, {"popsize": members, "verbose": -9})
    ours, theirs = Rates(dim, members), es.sp
    assert ours.mass == pytest.approx(theirs.weights.mueff)
    assert ours.c_one == pytest.approx(theirs.c1)
    assert ours.c_mu == pytest.approx(theirs.cmu)
    assert ours.c_path == pytest.approx(theirs.cc)
    assert ours.weights.tolist() == pytest.approx(list(theirs.weights))


@pytest.mark.parametrize("f", [functions.sphere, functions.ellipsoid, functions.rosenbrock])
def test_evaluations_to_the_target_lie_within_the_references_spread(f: Objective) -> None:
    starts = [0.5 * normal(5, seed=seed) + (0.0 if f is functions.rosenbrock else 1.0) for seed in range(10)]
    ours = np.array([evaluations(f, start, seed) for seed, start in enumerate(starts)])
    theirs = np.array([reference(f, start, seed) for seed, start in enumerate(starts)])
    ours, theirs = ours[np.isfinite(ours)], theirs[np.isfinite(theirs)]
    assert len(ours) >= 8  # Rosenbrock's function has a local minimum, which one start in ten or so finds
    assert abs(ours.mean() - theirs.mean()) < max(ours.std(ddof=1), theirs.std(ddof=1))


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("change", [torch.exp, lambda u: u**3 + u, lambda u: 1e-3 * u - 7])
def test_a_monotone_change_of_the_returns_changes_no_bit(change, separable: bool) -> None:
    noise = normal(12, 8, 5)
    one = generations(CMA(torch.ones(5), 0.5, 8, separable), functions.rosenbrock, noise)
    other = generations(CMA(torch.ones(5), 0.5, 8, separable), lambda x: change(functions.rosenbrock(x) / 100), noise)
    for mine, theirs in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("separable", [False, True])
def test_a_scale_of_the_space_scales_the_search(separable: bool) -> None:
    noise = normal(12, 8, 5)
    one = generations(CMA(torch.ones(5), 0.5, 8, separable), functions.ellipsoid, noise)
    other = generations(CMA(4 * torch.ones(5), 2.0, 8, separable), lambda x: functions.ellipsoid(x / 4), noise)
    assert torch.allclose(other.mean, 4 * one.mean, rtol=1e-9)
    assert torch.allclose(other.scale, 4 * one.scale, rtol=1e-9)


def test_a_rotation_of_the_space_turns_the_search_with_it() -> None:
    rotation, _ = torch.linalg.qr(normal(5, 5, seed=3))
    start, noise = normal(5, seed=4), normal(25, 8, 5)
    one, turned = CMA(start, 0.5, 8), CMA(rotation @ start, 0.5, 8)
    for block in noise:
        theta = one.members(block)
        there = theta @ rotation.T
        one.update(theta, one.credit(-functions.ellipsoid(theta)))
        turned.update(there, turned.credit(-functions.ellipsoid(there @ rotation)))
    assert torch.allclose(turned.mean, rotation @ one.mean, rtol=1e-6, atol=1e-9)
    assert torch.allclose(turned.sigma, one.sigma, rtol=1e-6)
    covariance = turned.shape.covariance
    assert torch.allclose(covariance, rotation @ one.shape.covariance @ rotation.T, rtol=1e-6, atol=1e-9)


def test_the_separable_variant_is_not_invariant_to_rotation() -> None:
    rotation, _ = torch.linalg.qr(normal(5, 5, seed=3))
    theta = CMA(torch.zeros(5), 1.0, 8, separable=True).members(normal(8, 5))
    one, turned = (CMA(torch.zeros(5), 1.0, 8, separable=True) for _ in range(2))
    weight = one.credit(-functions.ellipsoid(theta))
    one.update(theta, weight), turned.update(theta @ rotation.T, weight)
    straight = rotation @ torch.diag(one.shape.variance) @ rotation.T
    assert not torch.allclose(turned.shape.variance, straight.diagonal(), rtol=1e-3)


def test_the_means_step_is_the_natural_gradient_of_the_graph() -> None:
    cma = generations(CMA(torch.ones(3), 0.7, 10, active=False), functions.ellipsoid, normal(5, 10, 3))
    theta = cma.members(normal(10, 3, seed=1))
    weight = cma.credit(-functions.rosenbrock(theta))
    before = cma.mean.detach().clone()
    surrogate(search_graph(cma, "w"), "w", theta, torch.zeros(10), 10 * weight).backward()
    root = cma.sigma * cma.shape.spread(torch.eye(3, dtype=torch.float64)).T
    natural = -(root @ root.T) @ cma.mean.grad  # the Fisher information of a mean is the covariance's inverse
    cma.update(theta, weight)
    assert torch.allclose(cma.mean - before, natural, rtol=1e-9)
    assert torch.allclose(cma.mean, weight @ theta, rtol=1e-9)  # which is weighted maximum likelihood


def test_the_rank_mu_step_is_the_natural_gradient_of_the_covariance() -> None:
    # For N(m, C), the natural gradient of log p in C is (x − m)(x − m)ᵀ − C: weights that sum to 1 give c_μ of it.
    cma = CMA(torch.zeros(3), 1.0, 10, active=False)
    cma.rates.c_one = 0.0
    theta = cma.members(normal(10, 3))
    weight = cma.credit(-functions.ellipsoid(theta))
    expected = torch.eye(3, dtype=torch.float64) + cma.rates.c_mu * sum(
        w * (torch.outer(y, y) - torch.eye(3, dtype=torch.float64)) for w, y in zip(weight, theta, strict=True)
    )
    cma.update(theta, weight)
    assert torch.allclose(cma.shape.covariance, expected, rtol=1e-12)


def test_the_path_is_what_rank_one_adds() -> None:
    cma, twin = CMA(torch.zeros(3), 1.0, 10), CMA(torch.zeros(3), 1.0, 10)
    twin.rates.c_one = 0.0
    theta = cma.members(normal(10, 3))
    weight = cma.credit(-functions.ellipsoid(theta))
    cma.update(theta, weight), twin.update(theta, weight)
    difference = cma.shape.covariance - twin.shape.covariance
    c_one = cma.rates.c_one
    assert torch.allclose(difference, c_one * (torch.outer(cma.path, cma.path) - torch.eye(3)), rtol=1e-9)


@pytest.mark.parametrize("separable", [False, True])
def test_negative_weights_leave_the_covariance_positive_definite(separable: bool) -> None:
    cma = CMA(torch.zeros(4), 1.0, 8, separable)
    for seed in range(60):
        theta = cma.members(normal(8, 4, seed=seed))
        theta[-1] = cma.mean + 1e3 * (theta[-1] - cma.mean)  # a member from far away
        cma.update(theta, cma.credit(normal(8, seed=1000 + seed)))
        assert float(cma.scale.min()) > 0
        assert bool(torch.isfinite(cma.members(normal(8, 4))).all())


def test_a_thousand_parameters_decompose_now_and_then_only() -> None:
    assert CMA(torch.zeros(1000), 1.0).rates.every > 3
    assert CMA(torch.zeros(5), 1.0).rates.every == 1
    assert default_population(5) == 8


def test_failed_members_rank_last() -> None:
    weight = CMA(torch.zeros(5), 1.0).credit(torch.tensor([1.0, float("nan"), 3, 2, 5, 4, 0, -1], dtype=torch.float64))
    assert int(weight.argmin()) == 1
    assert int(weight.argmax()) == 4


def test_restarts_with_larger_populations_leave_rastrigins_local_minima() -> None:
    def start(number: int) -> Tensor:
        return 3 * normal(5, seed=number)

    search, best, generator = Restarting(CMA(start(0), 1.0), start), float("inf"), torch.Generator().manual_seed(0)
    first, count = search.cma.rates.members, 0
    while best > 1e-9 and count < 60_000:
        theta = search.cma.members(torch.randn(search.cma.rates.members, 5, dtype=torch.float64, generator=generator))
        values = functions.rastrigin(theta)
        best, count = min(best, float(values.min())), count + len(values)
        search.update(theta, -values)
    assert best < 1e-9
    assert search.restarts >= 1
    assert search.cma.rates.members == first * 2**search.restarts


@pytest.mark.parametrize(
    ("f", "where"),
    [(functions.sphere, 0.0), (functions.ellipsoid, 0.0), (functions.rastrigin, 0.0), (functions.rosenbrock, 1.0)],
)
def test_the_minimum_of_a_test_function_is_zero_where_it_should_be(f: Objective, where: float) -> None:
    x = torch.full((4,), where, dtype=torch.float64)
    assert float(f(x)) == pytest.approx(0, abs=1e-12)
    assert float(f(x + 0.3 * normal(50, 4)).min()) > 0
