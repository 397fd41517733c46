"""Double control variates: proved over every tuple of samples, for any strength."""

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Independent, Normal
from torch.nn.functional import softplus

import scg
from scg.estimators import DoubleControl, LearnedDoubleControl, LeaveOneOut
from scg.estimators.factorised import zero
from scg.testing import check_unbiased
from tests.estimators import recited, sequences
from tests.estimators.integral import composition, far, mean
from tests.estimators.test_muprop import THETA, family, setting, smooth, two_layers


class OwnSlope(DoubleControl):
    """Each sample's own slope enters its control variate: u_i is not left out."""

    def branch(self, distribution):
        branches, n = super().branch(distribution), self.samples
        x = branches.values.detach()
        score = zero(distribution.log_prob(x))
        centred = (score - score.mean(0)).reshape(*score.shape, *[1] * len(distribution.event_shape))
        u = n / (n - 1) * (x - distribution.mean.detach()) * centred
        delta = self.alpha * (zero(distribution.mean) - u.mean(0))
        return scg.Branches(x + delta, n, branches.weights)


SMALL = ["a bit", "three bits", "a category", "a binomial"]


@pytest.mark.parametrize(
    ("estimator", "right"),
    [
        (DoubleControl(2), True),
        (DoubleControl(3, alpha=0.6), True),
        (DoubleControl(2, alpha=-1.4), True),
        (LearnedDoubleControl(3, alpha=0.6), True),
        (OwnSlope(2), False),
        (OwnSlope(3), False),
    ],
    ids=lambda x: f"{type(x).__name__}-{x.samples}" if isinstance(x, scg.Estimator) else "",
)
@pytest.mark.parametrize("case", SMALL)
def test_the_mean_over_every_tuple_is_exact(monkeypatch, case, estimator, right):
    theta, distribution, probability, truth = setting(monkeypatch, case, estimator.samples)
    assert (far(mean(estimator.branch(distribution), smooth, probability), truth, [theta]) < 1e-11) == right


@pytest.mark.parametrize("case", SMALL)
def test_it_is_exact_whatever_slopes_a_cost_says_it_has(monkeypatch, case):
    """A straight-through cost: the value of one function, the slope of another."""

    def cost(x):
        slope = 3 * torch.cos(x * 2 + 1).sum(-1) if x.shape[-1] == 3 else 3 * torch.cos(x * 2 + 1)
        return smooth(x).detach() + slope - slope.detach()

    theta, distribution, probability, truth = setting(monkeypatch, case, 2, lambda x: cost(x).detach())
    assert far(mean(DoubleControl(2).branch(distribution), cost, probability), truth, [theta]) < 1e-11


@pytest.mark.parametrize("case", ["a Poisson", "a geometric"])
def test_counts_are_exact(monkeypatch, case):
    theta, distribution, probability, truth = setting(monkeypatch, case, 2)
    assert far(mean(DoubleControl(2).branch(distribution), smooth, probability), truth, [theta]) < 1e-10


@pytest.mark.parametrize("case", SMALL)
def test_it_is_the_papers_formula(monkeypatch, case):
    """Draw by draw: control variates b_k made of the other samples' slopes, their mean gradient added back."""
    n, alpha = 3, 0.7
    make, support = family(case)
    rows = torch.tensor(THETA).repeat(len(support) ** n, 1).requires_grad_()
    recited.samples(monkeypatch, make(rows[0]), support, n)
    distribution = make(rows)
    ours = recited.gradients(DoubleControl(n, alpha).branch(distribution), smooth, rows)

    joint = len(distribution.event_shape)
    x = distribution.sample().requires_grad_()
    f = smooth(x)
    slope = torch.autograd.grad(f.sum(), x)[0].detach()
    f, x, mu = f.detach(), x.detach(), distribution.mean.detach()
    others = (slope.sum(0) - slope) / (n - 1)
    b = alpha * (others * (x - mu)).sum(tuple(range(-joint, 0))) if joint else alpha * others * (x - mu)
    residual = f - b
    signal = residual - (residual.sum(0) - residual) / (n - 1)
    distribution = make(rows)
    surrogate = (signal * distribution.log_prob(x)).mean(0).sum() + alpha * (slope.mean(0) * distribution.mean).sum()
    assert torch.allclose(ours, torch.autograd.grad(surrogate, rows)[0], atol=1e-12)


@pytest.mark.parametrize("case", SMALL)
def test_a_constant_cost_has_no_gradient_in_any_draw_and_a_linear_one_no_variance(monkeypatch, case):
    make, support = family(case)
    rows = torch.tensor(THETA).repeat(len(support) ** 2, 1).requires_grad_()
    probability = recited.samples(monkeypatch, make(rows[0]), support, 2)
    joint = len(make(rows).event_shape)

    def linear(x):
        return 1.7 + (x @ torch.tensor([1.0, -2.0, 0.5]) if joint else 0.9 * x)

    assert recited.gradients(DoubleControl(2).branch(make(rows)), lambda x: linear(x) * 0 + 3, rows).abs().max() < 1e-12
    ours, without = (
        recited.variance(recited.gradients(e.branch(make(rows)), linear, rows), probability)
        for e in (DoubleControl(2), DoubleControl(2, alpha=0.0))
    )
    assert ours < 1e-20 < 1e-3 < without


