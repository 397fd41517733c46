"""RELAX and LAX: unbiased for every φ, exactly; φ learns from the variance alone, and lowers it."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Categorical, Gamma, Independent, Normal, OneHotCategorical, Uniform

import scg
from estimators import LeaveOneOut, ScoreFunction
from estimators.rebar import LearnedREBAR
from estimators.relax import LAX, RELAX
from estimators.relaxation import Bits, Categories
from scg import prev
from tests.estimators.integral import composition, far
from tests.estimators.noise import bits, estimate, races, recite


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
    ],
    ids=["joint bits", "a category", "a normal", "two normals"],
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
    assert "that of Gamma has first ones only" in lax.refuses(Gamma(2.0, 1.0))
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
