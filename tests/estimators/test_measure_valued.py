"""Measure-valued derivatives: each row of the table, by quadrature over its own noise, against the expectation's derivative."""

import itertools
import math

import numpy as np
import pytest
import scipy.special
import torch
from torch.distributions import Bernoulli, Beta, Categorical, Exponential, Gamma, Independent, Normal, Poisson, Weibull

import scg
from scg.estimators import Enumeration, MeasureValued, measure_valued
from scg.testing import assert_unbiased
from tests.estimators.integral import composition, far, grid, mean

BOTH = pytest.mark.parametrize("coupled", [True, False], ids=["coupled", "independent"])


class WrongConstant(MeasureValued):
    """Every measure but the primal sample weighed √2π times too much."""

    def branch(self, distribution):
        branches = super().branch(distribution)
        factor = torch.full_like(branches.weights, math.sqrt(2 * math.pi))
        factor[0] = 1
        return scg.Branches(branches.values, branches.n, branches.weights * factor)


def legendre(lo, hi, nodes, density):
    x, w = (torch.tensor(v) for v in np.polynomial.legendre.leggauss(nodes))
    points = (lo + hi) / 2 + (hi - lo) / 2 * x
    return points, w * (hi - lo) / 2 * density(points)


def laguerre(nodes, alpha=0.0):
    """E[f(g)], g ~ Gamma(α + 1, 1)."""
    x, w = scipy.special.roots_genlaguerre(nodes, alpha)
    return torch.tensor(x), torch.tensor(w / w.sum())


def prescribed(monkeypatch, **noise):
    """Each source of noise gives its prescribed values, one after another."""
    for name, values in noise.items():
        queue = list(values)
        monkeypatch.setattr(measure_valued, name, lambda *_, queue=queue: queue.pop(0).clone())


# -- continuous ------------------------------------------------------------------------------------------------


def normal(nodes=32):
    x, w = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(nodes))
    return x, w / w.sum()


def maxwell(nodes=32):
    x, w = normal(nodes)
    return x, w * x**2


def rayleigh(nodes=40):
    return legendre(0, 9, nodes, lambda w: w * torch.exp(-(w**2) / 2))


def wave(x):
    return torch.cos(x) + 0.3 * x**3


def mean_wave(mu, sigma):
    return torch.exp(-(sigma**2) / 2) * torch.cos(mu) + 0.3 * (mu**3 + 3 * mu * sigma**2)


UNIFORM = (lambda x, w: (torch.tensor((x + 1) / 2), torch.tensor(w / 2)))(*np.polynomial.legendre.leggauss(16))


@pytest.mark.parametrize(
    ("estimator", "right"), [(MeasureValued(), True), (WrongConstant(), False)], ids=["ours", "biased twin"]
)
def test_mean_and_scale_of_a_normal(monkeypatch, estimator, right):
    (m, u, w), probability = grid(maxwell(), UNIFORM, rayleigh())
    prescribed(monkeypatch, maxwell=[m], uniform=[u], rayleigh=[w])
    mu, sigma = torch.tensor(0.4, requires_grad=True), torch.tensor(0.8, requires_grad=True)
    branches = estimator.branch(Normal(mu.expand(len(m)), sigma.expand(len(m))))
    assert branches.n == 4
    assert (far(mean(branches, wave, probability), mean_wave(mu, sigma), [mu, sigma]) < 1e-12) == right


def test_mean_of_a_normal_by_independent_measures(monkeypatch):
    (m, u, up, down), probability = grid(maxwell(4), (torch.tensor([0.5]), torch.ones(1)), rayleigh(), rayleigh())
    prescribed(monkeypatch, maxwell=[m], uniform=[u], rayleigh=[up, down])
    mu = torch.tensor(0.4, requires_grad=True)
    branches = MeasureValued(coupled=False).branch(Normal(mu.expand(len(m)), torch.tensor(0.8)))
    assert branches.n == 3
    ours, truth = mean(branches, wave, probability), mean_wave(mu, torch.tensor(0.8))
    gradients = [torch.autograd.grad(x, mu)[0] for x in (ours, truth)]
    assert torch.allclose(*gradients, rtol=1e-11)


