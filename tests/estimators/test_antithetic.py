"""Antithetic pairs: each branch has the law of a sample; proved over the uniform's pieces, and by quadrature."""

import numpy as np
import pytest
import torch
from torch import distributions as D
from torch.distributions import Bernoulli, Categorical, Exponential, Gamma, Independent, Normal

import scg
from scg.distributions import log_density
from scg.estimators import Antithetic, AntitheticPathwise, antithetic
from scg.estimators.leave_one_out import leave_one_out
from tests.estimators.integral import composition, far, mean


def hermite(nodes=40):
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    return torch.tensor(x), torch.tensor(w / w.sum())


def smooth(x):
    return torch.cos(2 * x) + 0.3 * x**3


def pieces(*cuts):
    """Midpoints and lengths of the intervals into which the unit interval falls."""
    edges = torch.cat([torch.zeros(1), torch.stack(cuts).detach().sort().values, torch.ones(1)])
    return (edges[1:] + edges[:-1]) / 2, edges.diff()


class LeaveOneOutOfAPair(Antithetic):
    """The tempting wrong one: a dependent sample as the other's baseline."""

    def branch(self, distribution):
        values = antithetic.pairs(distribution, 1).detach()
        return scg.Branches(values, 2, weights=leave_one_out(log_density(distribution, values)))


@pytest.mark.parametrize(
    ("estimator", "right"), [(Antithetic(), True), (LeaveOneOutOfAPair(), False)], ids=["ours", "biased twin"]
)
def test_the_uniform_coupling_of_categories_is_exact_to_second_order(monkeypatch, estimator, right):
    theta = torch.tensor([0.4, -0.3, 1.0], requires_grad=True)
    cuts = torch.softmax(theta, 0).cumsum(0)[:-1]
    u, probability = pieces(*cuts, *(1 - cuts))
    monkeypatch.setattr(antithetic, "open_uniform", lambda shape, like: u.expand(shape))
    branches = estimator.branch(Categorical(logits=theta.expand(len(u), 3)))
    f = torch.tensor([0.3, -1.2, 2.0])
    truth = (torch.softmax(theta, 0) * f).sum()
    assert (far(mean(branches, lambda x: f[x], probability), truth, [theta], 2) < 1e-12) == right


@pytest.mark.parametrize("estimator", [Antithetic(), AntitheticPathwise()], ids=["score", "pathwise"])
def test_reflection_of_a_normal_is_exact_to_second_order(monkeypatch, estimator):
    mu, sigma = torch.tensor(0.3, requires_grad=True), torch.tensor(0.7, requires_grad=True)
    noise, probability = hermite()
    monkeypatch.setattr(Normal, "rsample", lambda self, shape: (self.loc + self.scale * noise).expand(*shape, -1))
    distribution = Normal(mu.expand(40), sigma.expand(40))
    truth = torch.exp(-2 * sigma**2) * torch.cos(2 * mu) + 0.3 * (mu**3 + 3 * mu * sigma**2)
    assert far(mean(estimator.branch(distribution), smooth, probability), truth, [mu, sigma], 2) < 1e-11


@pytest.mark.parametrize("estimator", [Antithetic(), AntitheticPathwise()], ids=["score", "pathwise"])
def test_the_uniform_coupling_of_an_exponential_is_exact_to_second_order(monkeypatch, estimator):
    """u = 1/(1 + e^-y): the trapezoid rule over y converges exponentially, for the pair's two ends alike."""
    rate = torch.tensor(1.3, requires_grad=True)
    y = torch.linspace(-36, 36, 721)
    u, probability = torch.sigmoid(y), 0.1 * torch.sigmoid(y) * torch.sigmoid(-y)
    monkeypatch.setattr(antithetic, "open_uniform", lambda shape, like: u.expand(shape))
    branches = estimator.branch(Exponential(rate.expand(721)))
    truth = rate / (rate + 1) + 0.3 / rate
    assert far(mean(branches, lambda x: torch.exp(-x) + 0.3 * x, probability), truth, [rate], 2) < 1e-10


@pytest.mark.parametrize(
    "distribution",
    [
        lambda: D.LogNormal(0.1, 0.5),
        lambda: D.Gumbel(0.2, 0.7),
        lambda: D.HalfNormal(0.8),
        lambda: D.Weibull(1.2, 1.7),
        lambda: D.Exponential(0.6),
        lambda: D.Laplace(0.2, 0.4),
        lambda: D.Uniform(-1.0, 2.0),
        lambda: D.Cauchy(0.3, 1.0),
    ],
    ids=["LogNormal", "Gumbel", "HalfNormal", "Weibull", "Exponential", "Laplace", "Uniform", "Cauchy"],
)
def test_a_sample_and_its_mirror_image_have_mirrored_quantiles(distribution):
    distribution = distribution()
    x, mirrored = antithetic.pairs(distribution, 1000).chunk(2)
    assert torch.allclose(distribution.cdf(x) + distribution.cdf(mirrored), torch.ones(1000), atol=1e-9)


def test_the_pathwise_gradient_of_a_square_has_no_variance():
    mu = torch.tensor(0.3, requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(AntitheticPathwise(), lambda mu: Normal(mu, 2.0), name="x")
    graph.cost(lambda x: x**2, name="f")
    for _ in range(5):
        assert torch.allclose(torch.autograd.grad(graph.surrogate(mu=mu), mu)[0], torch.tensor(0.6))


@pytest.mark.parametrize(
    ("estimator", "node", "right"),
    [
        (
            Antithetic(4),
            lambda x, theta: Categorical(logits=torch.stack([x * theta[0], theta[1] + 0 * x, theta[2] - x], -1)),
            True,
        ),
        (Antithetic(), lambda x, theta: Independent(Bernoulli(logits=torch.stack([x + theta[0], theta[1] - x], -1)), 1), True),
        (Antithetic(), lambda x, theta: Normal(x * theta[0], theta[2].exp()), True),
        (AntitheticPathwise(4), lambda x, theta: Normal(x * theta[0], theta[2].exp()), True),
        (
            LeaveOneOutOfAPair(),
            lambda x, theta: Independent(Bernoulli(logits=torch.stack([x + theta[0], theta[1] - x], -1)), 1),
            False,
        ),
    ],
    ids=["category", "bits", "normal", "pathwise", "biased twin"],
)
def test_inside_a_graph(estimator, node, right):
    report = composition(estimator, node)
    assert report.verdict == ("unbiased" if right else "biased"), report


@pytest.mark.parametrize("samples", [0, 1, 3, 2.0])
def test_samples_come_in_pairs(samples):
    for estimator in (Antithetic, AntitheticPathwise):
        with pytest.raises(ValueError, match=r"samples come in pairs, so it is an even integer, at least 2"):
            estimator(samples=samples)


def test_what_cannot_be_paired_is_refused():
    assert Antithetic().refuses(Gamma(2.0, 1.0)) == (
        "Antithetic needs a distribution that is symmetric or has an inverse cdf, and Gamma is neither.\n"
        "Use ScoreFunction(samples=2)."
    )
    assert AntitheticPathwise().refuses(Gamma(2.0, 1.0)).endswith("Use Pathwise(samples=2).")
    assert "has_rsample=False" in AntitheticPathwise().refuses(Bernoulli(0.3))
    assert "a likelihood ratio misses" in Antithetic().refuses(D.Uniform(0.0, torch.tensor(1.0, requires_grad=True)))