def test_without_slopes_it_is_leave_one_out():
    theta = torch.randn(50, 3)
    found = []
    for estimator, f in ((DoubleControl(4), torch.round), (LeaveOneOut(4), lambda x: x), (DoubleControl(4, 0.0), lambda x: x)):
        torch.manual_seed(1)
        rows = theta.clone().requires_grad_()
        branches = estimator.branch(Independent(Bernoulli(logits=rows), 1))
        found.append(recited.gradients(branches, lambda x, f=f: f(x).sum(-1) ** 2, rows))
    assert torch.allclose(found[0], found[1]) and torch.allclose(found[2], found[1])


def six_bits(monkeypatch, level, cost, *compared):
    """Exact variances, over all pairs of samples."""
    support = recited.bits(6)
    rows = torch.full((len(support) ** 2, 6), level, requires_grad=True)
    probability = recited.samples(monkeypatch, Independent(Bernoulli(logits=rows[0]), 1), support, 2)
    return [
        recited.variance(recited.gradients(e.branch(Independent(Bernoulli(logits=rows), 1)), cost, rows), probability)
        for e in compared
    ]


@pytest.mark.parametrize("level", [-1.0, 0.0, 2.0])
def test_less_variance_than_leave_one_out_where_slopes_tell_of_flips(monkeypatch, level):
    """At no further evaluation. Where they do not, more: a square around one half."""
    slope = torch.tensor([1.0, 1.3, -0.7, 0.4, -1.1, 0.6])
    ours, plain = six_bits(monkeypatch, level, lambda b: softplus(b @ slope - 0.3), DoubleControl(2), LeaveOneOut(2))
    assert ours < 0.1 * plain
    ours, plain = six_bits(monkeypatch, level, lambda b: (b - 0.499).square().mean(-1), DoubleControl(2), LeaveOneOut(2))
    assert ours > plain


@pytest.mark.parametrize("alpha", [2.5, -1.0])
def test_learning_finds_the_strength_that_a_linear_cost_needs(alpha):
    estimator = LearnedDoubleControl(2, alpha)
    graph = scg.Graph()
    graph.stochastic(estimator, lambda theta: Independent(Bernoulli(logits=theta), 1), name="b")
    graph.cost(lambda b: b @ torch.tensor([1.0, -2.0]), name="f")
    theta = torch.zeros(64, 2, requires_grad=True)
    optimiser = torch.optim.Adam(estimator.parameters(), 0.1)
    for _ in range(300):
        optimiser.zero_grad()
        (graph.sample(theta=theta).variance(theta) * 64**2).backward()
        optimiser.step()
    assert abs(estimator.alpha.item() - 1) < 0.02
    assert theta.grad is None


def test_no_surrogate_trains_the_strength():
    estimator, theta = LearnedDoubleControl(), torch.zeros(16, requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(estimator, lambda theta: Bernoulli(logits=theta), name="b")
    graph.cost(lambda b: (b - 0.3) ** 3, name="f")
    graph.surrogate(theta=theta).backward()
    assert estimator.alpha.grad is None and theta.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_values_are_hard_and_carry_a_gradient(dtype):
    theta = torch.randn(4, 3, dtype=dtype, requires_grad=True)
    for estimator in (DoubleControl(5), LearnedDoubleControl(5).to(dtype)):
        branches = estimator.branch(Independent(Bernoulli(logits=theta), 1))
        assert branches.n == 5 and branches.values.shape == (5, 4, 3) and branches.values.dtype == dtype
        assert set(branches.values.unique().tolist()) <= {0.0, 1.0} and branches.values.requires_grad


def bit(x, theta):
    return Bernoulli(logits=x * theta[0] + theta[2])


@pytest.mark.parametrize(
    ("estimator", "node", "right"),
    [
        (
            DoubleControl(),
            lambda x, theta: Independent(Bernoulli(logits=torch.stack([x + theta[0], theta[1] - x], -1)), 1),
            True,
        ),
        (LearnedDoubleControl(3, 0.5), bit, True),
        (OwnSlope(2), bit, False),
    ],
    ids=["joint bits", "learned, three samples", "biased twin"],
)
def test_inside_a_graph(estimator, node, right):
    report = composition(estimator, node)
    assert report.verdict == ("unbiased" if right else "biased"), report


@pytest.mark.parametrize("kind", [DoubleControl, LearnedDoubleControl])
def test_what_it_cannot_be_used_on_is_refused(kind):
    name = kind.__name__
    assert kind().refuses(Independent(Bernoulli(torch.rand(3)), 1)) is None
    assert kind().refuses(Categorical(torch.ones(3))).startswith(f"{name} relaxes a sample")
    assert kind().refuses(Normal(0.0, 1.0)).startswith(f"{name} is for Bernoulli, OneHotCategorical, Binomial")
    with pytest.raises(ValueError, match=rf"{name}\(samples=1\): samples is an integer, at least 2"):
        kind(samples=1)
    for alpha in (float("inf"), True, "1"):
        with pytest.raises(ValueError, match=rf"{name}\(alpha=.*\): the control variates' strength is a finite number"):
            kind(alpha=alpha)


@pytest.mark.parametrize(("estimator", "right"), [(DoubleControl(), True), (OwnSlope(), False)], ids=str)
def test_one_above_another(estimator, right):
    inputs = {"theta": torch.tensor(THETA, requires_grad=True)}
    report = check_unbiased(two_layers(estimator), inputs, localise=False)
    assert report.verdict == ("unbiased" if right else "biased"), report


@pytest.mark.parametrize(("estimator", "right"), [(DoubleControl(3), True), (OwnSlope(2), False)], ids=["ours", "biased twin"])
def test_at_every_step_of_a_sequence(estimator, right):
    report = sequences.check(estimator, lambda logit: Bernoulli(logits=logit))
    assert report.verdict == ("unbiased" if right else "biased"), report
