"""Implicit gradients are the derivatives of the integral, by quadrature; and the slope is that of the quantile."""

import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import distributions as D
from torch.distributions import Bernoulli, Categorical, Gamma, Independent, MixtureSameFamily, Normal, VonMises, constraints

import scg
from scg.estimators import Pathwise, ScoreFunction
from scg.estimators.implicit import Implicit, implicit, von_mises_slope
from tests.estimators.integral import far


class TruncatedExponential(D.Distribution):
    """Rate r on [0, h]."""

    arg_constraints: ClassVar = {"rate": constraints.positive, "high": constraints.positive}

    def __init__(self, rate, high, validate_args=None):
        self.rate, self.high = torch.broadcast_tensors(torch.as_tensor(rate), torch.as_tensor(high))
        super().__init__(self.rate.shape, validate_args=validate_args)

    @property
    def support(self):
        return constraints.interval(0.0, self.high)

    def cdf(self, x):
        return torch.expm1(-self.rate * x) / torch.expm1(-self.rate * self.high)

    def log_prob(self, x):
        return torch.log(self.rate) - self.rate * x - torch.log(-torch.expm1(-self.rate * self.high))

    def sample(self, sample_shape=torch.Size()):
        with torch.no_grad():
            u = torch.rand(self._extended_shape(sample_shape))
            return -torch.log1p(u * torch.expm1(-self.rate * self.high)) / self.rate

    def expand(self, batch_shape, _instance=None):
        return TruncatedExponential(self.rate.expand(batch_shape), self.high.expand(batch_shape))


def at(distribution, x):
    """The distribution, its samples prescribed."""
    distribution.sample = lambda sample_shape=torch.Size(): x.detach().expand((*sample_shape, *x.shape))
    return distribution


def line(a, b, count=4001):
    x = torch.linspace(a, b, count)
    return x, torch.full((count,), (b - a) / (count - 1))


def mixture(params, count=None):
    logits, loc, scale = params
    shape = (3,) if count is None else (count, 3)
    return MixtureSameFamily(Categorical(logits=logits.expand(shape)), Normal(loc.expand(shape), scale.expand(shape)))


MIXTURE = ([0.4, -0.3, 1.0], [-1.5, 0.4, 1.2], [0.5, 0.8, 0.4])


def three(requires_grad=False):
    return [torch.tensor(p, requires_grad=requires_grad) for p in MIXTURE]


class Reweighted(Implicit):
    """Without the mixture's own movement: components move, their shares do not."""

    def branch(self, distribution):
        values = distribution.sample()
        index = Categorical(logits=distribution.mixture_distribution.logits.detach())
        return scg.Branches(implicit(MixtureSameFamily(index, distribution.component_distribution), values))


@pytest.mark.parametrize(("estimator", "right"), [(Implicit(), True), (Reweighted(), False)], ids=["ours", "biased twin"])
def test_mixtures_of_normals(estimator, right):
    params = three(requires_grad=True)
    x, dx = line(-12, 12)
    f = torch.sin(2 * x) + 0.3 * x**2
    truth = (mixture(params, len(x)).log_prob(x).exp() * f * dx).sum()
    distribution = at(mixture(params, len(x)), x)
    moving = estimator.branch(distribution).values
    mean = (distribution.log_prob(x).exp().detach() * dx * (torch.sin(2 * moving) + 0.3 * moving**2)).sum()
    assert (far(mean, truth, params) < 1e-9) == right


@pytest.mark.parametrize("kappa", [0.05, 1.3, 20.0, 800.0])
def test_von_mises(kappa):
    """The trapezoid rule on the circle; f is smooth on it."""
    mu, kappa = torch.tensor(0.7, requires_grad=True), torch.tensor(kappa, requires_grad=True)
    x, dx = torch.linspace(-math.pi, math.pi, 4001)[:-1], 2 * math.pi / 4000

    def f(x):
        return torch.cos(3 * x) + torch.exp(torch.sin(x))

    # e^(κ cos) over its own integral: torch's Bessel functions are right to 1e-7 only
    density = torch.exp(kappa * (torch.cos(x - mu) - 1))
    density = density / (density * dx).sum()
    truth = (density * f(x) * dx).sum()
    moving = Implicit().branch(at(VonMises(mu.expand(4000), kappa.expand(4000)), x)).values
    mean = (density.detach() * dx * f(moving)).sum()
    assert far(mean, truth, [mu, kappa]) < 1e-9


