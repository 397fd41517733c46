"""Sampling without replacement: proved over every ordered k-subset with its exact probability."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Binomial, Categorical, Independent, OneHotCategorical, Poisson

import scg
from scg.estimators import PrioritySampling, SumAndSample, UnorderedSet, without_replacement
from scg.estimators.without_replacement import Subset, beam, leave_out, subset
from tests.estimators.integral import composition, far, mean

LOGITS = [0.4, -0.8, 1.1, 0.2, -0.3]
F = torch.tensor([0.3, -1.2, 2.0, 0.7, -0.4])


def ordered(p, k):
    """Every ordered k-subset `[k, Q]` and its probability (Plackett–Luce)."""
    orders = torch.tensor(list(itertools.permutations(range(len(p)), k)))
    chosen = p[orders]
    before = chosen.cumsum(-1) - chosen
    return orders.T, (chosen / (1 - before)).prod(-1)


def left_of(p, values):
    """log of the probability outside each set, added up from its members."""
    inside = torch.zeros(values.shape[1], len(p), dtype=torch.bool).scatter(1, values.T, True)
    return torch.where(inside, torch.zeros(()), p).sum(-1).log()


def recited(monkeypatch, p, k):
    values, probability = ordered(p, k)
    monkeypatch.setattr(
        without_replacement, "subset", lambda d, n: Subset(values, torch.zeros_like(values), left_of(p, values))
    )
    return probability


class AsIfWithReplacement(UnorderedSet):
    """k different values weighed as k samples that knew nothing of each other."""

    def branch(self, distribution):
        drawn = without_replacement.subset(distribution, self.samples)
        log_p = distribution.log_prob(drawn.values)
        return scg.Branches(drawn.values, self.samples, score=log_p - log_p.detach())


@pytest.mark.parametrize("k", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("estimator", "right"),
    [
        (lambda k: UnorderedSet(k), True),
        (lambda k: UnorderedSet(k, baseline=False), True),
        (lambda k: SumAndSample(k), True),
        (AsIfWithReplacement, False),
    ],
    ids=["unordered set", "without its baseline", "sum and sample", "biased twin"],
)
def test_the_mean_over_every_ordered_subset_is_exact_to_second_order(monkeypatch, estimator, right, k):
    theta = torch.tensor(LOGITS, requires_grad=True)
    p = torch.softmax(theta, 0)
    probability = recited(monkeypatch, p.detach(), k)
    assert torch.isclose(probability.sum(), torch.ones(()))
    branches = estimator(k).branch(Categorical(logits=theta.expand(len(probability), 5)))
    assert (far(mean(branches, lambda x: F[x], probability), (p * F).sum(), [theta], 2) < 1e-11) == right


class SelfNormalised(PrioritySampling):
    """Weights divided by their sum: quieter, and biased."""

    def branch(self, distribution):
        branches = super().branch(distribution)
        return scg.Branches(branches.values, branches.n, branches.weights / branches.weights.sum(0).detach())


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("estimator", [PrioritySampling, SelfNormalised], ids=["ours", "biased twin"])
def test_priority_weights_are_exact_to_second_order(monkeypatch, estimator, k):
    """Given S and τ: the first clock outside S rings at τ ~ Exponential(p(D∖S)), and all of S have rung before.

    Σ_S ∫ dτ p(D∖S) e^{−p(D∖S) τ} Π_{v ∈ S} (1 − e^{−p(v) τ}) Σ_{v ∈ S} w(v) f(v), by Gauss–Legendre in τ.
    """
    theta = torch.tensor(LOGITS, requires_grad=True)
    p = torch.softmax(theta, 0)
    x, w = (torch.tensor(v) for v in np.polynomial.legendre.leggauss(300))
    t, w = 20 * (x + 1), 20 * w * torch.exp(-20 * (x + 1))
    total = torch.zeros(())
    for members in itertools.combinations(range(5), k):
        s = torch.tensor(members)
        out = 1 - p[s].sum().detach()
        tau = t / out
        probability = w * (1 - torch.exp(-p[s].detach().unsqueeze(1) * tau)).prod(0)
        values = torch.cat([s, s[:1]]).unsqueeze(1).expand(k + 1, 300)
        drawn = Subset(values, tau.log().expand(k + 1, 300), torch.zeros(300))
        monkeypatch.setattr(without_replacement, "subset", lambda d, n, drawn=drawn: drawn)
        branches = estimator(k).branch(Categorical(logits=theta.expand(300, 5)))
        total = total + mean(branches, lambda x: F[x], probability)
    assert (far(total, (p * F).sum(), [theta], 2) < 1e-11) == (estimator is PrioritySampling)


def test_ratios_of_set_probabilities_are_their_definition():
    """p(S) as the sum over all orders, R(S, v) = p^{D∖v}(S∖v)/p(S), and the same one level further down."""
    p = torch.softmax(torch.tensor(LOGITS), 0)
    s = [2, 0, 4, 3]

    def probability(members, gone):
        total = 0.0
        for order in itertools.permutations(members):
            product, drawn = 1.0, sum(float(p[g]) for g in gone)
            for v in order:
                product, drawn = product * float(p[v]) / (1 - drawn), drawn + float(p[v])
            total += product
        return total

    first, second = leave_out(p[s].log(), (1 - p[s].sum()).log())
    for i, v in enumerate(s):
        without = [u for u in s if u != v]
        assert math.isclose(first[i], float(p[v]) * probability(without, [v]) / probability(s, []), rel_tol=1e-12)
        for j, u in enumerate(s):
            ratio = 1.0 if u == v else probability([t for t in without if t != u], [v, u]) / probability(without, [v])
            assert math.isclose(second[i, j], float(p[u]) * ratio, rel_tol=1e-12)


@pytest.mark.parametrize("k", [2, 4, 8])
def test_set_probabilities_are_stable_from_certain_to_vanishing(k):
    """One value with all but 1e-12 of the mass, others down to e^-300; float32 against float64."""
    log_p = torch.linspace(-30, -300, k)
    log_p[0] = math.log1p(-1e-12)
    left = torch.tensor(math.log(0.9e-12))
    found = [leave_out(log_p.to(dtype), left.to(dtype))[0] for dtype in (torch.float32, torch.float64)]
    assert all(torch.isfinite(f).all() and torch.isclose(f.sum(), torch.ones((), dtype=f.dtype)) for f in found)
    assert torch.allclose(found[0].double(), found[1], rtol=1e-3)


def test_what_is_seen_of_a_set_adds_up_to_one():
    """Σ_v p(v) R(S, v) = 1: a constant cost has the constant as its value and no gradient, draw by draw."""
    theta = torch.randn(50, 6, requires_grad=True)
    for estimator in (UnorderedSet(3), SumAndSample(3)):
        weights = estimator.branch(Categorical(logits=theta)).weights
        assert weights is not None and torch.allclose(weights.sum(0), torch.ones(50))
    (gradient,) = torch.autograd.grad(UnorderedSet(3).branch(Categorical(logits=theta)).weights.sum(), theta)
    assert torch.allclose(gradient, torch.zeros(50, 6), atol=1e-12)


# -- the clocks ------------------------------------------------------------------------------------------------


def test_the_beam_draws_ordered_subsets_with_their_probabilities():
    """Three bits, 3 of 8 values, component by component: 336 orders in 300,000 draws, each within 5.5 standard errors
    (false alarm 1e-5 over all of them)."""
    theta = torch.tensor([0.4, -0.8, 1.1])
    values = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)))
    p = Independent(Bernoulli(logits=theta), 1).log_prob(values).exp()
    orders, probability = ordered(p, 3)
    drawn = subset(Independent(Bernoulli(logits=theta.expand(300_000, 3)), 1), 3)
    code = (drawn.values * torch.tensor([4.0, 2.0, 1.0])).sum(-1).long()
    place = code[0] * 64 + code[1] * 8 + code[2]
    seen = torch.bincount(place, minlength=512)[orders[0] * 64 + orders[1] * 8 + orders[2]] / 300_000
    error = (probability * (1 - probability) / 300_000).sqrt()
    assert ((seen - probability).abs() / error).max() < 5.5
    assert torch.allclose(drawn.left, left_of(p, code))


def test_the_beams_clocks_ring_at_their_rates():
    """The first of all clocks has rate 1; from there to the second, p(D∖first)... in mean and in mean square, false alarm 7e-6."""
    log_p = torch.log(torch.tensor([[0.3, 0.6], [0.7, 0.4]]))  # [m, D]
    index, log_times, _ = beam(log_p.unsqueeze(1).expand(2, 200_000, 2), 2)
    times = log_times.exp()
    first = log_p[index[0, :, 0], 0] + log_p[index[0, :, 1], 1]
    for wait, rate in ((times[0], torch.ones(())), (times[1] - times[0], -torch.expm1(first))):
        for moment in (1, 2):
            x = (wait * rate) ** moment
            assert abs(x.mean() - moment) < 4.5 * x.std() / len(x) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_hundred_bits(dtype):
    """2^200 values: probabilities of e^-120 and less, below what float32 holds."""
    theta = torch.randn(8, 200, dtype=dtype, requires_grad=True)
    distribution = Independent(Bernoulli(logits=theta), 1)
    for estimator in (UnorderedSet(4), SumAndSample(4), PrioritySampling(4)):
        branches = estimator.branch(distribution)
        assert branches.values.shape == (4, 8, 200) and branches.weights.dtype == dtype
        assert len({tuple(v.tolist()) for v in branches.values[:, 0]}) == 4
        (gradient,) = torch.autograd.grad((branches.weights * branches.values.mean(-1)).sum(), theta)
        assert torch.isfinite(gradient).all() and gradient.abs().max() > 0


def test_two_hundred_bits_are_no_further_from_the_truth_than_chance():
    """A linear cost, 4,000 draws: z of the projection on the true gradient. False alarm 7e-6."""
    theta, c = torch.randn(200), torch.randn(200)
    p = torch.sigmoid(theta)
    exact = p * (1 - p) * c

    def z(estimator):
        projected = []
        for _ in range(4):
            logits = theta.repeat(1000, 1).requires_grad_()
            branches = estimator.branch(Independent(Bernoulli(logits=logits), 1))
            (gradient,) = torch.autograd.grad((branches.weights * (branches.values @ c)).sum(), logits)
            projected.append((gradient - exact) @ exact / exact.norm())
        total = torch.cat(projected)
        return float(total.mean() / total.std() * len(total) ** 0.5)

    assert abs(z(UnorderedSet(3))) < 4.5


@pytest.mark.parametrize(
    "estimator", [UnorderedSet(3), UnorderedSet(4), SumAndSample(4), PrioritySampling(3), PrioritySampling(4)], ids=repr
)
def test_excluded_categories_leave_no_nan(estimator):
    """Three of five values are possible, so that three or more samples are all of them: exact."""
    theta = torch.tensor([0.3, -torch.inf, 1.0, -torch.inf, 0.2], dtype=torch.float32).requires_grad_()
    branches = estimator.branch(Categorical(logits=theta.expand(200, 5)))
    total = (branches.weights * branches.values.to(torch.float32)).sum(0)
    exact = (torch.softmax(theta, 0) * torch.arange(5)).sum()
    assert torch.allclose(total, exact.expand(200), atol=1e-5)
    gradients = [torch.autograd.grad(x, theta, retain_graph=True)[0] for x in (total.mean(), exact)]
    assert torch.allclose(*gradients, atol=1e-5)


# -- in a graph ------------------------------------------------------------------------------------------------


NODES = {
    "categories": lambda x, theta: Categorical(
        logits=torch.stack([x * theta[0], theta[1] + 0 * x, theta[2] - x, 0.3 * x, theta[0] - 1 + 0 * x], -1)
    ),
    "bits": lambda x, theta: Independent(Bernoulli(logits=torch.stack([x + theta[0], theta[1] - x, theta[2] * x], -1)), 1),
    "binomial": lambda x, theta: Binomial(4, logits=x + theta[1]),
}


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize(
    "estimator",
    [UnorderedSet(2), UnorderedSet(3), UnorderedSet(2, baseline=False), SumAndSample(2), PrioritySampling(2)],
    ids=repr,
)
def test_inside_a_graph(estimator, node):
    report = composition(estimator, NODES[node])
    assert report, report


@pytest.mark.parametrize("node", ["categories", "bits"])
@pytest.mark.parametrize("twin", [AsIfWithReplacement(2), SelfNormalised(2)], ids=repr)
def test_the_check_would_catch_weights_that_are_wrong(twin, node):
    assert composition(twin, NODES[node]).verdict == "biased"


def test_one_hot_samples_keep_their_shape():
    branches = UnorderedSet(3).branch(Independent(OneHotCategorical(logits=torch.randn(4, 2, 5)), 1))
    assert branches.values.shape == (3, 4, 2, 5) and torch.equal(branches.values.sum(-1), torch.ones(3, 4, 2))


def test_supports_that_are_endless_or_too_small_are_refused():
    assert UnorderedSet().refuses(Poisson(1.0)) == (
        "UnorderedSet needs a finite support, and Poisson has none to enumerate.\nUse LeaveOneOut(samples=4)."
    )
    three = Categorical(torch.ones(3))
    assert UnorderedSet(3).refuses(three) is None and SumAndSample(3).refuses(three) is None
    assert PrioritySampling(2).refuses(three) is None
    for estimator in (UnorderedSet(4), SumAndSample(4), PrioritySampling(3)):
        assert estimator.refuses(three) == (
            f"{type(estimator).__name__} needs a support of 4 different values, and this Categorical has 3.\n"
            "Use Enumeration(), which is exact, or fewer samples."
        )
    with pytest.raises(ValueError, match=r"UnorderedSet\(samples=11\): it sums over 2\^k subsets, so at most 10 samples"):
        UnorderedSet(11)
    for estimator in (UnorderedSet, SumAndSample, PrioritySampling):
        with pytest.raises(ValueError, match=rf"{estimator.__name__}\(samples=1\): samples is an integer, at least 2"):
            estimator(1)
