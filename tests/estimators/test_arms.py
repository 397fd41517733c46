"""ARMS: proved over every pattern of n bits with its exact probability under the Dirichlet copula."""

import itertools
import math

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Independent
from torch.nn.functional import logsigmoid

import scg
from scg.estimators import ARMS, DisARM, arms, disarm
from tests.estimators.integral import composition, far, grid, mean
from tests.estimators.test_disarm import bits, cost, truth


def patterns(n, theta):
    """Every set of samples that have the rarer value, and its probability, by inclusion and exclusion.

    P(dᵢ > a for all i in a set of s) = max(0, 1 − s a)^{n−1} under Dirichlet(1_n).
    """
    r = float(torch.sigmoid(-theta.abs()))
    a = 1 - r ** (1 / (n - 1))
    at_least = [max(0.0, 1 - s * a) ** (n - 1) for s in range(n + 1)]
    marks, probability = [], []
    for mark in itertools.product([0, 1], repeat=n):
        s = sum(mark)
        marks.append(mark)
        probability.append(sum((-1) ** k * math.comb(n - s, k) * at_least[s + k] for k in range(n - s + 1)))
    return torch.tensor(marks, dtype=torch.bool), torch.tensor(probability)


def recited(monkeypatch, n, theta):
    """All patterns of all components along the batch: `[n, Q, D]`, and their probabilities."""
    each = [patterns(n, t) for t in theta]
    index, probability = grid(*[(torch.arange(len(p), dtype=torch.float64), p) for _, p in each])
    rare = torch.stack([marks[i.long()].T for (marks, _), i in zip(each, index, strict=True)], -1)
    monkeypatch.setattr(arms, "rare_events", lambda n, log_r: rare)
    return probability


class NotDebiased(ARMS):
    """Leave-one-out on dependent samples: the factor p(1−p)/q forgotten."""

    def branch(self, distribution):
        branches = super().branch(distribution)
        theta = distribution.base_dist.logits
        factor = arms.debiased(self.samples, logsigmoid(-theta.detach().abs()))
        z = ((branches.values - branches.values.mean(0)) / (self.samples - 1) * (theta - theta.detach())).sum(-1)
        assert factor.shape == theta.shape
        return scg.Branches(branches.values, branches.n, 1 / self.samples + z)


@pytest.mark.parametrize("right", [True, False], ids=["ours", "biased twin"])
@pytest.mark.parametrize(
    ("n", "logits"), [(2, [0.4, -1.7]), (3, [0.4, -1.7]), (3, [3.0]), (4, [-0.2, 0.05]), (6, [-2.5])], ids=str
)
def test_the_mean_over_every_pattern_is_exact(monkeypatch, n, logits, right):
    theta = torch.tensor(logits, requires_grad=True)
    probability = recited(monkeypatch, n, theta.detach())
    assert torch.isclose(probability.sum(), torch.tensor(1.0)) and probability.min() >= -1e-15
    estimator = ARMS(n) if right else NotDebiased(n)
    branches = estimator.branch(Independent(Bernoulli(logits=theta.expand(len(probability), -1)), 1))
    assert (far(mean(branches, cost, probability), truth(theta), [theta]) < 1e-10) == right


@pytest.mark.parametrize(("n", "p"), [(2, 0.3), (3, 0.3), (3, 0.49), (4, 0.1), (3, 0.02)])
def test_the_copula_draws_its_patterns_with_their_probabilities(n, p):
    """Counts of 200,000 draws: each within 5 standard errors, false alarm below 1e-5 over all of a case's patterns."""
    marks, probability = patterns(n, torch.tensor(math.log(p / (1 - p))))
    rare = arms.rare_events(n, torch.full((200_000,), math.log(p))).T
    for mark, expected in zip(marks, probability, strict=True):
        seen = float((rare == mark).all(-1).double().mean())
        assert abs(seen - expected) <= 5 * math.sqrt(max(float(expected), 0) * (1 - float(expected)) / 200_000) + 1e-12


def test_two_samples_are_disarm(monkeypatch):
    theta = torch.randn(500)
    assert torch.allclose(arms.debiased(2, logsigmoid(-theta.abs())), torch.sigmoid(theta.abs()))
    u = torch.rand(1, 500)
    rare = torch.cat([u, 1 - u]) < torch.sigmoid(-theta.abs())
    monkeypatch.setattr(arms, "rare_events", lambda n, log_r: torch.where(theta > 0, rare, rare.flip(0)))
    monkeypatch.setattr(disarm, "open_uniform", lambda shape, like: u)
    found = []
    for estimator in (ARMS(2), DisARM()):
        logits = theta.clone().requires_grad_()
        branches = estimator.branch(Bernoulli(logits=logits))
        assert branches.weights is not None
        f = torch.cos(2 * branches.values) + branches.values
        found.append(torch.autograd.grad((branches.weights * f).sum(), logits)[0])
    assert torch.allclose(*found)


def test_the_factor_keeps_its_precision_at_rare_bits_and_many_samples():
    """Against float64: p from 1e-8 to one half, n to 64, in float32. Independence, 1, is the limit of many samples."""
    log_r = torch.linspace(-18, math.log(0.5), 50)
    for n in (2, 3, 8, 64):
        single = arms.debiased(n, log_r.float())
        assert torch.isfinite(single).all() and single.dtype == torch.float32
        assert torch.allclose(single.double(), arms.debiased(n, log_r), rtol=1e-4)
        assert ((single >= 0.49) & (single <= 1.001)).all()


@pytest.mark.parametrize(("estimator", "right"), [(ARMS(3), True), (ARMS(6), True), (NotDebiased(3), False)], ids=str)
def test_inside_a_graph(estimator, right):
    report = composition(estimator, bits)
    assert report.verdict == ("unbiased" if right else "biased"), report


def test_what_is_no_bit_is_refused():
    assert ARMS(3).refuses(Categorical(torch.ones(3))) == (
        "ARMS is for Bernoulli (also inside Independent), and this is Categorical.\nUse LeaveOneOut(samples=3)."
    )
    with pytest.raises(ValueError, match=r"ARMS\(samples=1\): samples is an integer, at least 2"):
        ARMS(1)
