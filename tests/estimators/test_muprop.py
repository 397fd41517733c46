"""MuProp: proved over every sample; nothing is left of the variance of a linear cost."""

import pytest
import torch
from torch.distributions import Bernoulli, Binomial, Categorical, Geometric, Independent, Normal, OneHotCategorical, Poisson
from torch.nn.functional import softplus

import scg
from scg.estimators import LeaveOneOut, MuProp, ScoreFunction
from scg.estimators.factorised import zero
from scg.testing import check_unbiased
from tests.estimators import recited, sequences
from tests.estimators.integral import composition, far, mean


class WithoutTheMeansGradient(MuProp):
    """The Taylor term is subtracted, and its own gradient f'(x̄)ᵀ ∇μ not added back."""

    def branch(self, distribution):
        branches = super().branch(distribution)
        values = branches.values.clone()
        values[self.samples] -= zero(distribution.mean)
        return scg.Branches(values, branches.n, branches.weights)


def smooth(x):
    """Of a number, or of the components of an event."""
    x = (x * torch.tensor([1.0, 1.3, -0.7])).sum(-1) if x.ndim and x.shape[-1] == 3 else x
    return torch.cos(0.8 * x) + 0.3 * (x - 0.6) ** 2


# Counts are cut off where less than 1e-17 of their probability is left.
CASES = {
    "a bit": (lambda t: Bernoulli(logits=t[..., 0]), lambda: recited.bits(1)[:, 0]),
    "three bits": (lambda t: Independent(Bernoulli(logits=t), 1), lambda: recited.bits(3)),
    "a category": (lambda t: OneHotCategorical(logits=t), lambda: torch.eye(3)),
    "a binomial": (lambda t: Binomial(4, logits=t[..., 0]), lambda: torch.arange(5.0)),
    "a Poisson": (lambda t: Poisson(t[..., 0].exp()), lambda: torch.arange(30.0)),
    "a geometric": (lambda t: Geometric(logits=t[..., 0]), lambda: torch.arange(45.0)),
}
THETA = [0.4, -1.1, 0.9]
each_case = pytest.mark.parametrize("case", CASES)


def family(case):
    """The distribution as a function of θ, and its support."""
    make, support = CASES[case]
    return make, support()


def rough(x):
    """A jump, and no slope."""
    return smooth(torch.floor(x + 0.3))


def setting(monkeypatch, case, n, cost=smooth):
    """θ, the distribution along the batch of all n-tuples, their probabilities, and the true expectation of the cost."""
    make, support = family(case)
    theta = torch.tensor(THETA, requires_grad=True)
    probability = recited.samples(monkeypatch, make(theta), support, n)
    return theta, make(theta.expand(len(probability), 3)), probability, recited.expectation(make(theta), support, cost)


@each_case
@pytest.mark.parametrize(
    ("estimator", "right"),
    [(MuProp(), True), (MuProp(samples=2), True), (WithoutTheMeansGradient(), False)],
    ids=["one sample", "two samples", "biased twin"],
)
def test_the_mean_over_every_sample_is_exact(monkeypatch, case, estimator, right):
    theta, distribution, probability, truth = setting(monkeypatch, case, estimator.samples)
    assert (far(mean(estimator.branch(distribution), smooth, probability), truth, [theta]) < 1e-11) == right


@each_case
def test_it_is_exact_without_a_slope_too(monkeypatch, case):
    theta, distribution, probability, truth = setting(monkeypatch, case, 2, rough)
    assert far(mean(MuProp(2).branch(distribution), rough, probability), truth, [theta]) < 1e-11


@each_case
def test_a_constant_cost_has_no_gradient_in_any_draw(monkeypatch, case):
    theta, distribution, _, _ = setting(monkeypatch, case, 2)
    branches = MuProp(2).branch(distribution)
    assert torch.allclose(branches.weights.sum(0), torch.ones(branches.weights.shape[1]))
    assert torch.autograd.grad(branches.weights.sum(0).square().sum(), theta)[0].abs().max() < 1e-12


@each_case
def test_a_linear_cost_has_no_variance(monkeypatch, case):
    make, support = family(case)
    rows = torch.tensor(THETA).repeat(len(support), 1).requires_grad_()
    probability = recited.samples(monkeypatch, make(rows[0]), support, 1)

    def linear(x):
        return 1.7 + (x @ torch.tensor([1.0, -2.0, 0.5]) if x.shape[-1] == 3 and x.ndim == 3 else 0.9 * x)

    found = recited.gradients(MuProp().branch(make(rows)), linear, rows)
    plain = recited.gradients(ScoreFunction().branch(make(rows)), linear, rows)
    assert recited.variance(found, probability) < 1e-20 < 1e-3 < recited.variance(plain, probability)


