"""RELAX and LAX: unbiased for every φ, exactly; φ learns from the variance alone, and lowers it."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Dirichlet,
    FisherSnedecor,
    Gamma,
    Independent,
    InverseGamma,
    Normal,
    OneHotCategorical,
    StudentT,
    TransformedDistribution,
    Uniform,
)
from torch.distributions.transforms import AffineTransform

import scg
from scg import prev
from scg.estimators import LeaveOneOut, ScoreFunction, relax
from scg.estimators.rebar import LearnedREBAR
from scg.estimators.relax import LAX, RELAX
from scg.estimators.relaxation import Bits, Categories
from tests.estimators.integral import composition, far
from tests.estimators.noise import bits, estimate, interval, races, recite


def network(features, hidden=6):
    return nn.Sequential(nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, 1))


def step(x):
    """A cost without a derivative."""
    return torch.where(x > 0.5, 1.7, -0.4)


def wrong(monkeypatch, twin):
    """z in the place of z̃; z̃ that does not move with θ."""
    for kind in (Bits, Categories):
        coupled = kind.coupled
        changed = {
            "right": coupled,
            "unconditional": lambda self, z: z,
            "frozen": lambda self, z, coupled=coupled: coupled(self, z).detach(),
        }
        monkeypatch.setattr(kind, "coupled", changed[twin])


@pytest.mark.parametrize("twin", ["right", "unconditional", "frozen"])
@pytest.mark.parametrize("seed", range(3))
def test_one_bit_is_exact_to_second_order_for_random_networks(monkeypatch, seed, twin):
    torch.manual_seed(seed)
    theta = torch.tensor([-0.9, 0.4, 1.6][seed], requires_grad=True)
    p = torch.sigmoid(theta)
    u, probability = bits(p)
    recite(monkeypatch, u)
    wrong(monkeypatch, twin)
    mean = (probability * estimate(RELAX(network(1)).branch(Bernoulli(logits=theta.expand(len(u)))), step)).sum()
    assert (far(mean, p * 1.7 - (1 - p) * 0.4, [theta], 2) < 1e-9) == (twin == "right")


@pytest.mark.parametrize("twin", ["right", "unconditional", "frozen"])
@pytest.mark.parametrize("kind", [Categorical, OneHotCategorical])
def test_three_categories_are_exact_to_second_order_for_a_random_network(monkeypatch, kind, twin):
    theta = torch.tensor([0.4, -0.3, 1.0], requires_grad=True)
    p = torch.softmax(theta, 0)
    levels = torch.tensor([0.3, -1.2, 2.0])
    estimator, mean = RELAX(network(3)), torch.zeros(())
    wrong(monkeypatch, twin)
    for u, probability in races(p, 0.8, 20):
        recite(monkeypatch, u)
        branches = estimator.branch(kind(logits=theta.expand(len(u), 3)))
        mean = mean + (probability * estimate(branches, lambda x: levels[x if kind is Categorical else x.argmax(-1)])).sum()
    assert (far(mean, p @ levels, [theta], 2) < 1e-6) == (twin == "right")


class Recited(Normal):
    """A normal whose noise is prescribed."""

    noise: torch.Tensor

    def rsample(self, sample_shape=torch.Size()):
        return (self.loc + self.scale * self.noise).expand(*sample_shape, -1)


class PathOnly(LAX):
    """The control's pathwise gradient added, its score term not subtracted."""

    def branch(self, distribution):
        branches = super().branch(distribution)
        w = branches.score.exp()
        c = self.control(branches.values.unsqueeze(-1)).squeeze(-1)
        return scg.Branches(branches.values, score=branches.score, control=branches.control + w * c)


@pytest.mark.parametrize(("kind", "right"), [(LAX, True), (PathOnly, False)])
@pytest.mark.parametrize("seed", range(2))
def test_lax_is_exact_to_second_order_for_random_networks(seed, kind, right):
    torch.manual_seed(seed)
    mu, sigma = torch.tensor(0.3, requires_grad=True), torch.tensor(0.7, requires_grad=True)
    x, w = np.polynomial.hermite_e.hermegauss(100)
    distribution = Recited(mu.expand(100), sigma.expand(100))
    distribution.noise = torch.tensor(x)
    branches = kind(network(1)).branch(distribution)
    assert not branches.values.requires_grad
    mean = (torch.tensor(w / w.sum()) * estimate(branches, lambda x: torch.cos(2 * x) + 0.3 * x**3)).sum()
    truth = torch.exp(-2 * sigma**2) * torch.cos(2 * mu) + 0.3 * (mu**3 + 3 * mu * sigma**2)
    assert (far(mean, truth, [mu, sigma], 2) < 1e-7) == right


