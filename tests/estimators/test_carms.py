"""CARMS: proved over every pattern of events at every stick, with its exact probability under the Dirichlet copula."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Independent, OneHotCategorical

from scg.estimators import ARMS, CARMS, LeaveOneOut, arms, carms
from tests.estimators import recited, sequences
from tests.estimators.integral import composition, far, grid, mean
from tests.estimators.test_arms import patterns


def recite(monkeypatch, n, logits):
    """All patterns of all sticks of all components along the batch, `[n, Q, (D,) K]`, and their probabilities."""
    flat = logits.detach().reshape(-1, logits.shape[-1])
    pi = carms.sticks(torch.log_softmax(flat, -1).sort(-1).values)[:, :-1]
    each = [patterns(n, p - torch.log(-torch.expm1(p))) for p in pi.flatten()]  # π ≤ ½, so π is the rarer value's
    index, probability = grid(*[(torch.arange(len(p), dtype=torch.float64), p) for _, p in each])
    events = torch.stack([marks[i.long()].T for (marks, _), i in zip(each, index, strict=True)], -1)
    events = torch.cat([events.unflatten(-1, pi.shape), torch.zeros(*events.shape[:2], len(flat), 1, dtype=torch.bool)], -1)
    events = events.view(*events.shape[:2], *logits.shape)
    monkeypatch.setattr(carms, "rare_events", lambda n, log_r: events)
    return probability


class NotDebiased(CARMS):
    """Leave-one-out on dependent samples: R forgotten."""

    def branch(self, distribution):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(carms, "ratio", lambda n, log_pi: torch.ones_like(log_pi))
            return super().branch(distribution)


class FirstStickOnly(CARMS):
    """R without the sticks that both samples passed."""

    def branch(self, distribution):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(carms, "ratio", lambda n, log_pi: arms.debiased(n, log_pi))
            return super().branch(distribution)


@pytest.mark.parametrize(
    ("twin", "right"), [(CARMS, True), (NotDebiased, False), (FirstStickOnly, False)], ids=["ours", "not debiased", "one stick"]
)
@pytest.mark.parametrize(
    ("n", "logits"),
    [
        (2, [0.4, -0.8, 1.1]),
        (2, [0.0, 0.0, 0.0, 0.0]),
        (3, [0.4, -0.8, 1.1]),
        (3, [2.9, 0.1, 0.0, -1.0]),
        (4, [0.0, -3.0, 0.2]),
    ],
    ids=str,
)
def test_the_mean_over_every_pattern_is_exact(monkeypatch, n, logits, twin, right):
    theta = torch.tensor(logits, requires_grad=True)
    probability = recite(monkeypatch, n, theta)
    assert torch.isclose(probability.sum(), torch.tensor(1.0)) and probability.min() >= -1e-15
    f = torch.tensor([0.3, -1.2, 2.0, 0.7])[: len(logits)]
    branches = twin(n).branch(Categorical(logits=theta.expand(len(probability), -1)))
    assert (far(mean(branches, lambda x: f[x], probability), theta.softmax(0) @ f, [theta]) < 1e-10) == right


@pytest.mark.parametrize(("twin", "right"), [(CARMS, True), (NotDebiased, False)], ids=["ours", "not debiased"])
@pytest.mark.parametrize("kind", [Categorical, OneHotCategorical])
def test_joint_categories_share_their_samples(monkeypatch, twin, right, kind):
    theta = torch.tensor([[0.4, -0.8, 1.1], [0.1, 0.9, -1.5]], requires_grad=True)
    probability = recite(monkeypatch, 3, theta)
    table = torch.randn(3, 3)
    branches = twin(3).branch(Independent(kind(logits=theta.expand(len(probability), 2, 3)), 1))

    def f(x):
        x = x if kind is Categorical else x.argmax(-1)
        return table[x[..., 0], x[..., 1]]

    p = torch.softmax(theta, -1)
    assert (far(mean(branches, f, probability), p[0] @ table @ p[1], [theta]) < 1e-10) == right


@pytest.mark.parametrize(
    ("n", "logits"), [(2, [0.3, -0.4, 0.5, 0.0]), (3, [2.0, 0.0, -1.0]), (5, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5])]
)
def test_pairs_are_drawn_as_often_as_their_ratio_says(n, logits):
    """200,000 draws: each ordered pair of different values within 5 standard errors of p p'/R, every single value of p.
    False alarm below 2e-5 over a case's pairs."""
    theta = torch.tensor(logits)
    p, k = theta.softmax(0), len(logits)
    x = CARMS(n).branch(Categorical(logits=theta.expand(200_000, -1))).values
    order = torch.log_softmax(theta, 0).sort()
    r, place = carms.ratio(n, carms.sticks(order.values)), order.indices.argsort()
    for a in range(k):
        assert abs((x == a).double().mean() - p[a]) < 5 * (p[a] * (1 - p[a]) / 200_000) ** 0.5
        for b in range(k):
            if a != b:
                expected = p[a] * p[b] / r[min(place[a], place[b])]
                seen = ((x[0] == a) & (x[1] == b)).double().mean()
                assert abs(seen - expected) < 5 * (expected * (1 - expected) / 200_000) ** 0.5