@pytest.mark.parametrize(("ours", "plain", "share"), [(MuProp(), ScoreFunction(), 0.1), (MuProp(2), LeaveOneOut(2), 0.1)])
@pytest.mark.parametrize("level", [-1.0, 0.0, 2.0])
def test_less_variance_than_without_the_expansion_where_the_cost_is_smooth(monkeypatch, ours, plain, share, level):
    """Exactly, over all samples of six bits; as many hard samples each."""
    support, slope = recited.bits(6), torch.tensor([1.0, 1.3, -0.7, 0.4, -1.1, 0.6])
    rows = torch.full((len(support) ** ours.samples, 6), level, requires_grad=True)
    probability = recited.samples(monkeypatch, Independent(Bernoulli(logits=rows[0]), 1), support, ours.samples)
    found = [
        recited.gradients(e.branch(Independent(Bernoulli(logits=rows), 1)), lambda b: softplus(b @ slope - 0.3), rows)
        for e in (ours, plain)
    ]
    assert recited.variance(found[0], probability) < share * recited.variance(found[1], probability)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_values_are_the_samples_and_twice_the_mean(dtype):
    theta = torch.randn(4, 3, dtype=dtype, requires_grad=True)
    branches = MuProp(5).branch(Independent(Bernoulli(logits=theta), 1))
    assert branches.n == 7 and branches.values.shape == (7, 4, 3) and branches.values.dtype == dtype
    assert set(branches.values[:5].unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(branches.values[5], theta.sigmoid()) and torch.equal(branches.values[6], theta.sigmoid())
    assert torch.allclose(branches.weights[:, 0], torch.tensor([0.2] * 5 + [1.0, -1.0], dtype=dtype))


def bit(x, theta):
    return Bernoulli(logits=x * theta[0] + theta[2])


@pytest.mark.parametrize(
    ("estimator", "node", "right"),
    [
        (MuProp(), lambda x, theta: Independent(Bernoulli(logits=torch.stack([x + theta[0], theta[1] - x], -1)), 1), True),
        (MuProp(3), bit, True),
        (MuProp(), lambda x, theta: OneHotCategorical(logits=torch.stack([x * theta[0], theta[1] + 0 * x, -x], -1)), True),
        (WithoutTheMeansGradient(), bit, False),
    ],
    ids=["joint bits", "three samples of a bit", "a category", "biased twin"],
)
def test_inside_a_graph(estimator, node, right):
    report = composition(estimator, node)
    assert report.verdict == ("unbiased" if right else "biased"), report


def test_what_has_no_mean_among_its_values_is_refused():
    estimator = MuProp()
    assert estimator.refuses(Independent(Poisson(torch.ones(3)), 1)) is None
    assert estimator.refuses(Categorical(torch.ones(3))) == (
        "MuProp relaxes a sample into a point between the values, and between the indices of a Categorical there is none.\n"
        "Use OneHotCategorical, whose relaxed samples are points of the simplex."
    )
    assert estimator.refuses(Normal(0.0, 1.0)) == (
        "MuProp is for Bernoulli, OneHotCategorical, Binomial, Geometric, Poisson (also inside Independent), and this is Normal.\n"
        "Use Pathwise() where it reparameterises, LeaveOneOut(samples=2) for the rest."
    )
    with pytest.raises(ValueError, match=r"MuProp\(samples=0\): samples is an integer, at least 1"):
        MuProp(0)


def test_a_second_derivative_is_refused():
    graph = scg.Graph()
    graph.stochastic(MuProp(), lambda theta: Bernoulli(logits=theta), name="b")
    graph.cost(lambda b: (b - 0.3) ** 2, name="f")
    theta = torch.tensor(0.2, requires_grad=True)
    (gradient,) = torch.autograd.grad(graph.surrogate(theta=theta), theta, create_graph=True)
    with pytest.raises(scg.GraphError, match="right to first order only"):
        torch.autograd.grad(gradient, theta)


def two_layers(estimator):
    """Bits under bits, both branching."""
    graph = scg.Graph()
    graph.stochastic(estimator, lambda theta: Independent(Bernoulli(logits=theta[:2]), 1), name="h")
    graph.stochastic(estimator, lambda h, theta: Bernoulli(logits=h @ theta[1:3] - 0.4), name="v")
    graph.cost(lambda h, v: torch.cos(2 * v + h[..., 0]) + h[..., 1] * v, name="c")
    return graph


@pytest.mark.parametrize(
    ("estimator", "right"), [(MuProp(), True), (MuProp(2), True), (WithoutTheMeansGradient(), False)], ids=str
)
def test_one_above_another(estimator, right):
    report = check_unbiased(two_layers(estimator), {"theta": torch.tensor(THETA, requires_grad=True)}, localise=False)
    assert report.verdict == ("unbiased" if right else "biased"), report


@pytest.mark.parametrize(
    ("estimator", "right"), [(MuProp(), True), (WithoutTheMeansGradient(), False)], ids=["ours", "biased twin"]
)
def test_at_every_step_of_a_sequence(estimator, right):
    report = sequences.check(estimator, lambda logit: Bernoulli(logits=logit))
    assert report.verdict == ("unbiased" if right else "biased"), report