# -- samplers that torch differentiates once -----------------------------------------------------------------------


def density(distribution, x, size):
    """Probabilities of points `x` on intervals of those sizes."""
    return (distribution.log_prob(x).exp() * size).detach()


@pytest.mark.parametrize(("kind", "right"), [(LAX, True), (PathOnly, False)])
@pytest.mark.parametrize("seed", range(2))
def test_lax_of_a_gamma_is_exact_as_far_as_torchs_derivative_of_its_sampler_is(seed, kind, right):
    """By quadrature over the sample. torch's dx/dα is an approximation, here good to 1e-4 of the gradient."""
    torch.manual_seed(seed)
    alpha, beta = torch.tensor(1.7, requires_grad=True), torch.tensor(0.8, requires_grad=True)
    z = torch.linspace(-16, 4.5, 800)
    x, size = z.exp(), z.exp() * (z[1] - z[0])

    class Given(Gamma):
        def rsample(self, sample_shape=()):
            slope = torch._standard_gamma_grad(self.concentration, x * self.rate).detach()
            standard = (x * self.rate).detach() + slope * (self.concentration - self.concentration.detach())
            return (standard / self.rate).expand(*sample_shape, -1)

    branches = kind(network(1)).branch(Given(alpha.expand(len(x)), beta.expand(len(x))))
    assert torch.allclose(branches.values, x)
    probability = density(Gamma(alpha, beta), x, size)
    assert torch.isclose(probability.sum(), torch.tensor(1.0))
    mean = (probability * estimate(branches, lambda x: torch.cos(2 * x))).sum()
    truth = (Gamma(alpha, beta).log_prob(x).exp() * size * torch.cos(2 * x)).sum()
    assert (far(mean, truth, [alpha, beta]) < 1e-4) == right


@pytest.mark.parametrize(("kind", "right"), [(LAX, True), (PathOnly, False)])
@pytest.mark.parametrize("seed", range(2))
def test_lax_of_a_beta_is_exact_as_far_as_torchs_derivative_of_its_sampler_is(monkeypatch, seed, kind, right):
    """By quadrature over the sample. torch's dx/dα is an approximation, here good to 1e-3 of the gradient."""
    torch.manual_seed(seed)
    a, b = torch.tensor(1.7, requires_grad=True), torch.tensor(2.4, requires_grad=True)
    x, size = interval(torch.zeros(()), torch.ones(()), 0.05)
    monkeypatch.setattr(Dirichlet, "sample", lambda self, shape: torch.stack([x, 1 - x], -1).expand(*shape, -1, -1))
    branches = kind(network(1)).branch(Beta(a.expand(len(x)), b.expand(len(x))))
    assert torch.allclose(branches.values, x)
    probability = density(Beta(a, b), x, size)
    assert torch.isclose(probability.sum(), torch.tensor(1.0))
    mean = (probability * estimate(branches, lambda x: torch.cos(2 * x))).sum()
    truth = (Beta(a, b).log_prob(x).exp() * size * torch.cos(2 * x)).sum()
    assert (far(mean, truth, [a, b]) < 1e-3) == right


SAMPLERS = {
    "Gamma": lambda t: Gamma(t.exp(), t.exp() + 1),
    "a moved Gamma": lambda t: TransformedDistribution(Gamma(t.exp(), 1.0), [AffineTransform(0.5, 2.0)]),
    "InverseGamma": lambda t: InverseGamma(t.exp() + 2, 1.0),
    "StudentT": lambda t: StudentT(t.exp() + 3, t),
    "Beta": lambda t: Beta(t.exp(), t.exp() + 1),
    "Dirichlet": lambda t: Dirichlet(torch.stack([t.exp(), t.exp() + 1, 2 + 0 * t], -1)),
    "two Betas": lambda t: Independent(Beta(torch.stack([t.exp(), t + 2], -1), 1.5), 1),
    "Normal": lambda t: Normal(t, t.exp()),
}


