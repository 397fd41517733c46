"""CEM's, RWR's, PI²'s and PoWER's steps are the weighted maximum-likelihood steps of the formulas, and the graph says so."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from scg.agents.search import credits
from scg.agents.search.distributions import DiagonalGaussian, FullGaussian
from scg.agents.search.specification import search_graph, surrogate

G = torch.Generator().manual_seed(0)
THETA = torch.randn(9, 2, dtype=torch.float64, generator=G) * torch.tensor([1.0, 3.0]) + torch.tensor([2.0, -1.0])
UTILITY = 50 + 10 * torch.randn(9, dtype=torch.float64, generator=G)
WEIGHTS = {
    "cem": credits.elite(UTILITY, 4),
    "rwr": credits.exponential(UTILITY, 1.0, "std"),
    "pi2": credits.exponential(UTILITY, 10.0),
    "power": UTILITY,
}


def slopes(distribution: DiagonalGaussian | FullGaussian, weight: Tensor) -> dict[str, Tensor]:
    distribution.zero_grad()
    surrogate(search_graph(distribution, "w"), "w", THETA, UTILITY, weight).backward()
    return {name: parameter.grad for name, parameter in distribution.named_parameters()}


@pytest.mark.parametrize("method", WEIGHTS)
@pytest.mark.parametrize("kind", [DiagonalGaussian, FullGaussian])
def test_the_step_is_where_the_graphs_gradient_vanishes(kind: type, method: str) -> None:
    distribution = kind(torch.zeros(2), 1.0)
    assert all(float(slope.norm()) > 1e-3 for slope in slopes(distribution, WEIGHTS[method]).values())
    distribution.fit(THETA, WEIGHTS[method])
    for slope in slopes(distribution, WEIGHTS[method]).values():
        assert float(slope.abs().max()) < 1e-12 * float(WEIGHTS[method].sum())


def test_a_variance_about_the_old_mean_is_not_where_it_vanishes() -> None:
    distribution, weight = DiagonalGaussian(torch.zeros(2), 1.0), WEIGHTS["cem"]
    distribution.fit(THETA, weight)
    with torch.no_grad():
        distribution.log_scale.copy_(((weight / weight.sum()) @ THETA.square()).log() / 2)
    assert float(slopes(distribution, weight)["log_scale"].abs().max()) > 1e-3


@pytest.mark.parametrize("method", WEIGHTS)
def test_no_neighbour_on_a_grid_is_more_likely(method: str) -> None:
    weight = WEIGHTS[method]
    distribution = DiagonalGaussian(torch.zeros(2), 1.0)
    distribution.fit(THETA, weight)

    def likelihood() -> float:
        with torch.no_grad():
            return float(weight @ distribution().log_prob(THETA))

    best = likelihood()
    parameters = torch.cat([distribution.mean.detach(), distribution.log_scale.detach()])
    for move in itertools.product((-0.01, 0.0, 0.01), repeat=4):
        if any(move):
            with torch.no_grad():
                moved = parameters + torch.tensor(move, dtype=torch.float64)
                distribution.mean.copy_(moved[:2]), distribution.log_scale.copy_(moved[2:])
            assert likelihood() < best


def test_cem_is_the_mean_of_the_top_share() -> None:
    best = UTILITY.argsort(descending=True)[:4]
    distribution = DiagonalGaussian(torch.zeros(2), 1.0)
    distribution.fit(THETA, WEIGHTS["cem"])
    assert torch.allclose(distribution.mean, THETA[best].mean(0))
    assert torch.allclose(distribution.scale, THETA[best].std(0, correction=0))


def test_pi2_is_the_mean_weighted_by_exponential_returns() -> None:
    lam = 10 / (UTILITY.max() - UTILITY.min())
    distribution = DiagonalGaussian(torch.zeros(2), 1.0)
    distribution.fit_mean(THETA, WEIGHTS["pi2"])
    weight = torch.exp(lam * UTILITY)
    assert torch.allclose(distribution.mean, (weight[:, None] * THETA).sum(0) / weight.sum())
    assert torch.equal(distribution.scale, torch.ones(2, dtype=torch.float64))


def test_power_is_the_mean_of_differences_weighted_by_returns() -> None:
    old = torch.tensor([0.3, 0.9], dtype=torch.float64)
    distribution = DiagonalGaussian(old, 1.0)
    distribution.fit_mean(THETA, UTILITY)
    assert torch.allclose(distribution.mean, old + ((THETA - old) * UTILITY[:, None]).sum(0) / UTILITY.sum())


def test_extra_noise_is_added_to_the_variance() -> None:
    one, other = DiagonalGaussian(torch.zeros(2), 1.0), DiagonalGaussian(torch.zeros(2), 1.0)
    one.fit(THETA, WEIGHTS["cem"]), other.fit(THETA, WEIGHTS["cem"], extra=4.0)
    assert torch.allclose(other.scale.square() - one.scale.square(), torch.full((2,), 4.0, dtype=torch.float64))


def test_a_singular_covariance_says_how_many_members_it_takes() -> None:
    with pytest.raises(ValueError, match="2 parameters from 2 members with weight is singular.*at least 3"):
        FullGaussian(torch.zeros(2), 1.0).fit(THETA, credits.elite(UTILITY, 2))
    FullGaussian(torch.zeros(2), 1.0).fit(THETA, credits.elite(UTILITY, 3))
