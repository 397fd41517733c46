"""Smoothed perturbations: a function of the sample alone, so that the sum over the support is the whole proof."""

import itertools
import math

import pytest
import torch
from torch.distributions import Bernoulli, Binomial, Categorical, Geometric, Independent, Normal, Poisson

import scg
from scg.estimators import Perturbation, perturbation
from tests.estimators.integral import composition, far, mean

SIDES = pytest.mark.parametrize("side", ["above", "below", "both"])


class ForgetsTheFlow(Perturbation):
    """Every jump taken to be as likely as a Poisson's: w = 1."""

    def jumps(self, base, x):
        theta = base.rate if isinstance(base, Poisson) else base.probs
        theta = theta.sum(-1) if isinstance(base, Categorical) else theta
        return [(neighbour, theta - theta.detach()) for neighbour, _ in super().jumps(base, x)]


def wave(x):
    return torch.cos(x) + 0.1 * x**2


ROWS = {
    "bit": (lambda p: Bernoulli(probs=p), 2, 0.3),
    "likely bit": (lambda p: Bernoulli(probs=p), 2, 0.95),
    "binomial": (lambda p: Binomial(7, probs=p), 8, 0.35),
    "geometric": (lambda p: Geometric(probs=p), 400, 0.3),
    "poisson": (lambda p: Poisson(p), 60, 1.3),
    "logit": (lambda p: Binomial(3, logits=p), 4, -0.6),
}


@SIDES
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("estimator", [Perturbation, ForgetsTheFlow], ids=["ours", "biased twin"])
def test_the_sum_over_the_support_is_exact(monkeypatch, estimator, row, side):
    make, size, start = ROWS[row]
    theta, k = torch.tensor(start, requires_grad=True), torch.arange(float(size))
    pmf = make(theta).log_prob(k).exp()
    monkeypatch.setattr(perturbation, "sample", lambda base: k)
    branches = estimator(side).branch(make(theta.expand(size)))
    order = 2 if "bit" in row else 1
    error = far(mean(branches, wave, pmf.detach()), (pmf * wave(k)).sum(), [theta], order)
    right = estimator is Perturbation or (row == "poisson" and side == "above")
    assert (error < 1e-10) == right


@SIDES
def test_a_category_is_exact_to_second_order(monkeypatch, side):
    theta, k = torch.tensor([0.4, -0.3, 1.1, 0.0], requires_grad=True), torch.arange(4)
    p, f = torch.softmax(theta, 0), torch.tensor([0.3, -1.2, 2.0, 0.7])
    monkeypatch.setattr(perturbation, "sample", lambda base: k)
    branches = Perturbation(side).branch(Categorical(logits=theta.expand(4, 4)))
    assert far(mean(branches, lambda x: f[x], p.detach()), (p * f).sum(), [theta], 2) < 1e-12
    assert Perturbation(side).order(Categorical(torch.ones(3))) == math.inf


@SIDES
def test_joint_samples_jump_one_component_at_a_time(monkeypatch, side):
    logits = torch.tensor([[0.4, -0.3, 1.1], [0.0, 0.9, -1.0]], requires_grad=True)
    table = torch.randn(3, 3)
    values = torch.tensor(list(itertools.product(range(3), repeat=2)))
    joint = Independent(Categorical(logits=logits), 1).log_prob(values).exp()
    monkeypatch.setattr(perturbation, "sample", lambda base: values)
    branches = Perturbation(side).branch(Independent(Categorical(logits=logits.expand(9, 2, 3)), 1))
    assert branches.n == (5 if side == "both" else 3)
    f = lambda x: table[x[..., 0], x[..., 1]]  # noqa: E731
    assert far(mean(branches, f, joint.detach()), (joint * f(values)).sum(), [logits]) < 1e-12
    assert Perturbation(side).order(Independent(Categorical(logits=logits), 1)) == 1