@pytest.mark.parametrize("kappa", [1e4, 1e8])
def test_a_concentrated_von_mises_moves_like_a_normal(kappa):
    """x ≈ ε/√κ, so dx/dκ ≈ −x/(2κ), with an error of order 1/κ."""
    kappa = torch.tensor(kappa)
    y = torch.tensor([-2.5, -1.0, 0.3, 3.0]) / kappa.sqrt()
    assert torch.allclose(von_mises_slope(y, kappa), -y / (2 * kappa), rtol=5 / kappa.item())


@pytest.mark.parametrize("kappa", [0.3, 4.0])
def test_von_mises_in_single_precision(kappa):
    y = torch.linspace(-3.1, 3.1, 101)
    single = von_mises_slope(y.float(), torch.tensor(kappa).float())
    assert single.dtype == torch.float32 and torch.allclose(single.double(), von_mises_slope(y, torch.tensor(kappa)), atol=1e-5)


def test_a_support_that_moves_with_its_parameter():
    rate, high = torch.tensor(1.3, requires_grad=True), torch.tensor(2.1, requires_grad=True)
    node, weight = np.polynomial.legendre.leggauss(60)
    share, weight = torch.tensor((node + 1) / 2), torch.tensor(weight / 2)
    x = share * high
    truth = (TruncatedExponential(rate, high).log_prob(x).exp() * torch.cos(2 * x) * weight * high).sum()
    distribution = at(TruncatedExponential(rate.expand(60), high.expand(60)), x)
    moving = Implicit().branch(distribution).values
    mean = ((distribution.log_prob(x).exp() * weight * high).detach() * torch.cos(2 * moving)).sum()
    assert far(mean, truth, [rate, high]) < 1e-9


def test_a_normal_moves_as_its_sampler_does():
    mu, sigma = torch.tensor(0.3, requires_grad=True), torch.tensor(0.7, requires_grad=True)
    x = Normal(mu, sigma).rsample((50,))
    ours = Implicit().branch(at(Normal(mu.expand(50), sigma.expand(50)), x)).values
    probe = torch.randn(50)
    for mine, theirs in zip(
        torch.autograd.grad(ours @ probe, [mu, sigma]), torch.autograd.grad(x @ probe, [mu, sigma]), strict=True
    ):
        assert torch.allclose(mine, theirs)


def shared(x, theta):
    loc = torch.stack([x + theta[0], theta[1] - x, theta[2] + 0 * x], -1)
    weights = Categorical(logits=torch.stack([x * theta[2], theta[0] + 0 * x, 0 * x], -1))
    return MixtureSameFamily(weights, Normal(loc, 0.4 + 0.3 * torch.sigmoid(loc)))


def circular(x, theta):
    return VonMises(x + theta[0], theta[1].exp() + x**2)


def judged(estimator, node, cost, points):
    """x pathwise above, z under the estimator, y under the score function below; the truth by quadrature over all three."""
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda mu: Normal(mu, 0.7), name="x")
    graph.stochastic(estimator, node, name="z")
    graph.stochastic(ScoreFunction(), lambda z, x, theta: Bernoulli(logits=0.8 * torch.sin(z) + 0.3 * x + theta[0]), name="y")
    graph.cost(cost, name="c")
    inputs = {"mu": torch.tensor(0.4, requires_grad=True), "theta": torch.tensor([0.3, -0.5, 0.6], requires_grad=True)}
    mu, theta = inputs.values()
    noise, weight = (torch.tensor(v)[:, None] for v in np.polynomial.hermite_e.hermegauss(60))
    x, z = mu + 0.7 * noise, points.expand(60, -1)
    density = node(x.expand(60, len(points)), theta).log_prob(z).exp()
    density = density / density.detach().sum(1, keepdim=True)
    p = torch.sigmoid(0.8 * torch.sin(z) + 0.3 * x + theta[0])
    expected = cost(x, z, torch.ones(())) * p + cost(x, z, torch.zeros(())) * (1 - p)
    truth = (weight / weight.sum() * density * expected).sum()
    gradients = torch.autograd.grad(truth, [mu, theta])
    oracle = dict(zip(inputs, gradients, strict=True))
    return scg.testing.check_unbiased(graph, inputs, oracle=oracle, detectable=0.1, localise=False)