def test_two_categories_are_arms(monkeypatch):
    theta = torch.randn(500)
    log_r = torch.nn.functional.logsigmoid(-theta.abs())
    rare = arms.rare_events(4, log_r)
    monkeypatch.setattr(arms, "rare_events", lambda n, log_r: rare)
    monkeypatch.setattr(carms, "rare_events", lambda n, log_pi: torch.stack([rare, torch.ones_like(rare)], -1))
    found = []
    for rows, distribution, estimator in (
        (a := theta.clone().requires_grad_(), Categorical(logits=torch.stack([0 * a, a], -1)), CARMS(4)),
        (a := theta.clone().requires_grad_(), Bernoulli(logits=a), ARMS(4)),
    ):
        found.append(recited.gradients(estimator.branch(distribution), lambda x: torch.cos(2.0 * x) + x, rows))
    assert torch.allclose(*found)


def test_a_constant_cost_has_no_gradient_in_any_draw():
    rows = torch.randn(50, 2, 5, requires_grad=True)
    branches = CARMS(3).branch(Independent(Categorical(logits=rows), 1))
    assert torch.autograd.grad(branches.weights.sum(), rows)[0].abs().max() < 1e-14
    assert torch.allclose(branches.weights.sum(0), torch.ones(50))


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("logits", [[0.4, -0.8, 1.1], [0.0, 0.0, 0.0], [2.5, 0.0, 0.0]], ids=str)
def test_less_variance_than_as_many_independent_samples(monkeypatch, n, logits):
    """Exactly, for three categories."""
    theta, f = torch.tensor(logits), torch.tensor([0.3, -1.2, 2.0])
    probability = recite(monkeypatch, n, theta)
    rows = theta.repeat(len(probability), 1).requires_grad_()
    ours = recited.variance(recited.gradients(CARMS(n).branch(Categorical(logits=rows)), lambda x: f[x], rows), probability)
    rows = theta.repeat(3**n, 1).requires_grad_()
    probability = recited.samples(monkeypatch, Categorical(logits=theta), torch.arange(3), n)
    plain = recited.gradients(LeaveOneOut(n).branch(Categorical(logits=rows)), lambda x: f[x], rows)
    assert ours < recited.variance(plain, probability)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits_and_excluded_categories_stay_finite(dtype):
    for logits in ([0.3, -torch.inf, 1.0, -torch.inf, 0.2], [-200.0, 0.0, 200.0], [0.0, -torch.inf], [-30.0, -30.0, 30.0]):
        for n in (2, 3, 8):
            theta = torch.tensor(logits, dtype=dtype).expand(200, -1).clone().requires_grad_()
            branches = CARMS(n).branch(Categorical(logits=theta))
            (gradient,) = torch.autograd.grad((branches.weights * branches.values).sum(), theta)
            assert torch.isfinite(gradient).all() and gradient.dtype == dtype
            drawn = set(branches.values.unique().tolist())
            assert drawn <= {i for i, level in enumerate(logits) if level > -math.inf}


def test_a_single_category_has_no_gradient():
    theta = torch.zeros(4, 1, requires_grad=True)
    branches = CARMS(2).branch(Categorical(logits=theta))
    assert torch.equal(branches.values, torch.zeros(2, 4, dtype=torch.long))
    assert torch.autograd.grad(branches.weights.sum(), theta)[0].abs().max() == 0


def categories(x, theta):
    return Categorical(logits=torch.stack([x * theta[0], theta[1] + 0 * x, theta[2] - x, 0.5 * x], -1))


@pytest.mark.parametrize(
    ("estimator", "right"), [(CARMS(2), True), (CARMS(5), True), (NotDebiased(2), False)], ids=["two", "five", "biased twin"]
)
def test_inside_a_graph(estimator, right):
    report = composition(estimator, categories)
    assert report.verdict == ("unbiased" if right else "biased"), report


def test_what_has_no_categories_is_refused():
    assert CARMS(3).refuses(Independent(OneHotCategorical(torch.ones(2, 3)), 1)) is None
    assert CARMS(3).refuses(Bernoulli(0.3)) == (
        "CARMS is for Categorical, OneHotCategorical (also inside Independent), and this is Bernoulli.\n"
        "Use ARMS(samples=3) for bits, LeaveOneOut(samples=3) for the rest."
    )
    with pytest.raises(ValueError, match=r"CARMS\(samples=1\): samples is an integer, at least 2"):
        CARMS(1)


@pytest.mark.parametrize(("estimator", "right"), [(CARMS(3), True), (NotDebiased(2), False)], ids=["ours", "biased twin"])
def test_at_every_step_of_a_sequence(estimator, right):
    report = sequences.check(estimator, lambda logit: Categorical(logits=torch.stack([logit, -logit, 0 * logit], -1)))
    assert report.verdict == ("unbiased" if right else "biased"), report