@pytest.mark.parametrize("p", [0.02, 0.5, 0.98])
def test_a_bit_charged_to_both_sides_has_no_variance(p):
    """E[g²] − E[g]² over both values; charged to one side it is p/(1 − p) or its inverse."""
    pmf = torch.tensor([1 - p, p])
    variances = []
    for side in ("above", "below", "both"):
        theta = torch.full((2,), p, requires_grad=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(perturbation, "sample", lambda base: torch.tensor([0.0, 1.0]))
            branches = Perturbation(side).branch(Bernoulli(probs=theta))
        (gradient,) = torch.autograd.grad((branches.weights * branches.values).sum(), theta)
        variances.append(float((pmf * gradient**2).sum() - (pmf * gradient).sum() ** 2))
    assert variances == pytest.approx([p / (1 - p), (1 - p) / p, 0.0], abs=1e-12)


def test_neighbours_stay_inside_the_support():
    n = 5
    for side in ("above", "below", "both"):
        values = Perturbation(side).branch(Independent(Binomial(n, torch.full((200, 3), 0.9)), 1)).values
        assert values.min() >= 0 and values.max() <= n
        values = Perturbation(side).branch(Categorical(torch.tensor([0.1, 0.1, 0.8]).expand(200, 3))).values
        assert values.min() >= 0 and values.max() <= 2


@SIDES
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_certain_bits_leave_no_nan(side, p):
    probs = torch.full((10,), p, requires_grad=True)
    branches = Perturbation(side).branch(Bernoulli(probs=probs))
    (gradient,) = torch.autograd.grad((branches.weights * branches.values).sum(), probs)
    assert torch.isfinite(gradient).all()


NODES = {
    "bits": lambda x, theta: Independent(Bernoulli(logits=torch.stack([x + theta[0], theta[1] - x], -1)), 1),
    "categories": lambda x, theta: Categorical(logits=torch.stack([x * theta[0], theta[1] + 0 * x, theta[2] - x], -1)),
    "poisson": lambda x, theta: Poisson((0.3 * x + theta[2]).exp()),
    "binomial": lambda x, theta: Binomial(3, logits=x + theta[1]),
    "geometric": lambda x, theta: Geometric(logits=0.3 * x + theta[2]),
}


@SIDES
@pytest.mark.parametrize("node", NODES)
def test_inside_a_graph(node, side):
    report = composition(Perturbation(side), NODES[node])
    assert report, report


@pytest.mark.parametrize("node", ["bits", "categories", "binomial", "geometric"])
def test_the_check_would_catch_a_forgotten_flow(node):
    assert composition(ForgetsTheFlow(), NODES[node]).verdict == "biased"


def test_a_second_derivative_is_refused_where_it_would_be_wrong():
    graph = scg.Graph()
    graph.stochastic(Perturbation(), lambda theta: Poisson(theta.exp()), name="x")
    graph.cost(lambda x: x**2, name="f")
    theta = torch.tensor(0.3, requires_grad=True)
    (gradient,) = torch.autograd.grad(graph.surrogate(theta=theta), theta, create_graph=True)
    with pytest.raises(scg.GraphError, match="right to first order only"):
        torch.autograd.grad(gradient, theta)


def test_what_does_not_jump_is_refused():
    assert Perturbation().refuses(Normal(0.0, 1.0)) == (
        "Perturbation is for Bernoulli, Binomial, Geometric, Poisson, Categorical (also inside Independent), and this is Normal.\n"
        "Use Pathwise() where it reparameterises, else LeaveOneOut(samples=2)."
    )
    bits = Independent(Bernoulli(torch.rand(20)), 1)
    assert Perturbation(budget=21).refuses(bits) is None
    assert Perturbation("both", budget=40).refuses(bits).startswith("Perturbation would take 41 branches, the budget is 40")
    with pytest.raises(ValueError, match=r"Perturbation\(side='left'\): the neighbour is 'above', 'below' or 'both'"):
        Perturbation("left")