def slopes(monkeypatch, name, lost):
    """trace.variance's gradient for a weight of the network, and its difference quotient on the same noise."""
    make, theta = SAMPLERS[name], torch.linspace(-0.5, 0.5, 5).requires_grad_()
    features = make(theta).event_shape.numel()
    if lost:
        monkeypatch.setattr(relax, "moving", lambda distribution, shape: distribution.rsample(shape))
    estimator = LAX(network(features))
    graph = scg.Graph()
    graph.stochastic(estimator, lambda theta: make(theta), name="x")
    graph.cost(lambda x: step(x if x.ndim == 1 else x[..., 0]), name="f")

    def variance(shift=0.0):
        with torch.no_grad():
            estimator.control[0].weight[0, 0] += shift
        value = graph.sample(theta=theta, generator=torch.Generator().manual_seed(3)).variance(theta)
        with torch.no_grad():
            estimator.control[0].weight[0, 0] -= shift
        return value

    found = torch.autograd.grad(variance(), estimator.control[0].weight)[0][0, 0]
    return float(found), float((variance(1e-5) - variance(-1e-5)).detach() / 2e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_the_network_learns_from_is_the_slope_of_the_variance(monkeypatch, name):
    found, quotient = slopes(monkeypatch, name, lost=False)
    assert abs(found - quotient) < 1e-6 * abs(quotient)


@pytest.mark.parametrize(("name", "wrong"), [("Beta", True), ("Dirichlet", True), ("Gamma", False), ("StudentT", False)])
def test_torchs_own_path_loses_it_for_a_dirichlet_and_says_nothing(monkeypatch, name, wrong):
    found, quotient = slopes(monkeypatch, name, lost=True)
    assert (abs(found - quotient) > 0.05 * abs(quotient)) == wrong


@pytest.mark.parametrize("name", ["Beta", "Dirichlet", "two Betas"])
def test_the_path_that_replaces_it_has_the_same_gradient(name):
    theta = torch.linspace(-0.5, 0.5, 5).requires_grad_()
    found = []
    for sample in (lambda d: d.rsample((3,)), lambda d: relax.moving(d, torch.Size((3,)))):
        torch.manual_seed(2)
        x = sample(SAMPLERS[name](theta))
        found.append((x.detach(), torch.autograd.grad((x**3).sum(), theta)[0]))
    assert torch.allclose(found[0][0], found[1][0]) and torch.allclose(found[0][1], found[1][1])


@pytest.mark.parametrize(
    ("estimator", "node"),
    [
        (
            lambda: RELAX(network(2)),
            lambda x, theta: Independent(Bernoulli(logits=torch.stack([x + theta[0], theta[1] - x], -1)), 1),
        ),
        (
            lambda: RELAX(network(3), samples=2),
            lambda x, theta: Categorical(logits=torch.stack([x * theta[0], theta[1] + 0 * x, theta[2] - x], -1)),
        ),
        (lambda: LAX(network(1), samples=2), lambda x, theta: Normal(x * theta[0], theta[2].exp())),
        (lambda: LAX(network(2)), lambda x, theta: Independent(Normal(torch.stack([x + theta[0], theta[1] - x], -1), 0.5), 1)),
        (lambda: LAX(network(1)), lambda x, theta: Gamma((0.3 * x + theta[0]).exp() + 1, (theta[2] - 0.2 * x).exp())),
        (
            lambda: LAX(network(2), samples=2),
            lambda x, theta: Independent(Beta(torch.stack([(0.3 * x).exp(), theta[2].exp() + 0 * x], -1) + 1, 2.0), 1),
        ),
        (
            lambda: LAX(network(3)),
            lambda x, theta: Dirichlet(torch.stack([(0.3 * x).exp(), theta[2].exp() + 0 * x, 1 + theta[0] + 0 * x], -1) + 0.5),
        ),
    ],
    ids=["joint bits", "a category", "a normal", "two normals", "a gamma", "two betas", "a Dirichlet"],
)
def test_inside_a_graph(estimator, node):
    report = composition(estimator(), node)
    assert report.verdict == "unbiased", report


def test_a_biased_twin_inside_a_graph_is_found(monkeypatch):
    wrong(monkeypatch, "unconditional")
    report = composition(RELAX(network(1)), lambda x, theta: Bernoulli(logits=x * theta[0] + theta[2]))
    assert report.verdict == "biased", report


def toy(estimator):
    graph = scg.Graph()
    graph.stochastic(estimator, lambda theta: Bernoulli(logits=theta), name="b")
    graph.cost(lambda b: (b - 0.499) ** 2, name="f")
    return graph


def variance(graph, exact, **inputs):
    """Of one draw, over 50,000 whose mean is held against the exact gradient: false alarm 7e-6."""
    (theta,) = (v for v in inputs.values() if v.requires_grad)
    surrogate = graph.surrogate(generator=torch.Generator().manual_seed(1), **inputs)
    gradient = torch.autograd.grad(surrogate * 50000, theta)[0]
    assert abs(gradient.mean() - exact) < 4.5 * gradient.std() / 50000**0.5
    return gradient.var()


def learn(graph, theta, steps=300):
    optimiser = torch.optim.Adam([p for n in graph.nodes.values() if n.estimator for p in n.estimator.parameters()], 0.02)
    for _ in range(steps):
        optimiser.zero_grad()
        (graph.sample(theta=theta).variance(theta) * theta.numel() ** 2).backward()
        optimiser.step()


def test_learning_lowers_the_variance_of_the_toy_below_a_hundredth_of_the_score_functions():
    graph = toy(RELAX(network(1)))
    wide = torch.zeros(50000, requires_grad=True)
    plain, before = variance(toy(ScoreFunction()), 0.0005, theta=wide), variance(graph, 0.0005, theta=wide)
    learn(graph, torch.zeros(256, requires_grad=True))
    after = variance(graph, 0.0005, theta=wide)
    assert after < 0.01 * plain and after < 0.01 * before


def test_learning_lowers_the_variance_of_lax():
    def build(estimator):
        graph = scg.Graph()
        graph.stochastic(estimator, lambda theta: Normal(theta, 1.0), name="x")
        graph.cost(lambda x: torch.where(x > 0, 1.0, 0.0), name="f")
        return graph

    graph, wide = build(LAX(network(1))), torch.zeros(50000, requires_grad=True)
    exact = (2 * torch.pi) ** -0.5
    plain = variance(build(ScoreFunction()), exact, theta=wide)
    learn(graph, torch.zeros(256, requires_grad=True))
    assert variance(graph, exact, theta=wide) < 0.5 * plain


@pytest.mark.parametrize("name", ["Gamma", "Beta"])
def test_learning_lowers_the_variance_of_lax_where_torch_differentiates_the_sampler_once(name):
    """The sum over 20,000 draws at θ = 0, of a cost without a derivative."""

    def build(estimator):
        graph = scg.Graph()
        graph.stochastic(estimator, lambda theta: SAMPLERS[name](theta), name="x")
        graph.cost(step, name="f")
        return graph

    def spread(graph):
        theta = torch.zeros(20000, requires_grad=True)
        return torch.autograd.grad(graph.surrogate(theta=theta) * 20000, theta)[0].var()

    graph = build(LAX(network(1)))
    plain = spread(build(ScoreFunction()))
    learn(graph, torch.zeros(256, requires_grad=True))
    assert spread(graph) < 0.6 * plain


def test_no_surrogate_trains_the_network_and_no_variance_the_parameters():
    estimator, theta = RELAX(network(1)), torch.zeros(16, requires_grad=True)
    trace = toy(estimator).sample(theta=theta)
    trace.surrogate().backward()
    assert theta.grad is not None and all(p.grad is None for p in estimator.parameters())
    theta.grad = None
    trace.variance(theta).backward()
    assert theta.grad is None and any((p.grad != 0).any() for p in estimator.parameters())


def test_a_constant_cost_has_zero_mean_gradient(monkeypatch):
    theta = torch.tensor(0.4, requires_grad=True)
    u, probability = bits(torch.sigmoid(theta))
    recite(monkeypatch, u)
    mean = (probability * estimate(RELAX(network(1)).branch(Bernoulli(logits=theta.expand(len(u)))), torch.ones_like)).sum()
    assert abs(torch.autograd.grad(mean, theta)[0]) < 1e-10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("samples", [1, 3])
def test_shapes_dtypes_and_generators(dtype, samples):
    theta = torch.randn(4, 3, 2, dtype=dtype, requires_grad=True)
    n = (samples,) if samples > 1 else ()
    for distribution, features, shape in (
        (Independent(Bernoulli(logits=theta), 1), 2, (4, 3, 2)),
        (Independent(OneHotCategorical(logits=theta), 1), 6, (4, 3, 2)),
        (Independent(Categorical(logits=theta), 2), 24, (4, 3)),
        (Categorical(logits=theta), 2, (4, 3)),
        (Bernoulli(logits=theta), 1, (4, 3, 2)),
        (Normal(theta, 1.0), 1, (4, 3, 2)),
        (Independent(Normal(theta, 1.0), 2), 6, (4, 3, 2)),
    ):
        base = distribution.base_dist if isinstance(distribution, Independent) else distribution
        kind = LAX if isinstance(base, Normal) else RELAX
        branches = kind(network(features).to(dtype), samples).branch(distribution)
        assert branches.values.shape == (*n, *shape) and branches.score.shape == (*n, *distribution.batch_shape)
        assert branches.control.shape == distribution.batch_shape and branches.control.dtype == dtype
    graph = toy(RELAX(network(1).to(dtype), samples))
    theta = torch.zeros(7, dtype=dtype, requires_grad=True)
    first, again = (graph.surrogate(generator=torch.Generator().manual_seed(3), theta=theta) for _ in range(2))
    assert torch.equal(*(torch.autograd.grad(s, theta)[0] for s in (first, again))) and first.dtype == dtype


def test_a_control_gives_one_number_for_each_vector_of_features():
    class Squeezed(nn.Module):
        def forward(self, z):
            return z.sum(-1)

    bit = Bernoulli(logits=torch.zeros(5, requires_grad=True))
    assert RELAX(Squeezed()).branch(bit).control.shape == (5,)
    with pytest.raises(ValueError, match=r"RELAX: its control gave shape \[1, 5, 4\] for features \[1, 5, 1\]; .*, \[1, 5\]"):
        RELAX(nn.Linear(1, 4)).branch(bit)


def test_what_they_cannot_be_used_on_is_refused():
    relax, lax = RELAX(network(1)), LAX(network(1))
    assert relax.refuses(Categorical(torch.ones(3))) is None and lax.refuses(Normal(0.0, 1.0)) is None
    assert "RELAX is for Bernoulli, Categorical, OneHotCategorical" in relax.refuses(Normal(0.0, 1.0))
    assert "LAX needs a reparameterised distribution, but Bernoulli has has_rsample=False." in lax.refuses(Bernoulli(0.3))
    assert lax.refuses(Gamma(2.0, 1.0)) is None and lax.refuses(Independent(Beta(torch.ones(3), 1.0), 1)) is None
    for unknown in (FisherSnedecor(3.0, 4.0), TransformedDistribution(Beta(2.0, 1.0), [AffineTransform(0.5, 2.0)])):
        assert "not known whether that of" in lax.refuses(unknown) and "Use Pathwise()" in lax.refuses(unknown)
    assert "a likelihood ratio misses" in lax.refuses(Uniform(0.0, torch.tensor(1.0, requires_grad=True)))
    with pytest.raises(TypeError, match=r"RELAX\(control=.*\): the control variate is an nn.Module"):
        RELAX(lambda z: z)
    with pytest.raises(ValueError, match=r"LAX\(samples=0\)"):
        LAX(network(1), samples=0)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    "estimator", [lambda: RELAX(network(1), samples=3), lambda: LearnedREBAR(samples=2)], ids=["RELAX", "REBAR"]
)
def test_between_other_nodes_that_branch(estimator, order):
    graph = scg.Graph()
    graph.stochastic(LeaveOneOut(3), lambda theta: Bernoulli(logits=theta[0]), name="x")
    graph.stochastic(estimator(), lambda x, theta: Bernoulli(logits=theta[0] * x + theta[1]), name="b")
    graph.stochastic(LeaveOneOut(2), lambda x, b, theta: Bernoulli(logits=theta[0] * x + theta[1] + b), name="c")
    graph.cost(lambda x, b, c: (b - 0.3 * x) ** 2 * (c + 1), name="f")
    theta = torch.tensor([0.3, -0.5], requires_grad=True)
    scg.testing.assert_unbiased(graph, {"theta": theta}, order=order, detectable=0.2, localise=False)


def test_at_every_step_of_a_sequence():
    graph = scg.Graph()
    with graph.sequence():
        graph.stochastic(
            RELAX(network(1)),
            lambda b, theta: Bernoulli(logits=theta[0] * b + theta[1]),
            name="b",
            parents=[prev("b", init="b0"), "theta"],
        )
        graph.cost(lambda b: (b - 0.3) ** 2, name="f")
    inputs = {"theta": torch.tensor([0.3, -0.5], requires_grad=True), "b0": torch.zeros(2)}
    scg.testing.assert_unbiased(graph, inputs, steps=3, detectable=0.1, localise=False)