@pytest.mark.parametrize(("estimator", "right"), [(Implicit(), True), (Implicit(3), True), (Reweighted(), False)])
def test_a_mixture_inside_a_graph(estimator, right):
    report = judged(estimator, shared, lambda x, z, y: (z - 0.7) ** 2 * (0.4 + y) + 0.5 * x * z, torch.linspace(-15, 15, 2000))
    assert report.verdict == ("unbiased" if right else "biased"), report


@pytest.mark.parametrize("samples", [1, 2])
def test_von_mises_inside_a_graph(samples):
    circle = torch.linspace(-math.pi, math.pi, 501)[:-1]
    report = judged(Implicit(samples), circular, lambda x, z, y: torch.cos(z - x) * (0.4 + y) + torch.sin(2 * z), circle)
    assert report.ok, report


def test_recorded_samples_move_too():
    mu = torch.tensor(0.3, requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(Implicit(), lambda mu: mixture([three()[0], three()[1] + mu, three()[2]]), name="x")
    graph.cost(lambda x: x**2, name="f")
    surrogate = graph.replay({"x": torch.tensor(1.1)}, mu=mu).surrogate()
    assert torch.allclose(torch.autograd.grad(surrogate, mu)[0], torch.tensor(2.2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_dtypes_and_generators(dtype):
    loc = torch.zeros(4, 3, 2, dtype=dtype, requires_grad=True)
    for distribution in (
        Independent(VonMises(loc, loc.exp()), 1),
        Independent(MixtureSameFamily(Categorical(logits=loc.unsqueeze(-1)), Normal(loc.unsqueeze(-1), 1.0)), 1),
    ):
        for samples, n in ((1, ()), (5, (5,))):
            branches = Implicit(samples).branch(distribution)
            assert branches.values.shape == (*n, 4, 3, 2) and branches.values.dtype == dtype
    graph = scg.Graph()
    graph.stochastic(Implicit(3), lambda loc: VonMises(loc, 1.0), name="x")
    graph.cost(lambda x: torch.cos(x), name="f")
    loc = torch.zeros(7, dtype=dtype, requires_grad=True)
    first, again = (graph.surrogate(generator=torch.Generator().manual_seed(3), loc=loc) for _ in range(2))
    assert torch.equal(*(torch.autograd.grad(s, loc)[0] for s in (first, again)))


def test_it_is_first_order_and_says_so():
    mu = torch.tensor(0.3, requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(Implicit(), lambda mu: VonMises(mu, 2.0), name="x")
    graph.cost(lambda x: torch.cos(x), name="f")
    (gradient,) = torch.autograd.grad(graph.surrogate(mu=mu), mu, create_graph=True)
    with pytest.raises(scg.GraphError, match="node 'x': a second derivative was asked"):
        torch.autograd.grad(gradient, mu)


def test_what_it_cannot_be_used_on_is_refused():
    theta = torch.tensor(2.0, requires_grad=True)
    for fine in (VonMises(theta, 1.0), Independent(mixture(three()).expand((4,)), 1), TruncatedExponential(theta, 1.0)):
        assert Implicit().refuses(fine) is None
    assert "Implicit is for one-dimensional continuous distributions, and this is Bernoulli" in Implicit().refuses(
        Bernoulli(0.3)
    )
    assert "event shape [2]" in Implicit().refuses(D.Dirichlet(torch.ones(2)))
    assert Implicit().refuses(D.StudentT(theta)) == (
        "Implicit needs a cdf that autograd can differentiate, and that of StudentT is missing.\nUse Pathwise()."
    )
    assert "that of Gamma has no derivative for all of its parameters" in Implicit().refuses(Gamma(theta, 1.0))
    state = torch.get_rng_state()
    Implicit().refuses(mixture(three()))
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(ValueError, match=r"Implicit\(samples=0\)"):
        Implicit(0)