def test_scale_of_a_normal_by_independent_measures(monkeypatch):
    (m, other, x), probability = grid(maxwell(), maxwell(), normal())
    prescribed(monkeypatch, maxwell=[m, other], uniform=[torch.full_like(m, 0.5)], sample=[0.4 + 0.8 * x])
    sigma = torch.tensor(0.8, requires_grad=True)
    branches = MeasureValued(coupled=False).branch(Normal(torch.tensor(0.4), sigma.expand(len(m))))
    ours, truth = mean(branches, wave, probability), mean_wave(torch.tensor(0.4), sigma)
    gradients = [torch.autograd.grad(x, sigma)[0] for x in (ours, truth)]
    assert torch.allclose(*gradients, rtol=1e-11)


@BOTH
@pytest.mark.parametrize("alpha", [1.0, 2.7])
def test_rate_of_a_gamma_and_an_exponential(monkeypatch, alpha, coupled):
    """f(x) = e^-x + 0.2 x², whose mean is (θ/(θ+1))^α + 0.2 α(α+1)/θ²."""
    rate = torch.tensor(1.3, requires_grad=True)
    axes = [laguerre(20, alpha - 1)] * (1 if coupled else 3) + [laguerre(20)]
    (*primal, e), probability = grid(*axes)
    prescribed(monkeypatch, sample=[g / rate.detach() for g in primal], exponential=[e])
    size = len(e)
    distribution = Exponential(rate.expand(size)) if alpha == 1 else Gamma(torch.tensor(alpha), rate.expand(size))
    branches = MeasureValued(coupled).branch(distribution)
    assert branches.n == (2 if coupled else 3)
    truth = (rate / (rate + 1)) ** alpha + 0.2 * alpha * (alpha + 1) / rate**2
    assert far(mean(branches, lambda x: torch.exp(-x) + 0.2 * x**2, probability), truth, [rate]) < 1e-12


@BOTH
def test_scale_of_a_weibull(monkeypatch, coupled):
    """f(x) = exp(−x^k) + 0.2 x^k, whose mean is 1/(1 + θ^k) + 0.2 θ^k."""
    scale, k = torch.tensor(0.9, requires_grad=True), 1.7
    noise, probability = grid(*[laguerre(24 if coupled else 16)] * (2 if coupled else 4))
    prescribed(monkeypatch, exponential=noise)
    branches = MeasureValued(coupled).branch(Weibull(scale.expand(len(probability)), torch.tensor(k)))
    truth = 1 / (1 + scale**k) + 0.2 * scale**k
    assert far(mean(branches, lambda x: torch.exp(-(x**k)) + 0.2 * x**k, probability), truth, [scale]) < 1e-12


def test_the_samplers_have_the_laws_that_the_table_names():
    """Second and fourth moments of 400,000 draws, and their products; false alarm 7e-6 each."""
    like = torch.zeros(400_000)
    m, w = measure_valued.maxwell(like), measure_valued.rayleigh(like)
    product = m * measure_valued.uniform(like)
    for x, second, fourth in ((m, 3.0, 15.0), (w, 2.0, 8.0), (product, 1.0, 3.0)):
        for power, expected in ((2, second), (4, fourth)):
            assert abs((x**power).mean() - expected) < 4.5 * (x**power).std() / len(x) ** 0.5
    assert abs(m.mean()) < 4.5 * m.std() / len(m) ** 0.5 and w.min() > 0


# -- discrete --------------------------------------------------------------------------------------------------


def test_a_bit_is_exact_to_any_order(monkeypatch):
    theta = torch.tensor(0.4, requires_grad=True)
    p = torch.sigmoid(theta)
    x, probability = torch.tensor([0.0, 1.0]), torch.stack([1 - p, p]).detach()
    prescribed(monkeypatch, sample=[x])
    branches = MeasureValued().branch(Bernoulli(logits=theta.expand(2)))
    f0, f1 = torch.tensor(0.3), torch.tensor(-1.2)
    assert far(mean(branches, lambda b: f0 + (f1 - f0) * b, probability), f0 + (f1 - f0) * p, [theta], 2) < 1e-12
    assert MeasureValued().order(Bernoulli(0.3)) == MeasureValued().order(Categorical(torch.ones(3))) == math.inf


def test_joint_bits_are_differentiated_one_by_one(monkeypatch):
    theta = torch.tensor([0.4, -1.2, 0.9], requires_grad=True)
    bits = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)))
    probability = Independent(Bernoulli(logits=theta), 1).log_prob(bits).exp()
    prescribed(monkeypatch, sample=[bits])
    branches = MeasureValued().branch(Independent(Bernoulli(logits=theta.expand(8, 3)), 1))
    f = lambda b: (b.sum(-1) - 1.3) ** 2 * (1 + b[..., 0])  # noqa: E731
    assert branches.n == 7
    assert far(mean(branches, f, probability.detach()), (probability * f(bits)).sum(), [theta]) < 1e-12
    assert MeasureValued().order(Independent(Bernoulli(torch.rand(3)), 1)) == 1


@BOTH
def test_a_category_is_exact_to_any_order(monkeypatch, coupled):
    theta = torch.tensor([0.4, -0.3, 1.1], requires_grad=True)
    p = torch.softmax(theta, 0)
    f = torch.tensor([0.3, -1.2, 2.0])
    axes = [(torch.arange(3.0), p.detach())]
    for k in range(3):
        rest = [v for v in range(3) if v != k]
        axes.append((torch.tensor(rest, dtype=torch.float64), p[rest].detach() / p[rest].detach().sum()))
    (x, *other), probability = grid(*axes)
    prescribed(monkeypatch, sample=[x.long()], others=[torch.stack(other).long()])
    branches = MeasureValued(coupled).branch(Categorical(logits=theta.expand(len(x), 3)))
    assert branches.n == 7
    assert far(mean(branches, lambda v: f[v], probability), (p * f).sum(), [theta], 2) < 1e-12


@pytest.mark.parametrize("shared", [True, False])
def test_other_categories_are_drawn_with_their_conditional_probabilities(shared):
    """100,000 draws a category; false alarm below 1e-5."""
    probs = torch.tensor([0.5, 0.2, 0.3, 0.0])
    drawn = measure_valued.others(probs.expand(100_000, 4), shared)
    for k in range(3):
        expected = torch.where(torch.arange(4) == k, 0.0, probs) / (1 - probs[k])
        seen = torch.bincount(drawn[k], minlength=4) / 100_000
        assert (seen - expected).abs().max() < 5 * 0.5 / 100_000**0.5
        assert seen[k] == seen[3] == 0


@BOTH
def test_rate_of_a_poisson(monkeypatch, coupled):
    rate = torch.tensor(0.8, requires_grad=True)
    k = torch.arange(61.0 if coupled else 26.0)
    pmf = Poisson(rate).log_prob(k).exp()
    noise, probability = grid(*[(k, pmf.detach())] * (1 if coupled else 3))
    prescribed(monkeypatch, sample=noise)
    branches = MeasureValued(coupled).branch(Poisson(rate.expand(len(probability))))
    assert branches.n == (2 if coupled else 3)
    assert far(mean(branches, wave, probability), (pmf * wave(k)).sum(), [rate]) < 1e-12


def test_a_constant_parameter_costs_no_branch():
    distribution = Normal(torch.zeros(3, requires_grad=True), 1.0)
    assert MeasureValued().branch(distribution).n == 3
    assert MeasureValued().branch(Normal(torch.zeros(3), 1.0)).n is None


def test_a_constant_cost_has_no_gradient_at_all():
    theta = torch.randn(4, 3, requires_grad=True)
    branches = MeasureValued().branch(Independent(Normal(theta, theta.exp()), 1))
    assert branches.n == 1 + 2 * 3 + 3 and branches.values.shape == (10, 4, 3)
    total = branches.weights.sum(0)
    assert torch.allclose(total, torch.ones(4))
    assert torch.allclose(torch.autograd.grad(total.sum(), theta)[0], torch.zeros(4, 3), atol=1e-12)


# -- in a graph ------------------------------------------------------------------------------------------------


NODES = {
    "bits": lambda x, theta: Independent(Bernoulli(logits=torch.stack([x + theta[0], theta[1] - x], -1)), 1),
    "categories": lambda x, theta: Categorical(logits=torch.stack([x * theta[0], theta[1] + 0 * x, theta[2] - x], -1)),
    "normal": lambda x, theta: Normal(x * theta[0], (0.5 * theta[2]).exp()),
    "poisson": lambda x, theta: Poisson((0.3 * x + theta[2]).exp()),
    "exponential": lambda x, theta: Exponential((0.3 * x + theta[2]).exp()),
    "gamma": lambda x, theta: Gamma(1.7, (0.3 * x + theta[2]).exp()),
    "weibull": lambda x, theta: Weibull((0.3 * x + theta[1]).exp(), 1.7),
}


@BOTH
@pytest.mark.parametrize("node", NODES)
def test_inside_a_graph(node, coupled):
    report = composition(MeasureValued(coupled), NODES[node])
    assert report, report


@BOTH
def test_joint_normals(coupled):
    """A bias of 5 % of the gradient would be missed once in a thousand; so would none be called one."""
    graph = scg.Graph()
    graph.stochastic(MeasureValued(coupled), lambda mu, sigma: Independent(Normal(mu, sigma), 1), name="x")
    graph.cost(lambda x: x[..., 0] ** 2 * x[..., 1] + torch.cos(x[..., 1] - x[..., 0]), name="f")
    mu, sigma = torch.tensor([0.4, -0.7], requires_grad=True), torch.tensor([0.5, 0.8], requires_grad=True)
    assert_unbiased(graph, {"mu": mu, "sigma": sigma})


@pytest.mark.parametrize("node", ["bits", "normal", "gamma"])
def test_the_check_would_catch_a_wrong_constant(node):
    assert composition(WrongConstant(), NODES[node]).verdict == "biased"


def test_a_second_derivative_is_refused_where_it_would_be_wrong():
    graph = scg.Graph()
    graph.stochastic(MeasureValued(), lambda theta: Poisson(theta.exp()), name="x")
    graph.cost(lambda x: x**2, name="f")
    theta = torch.tensor(0.3, requires_grad=True)
    (gradient,) = torch.autograd.grad(graph.surrogate(theta=theta), theta, create_graph=True)
    with pytest.raises(scg.GraphError, match="right to first order only"):
        torch.autograd.grad(gradient, theta)


def test_a_single_category_in_a_graph_is_enumeration_on_average_to_second_order():
    """Under one bit nothing is random but the primal sample, whose terms cancel for a cost without θ: the Hessian is exact."""
    theta = torch.tensor(0.3, requires_grad=True)
    hessians = []
    for estimator in (MeasureValued(), Enumeration()):
        graph = scg.Graph()
        graph.stochastic(estimator, lambda theta: Bernoulli(logits=theta), name="x")
        graph.cost(lambda x: (x - 0.3) ** 2, name="f")
        (gradient,) = torch.autograd.grad(graph.surrogate(theta=theta), theta, create_graph=True)
        hessians.append(torch.autograd.grad(gradient, theta)[0])
    assert torch.allclose(*hessians)


def test_what_has_no_simple_pair_of_measures_is_refused():
    live = torch.tensor(1.5, requires_grad=True)
    assert MeasureValued().refuses(Beta(1.0, 2.0)) == (
        "MeasureValued is for Bernoulli, Categorical, Poisson, Normal, Exponential, Gamma, Weibull (also inside Independent), and "
        "this is Beta.\nUse ScoreFunction() or LeaveOneOut(samples=2)."
    )
    for distribution in (Gamma(live, 1.0), Weibull(1.0, live)):
        assert MeasureValued().refuses(distribution) == (
            f"MeasureValued knows no simple pair of measures for the concentration of {type(distribution).__name__}, which requires a "
            "gradient.\nDetach it, or use LeaveOneOut(samples=2), or Pathwise() where f is differentiable."
        )
    many = Independent(Normal(torch.zeros(100, requires_grad=True), 1.0), 1)
    assert MeasureValued(budget=201).refuses(many) is None
    assert MeasureValued(budget=200).refuses(many).startswith("MeasureValued would take 201 branches, the budget is 200")
