"""Shared noise: unbiased by finite sums over the noise, and less variance where branches are compared."""

import itertools

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Gamma, Independent, MultivariateNormal, Normal, Poisson

import scg
from scg import Branches
from scg.estimators import (
    DisARM,
    Enumeration,
    LeaveOneOut,
    MeasureValued,
    Pathwise,
    ScoreFunction,
    common_random_numbers,
)
from scg.estimators.common_random_numbers import CommonRandomNumbers, CommonRandomNumbersPathwise
from scg.estimators.leave_one_out import leave_one_out
from scg.testing import assert_unbiased
from tests.exact import assert_same, expectation, outcomes

BIT = [0.0, 1.0]


def pair(above, below):
    """A bit x, and a bit y whose probability it moves; a cost of both."""
    graph = scg.Graph()
    graph.stochastic(above, lambda theta: Bernoulli(logits=theta[0]), name="x")
    graph.stochastic(below, lambda x, theta: Bernoulli(logits=theta[1] + 0.9 * x), name="y")
    graph.cost(lambda x, y, theta: (1.0 + x) * (y + 0.3) ** 2 + theta[1] * x * y, name="c")
    return graph


class Recited(LeaveOneOut):
    """Leave-one-out at the samples that it is told."""

    values = None

    def branch(self, distribution):
        weights = leave_one_out(distribution.log_prob(self.values))
        return Branches(self.values, len(self.values), weights=weights)


class OneDraw(CommonRandomNumbers):
    """The biased twin: the draw itself is shared, not its noise; every branch has the first one's y."""

    def branch_below(self, distribution, axes):
        branches = super().branch_below(distribution, axes)
        y = branches.values[:1].expand_as(branches.values)
        log_prob = distribution.log_prob(y)
        return Branches(y, score=log_prob - log_prob.detach())


def over_the_noise(below, monkeypatch, samples=2):
    """Σ over every tuple of x, and over the intervals of u between which all y stay, with probabilities held constant."""
    theta = torch.tensor([0.4, -0.3], requires_grad=True)
    recited = Recited(samples)
    graph = pair(recited, below)
    object.__setattr__(recited, "values", torch.tensor([0.0, 1.0]))
    graph.surrogate(theta=theta)  # the first sample is examined, with noise of its own
    edges = [0.0, *sorted(1 - float(torch.sigmoid(theta[1] + 0.9 * x).detach()) for x in BIT), 1.0]
    p_one = float(torch.sigmoid(theta[0]).detach())
    total = torch.zeros(())
    for xs in itertools.product(BIT, repeat=samples):
        object.__setattr__(recited, "values", torch.tensor(xs))
        p = torch.tensor([p_one if x else 1 - p_one for x in xs]).prod()
        for low, high in itertools.pairwise(edges):
            middle = (low + high) / 2
            monkeypatch.setattr(common_random_numbers, "open_uniform", lambda shape, like, u=middle: torch.full(shape, u))
            total = total + p * (high - low) * graph.surrogate(theta=theta)
    every = list(outcomes({"x": BIT, "y": BIT}))
    return total, expectation(pair(ScoreFunction(), ScoreFunction()), every, theta=theta), [theta]


@pytest.mark.parametrize("samples", [2, 3])
def test_below_leave_one_out_all_derivatives_are_exact(monkeypatch, samples):
    assert_same(*over_the_noise(CommonRandomNumbers(), monkeypatch, samples))


def test_a_shared_draw_in_place_of_shared_noise_is_caught(monkeypatch):
    with pytest.raises(AssertionError, match="value"):
        assert_same(*over_the_noise(OneDraw(), monkeypatch))


ABOVE = {
    "leave-one-out": LeaveOneOut(3),
    "measure-valued": MeasureValued(),
    "enumeration": Enumeration(),
    "DisARM": DisARM(),
}


@pytest.mark.parametrize("below", [CommonRandomNumbers(), CommonRandomNumbers(LeaveOneOut(2))], ids=["score", "leave-one-out"])
@pytest.mark.parametrize("above", ABOVE)
def test_whatever_branches_above_it_is_unbiased(above, below):
    """A bias of 5 % would be missed, or no bias called one, once in a thousand."""
    assert_unbiased(pair(ABOVE[above], below), {"theta": torch.tensor([0.4, -0.3], requires_grad=True)})


def test_the_noise_is_shared_across_branches_and_nowhere_else():
    graph = scg.Graph()
    graph.stochastic(Enumeration(), lambda theta: Bernoulli(logits=theta.expand(50)), name="x")
    graph.stochastic(CommonRandomNumbersPathwise(4), lambda x: Normal(3 * x, 1.0), name="y")
    graph.stochastic(Pathwise(), lambda x: Normal(3 * x, 1.0), name="z")
    graph.cost(lambda y, z: y * z, name="c")
    trace = graph.sample(theta=torch.tensor(0.1, requires_grad=True))
    noise = trace["y"] - 3 * trace["x"]  # [4, 2, 50]
    assert noise.shape == (4, 2, 50)
    assert torch.allclose(noise[:, 0], noise[:, 1], atol=1e-12)
    assert noise[:, 0].unique().numel() == 200
    own = trace["z"] - 3 * trace["x"]
    assert not torch.isclose(own[0], own[1]).any()


def test_without_branches_above_it_is_the_estimator_inside():
    theta = torch.tensor(0.3, requires_grad=True)

    def alone(estimator):
        graph = scg.Graph()
        graph.stochastic(estimator, lambda theta: Normal(theta, 1.0), name="x")
        graph.cost(lambda x: x**2, name="c")
        value = graph.surrogate(theta=theta, generator=torch.Generator().manual_seed(3))
        return torch.stack([value.detach(), torch.autograd.grad(value, theta)[0]])

    assert torch.equal(alone(CommonRandomNumbers(LeaveOneOut(3))), alone(LeaveOneOut(3)))
    assert torch.equal(alone(CommonRandomNumbersPathwise(3)), alone(Pathwise(3)))


@pytest.mark.parametrize(
    "make",
    [
        lambda x: Bernoulli(logits=x),
        lambda x: Independent(Bernoulli(logits=torch.stack([x, -x], -1)), 1),
        lambda x: Categorical(logits=torch.stack([x, -x, 0 * x], -1)),
        lambda x: MultivariateNormal(torch.stack([x, -x], -1), torch.eye(2)),
    ],
    ids=["Bernoulli", "joint Bernoulli", "Categorical", "MultivariateNormal"],
)
def test_every_branch_has_its_own_law(make):
    """Means of 100,000 draws on each of two branches against fresh ones, to 5 standard errors (false alarm 6e-6)."""
    x = torch.tensor([0.5, -1.0]).unsqueeze(-1).expand(2, 100_000)
    branches = CommonRandomNumbers().branch_below(make(x), 1)
    ours, fresh = branches.values.double(), make(x).sample().double()
    se = (ours.var(1) + fresh.var(1)).div(100_000).sqrt()
    assert ((ours.mean(1) - fresh.mean(1)).abs() < 5 * se).all()
    assert (branches.score == 0).all() and branches.score.shape == (2, 100_000)


# -- variance --------------------------------------------------------------------------------------------------------


def spread(above, below, node, rows=20_000):
    """The variance of one draw's gradient for the ancestor's parameter, with its standard error."""
    graph = scg.Graph()
    graph.stochastic(above, lambda theta: node(theta), name="x")
    graph.stochastic(below, lambda x: Normal(0.5 * x, 1.0), name="y")
    graph.cost(lambda y: torch.sigmoid(2 * y), name="c")
    graph.surrogate(theta=torch.full((2,), 0.3, requires_grad=True))
    theta = torch.full((rows,), 0.3, requires_grad=True)
    (each,) = torch.autograd.grad(graph.surrogate(theta=theta) * rows, theta)
    square = (each - each.mean()) ** 2
    return float(square.mean()), float(square.std() / rows**0.5)


COMPARED = {
    "measure-valued, Poisson": (MeasureValued(), lambda theta: Poisson(theta.exp()), 10.0),
    "measure-valued, Normal": (MeasureValued(), lambda theta: Normal(theta, 1.0), 2.5),
    "enumerated bit": (Enumeration(), lambda theta: Bernoulli(logits=theta), 20.0),
    "leave-one-out of 4": (LeaveOneOut(4), lambda theta: Bernoulli(logits=theta), 8.0),
}


@pytest.mark.parametrize("name", COMPARED)
def test_it_lowers_the_variance_where_branches_are_compared(name):
    """Held to the ratio in the table, at 5 standard errors of either variance (false alarm 6e-7)."""
    above, node, ratio = COMPARED[name]
    (own, se_own), (common, se_common) = (
        spread(above, below, node) for below in (ScoreFunction(), CommonRandomNumbers(ScoreFunction()))
    )
    assert ratio * (common + 5 * se_common) < own - 5 * se_own, (own, common)


def test_it_raises_the_variance_where_branches_are_only_averaged():
    """Four independent samples above share the luck of y: its own parameter's gradient is no average of four any more."""

    def variance(below, rows=20_000):
        graph = scg.Graph()
        graph.stochastic(ScoreFunction(4), lambda x: Bernoulli(logits=0 * x), name="x", parents=["zero"])
        graph.stochastic(below, lambda x, phi: Normal(phi + 0.1 * x, 1.0), name="y")
        graph.cost(lambda y: torch.sigmoid(2 * y), name="c")
        inputs = {"zero": torch.zeros(2), "phi": torch.full((2,), 0.3, requires_grad=True)}
        graph.surrogate(**inputs)
        phi = torch.full((rows,), 0.3, requires_grad=True)
        (each,) = torch.autograd.grad(graph.surrogate(zero=torch.zeros(rows), phi=phi) * rows, phi)
        return float(each.var())

    assert variance(CommonRandomNumbersPathwise()) > 2 * variance(Pathwise())


# -- time, refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vectorised", [False, True], ids=["step by step", "all steps at once"])
def test_in_a_sequence_each_step_has_its_own_noise(vectorised):
    graph = scg.Graph()
    with graph.sequence():
        graph.observed("obs")
        graph.stochastic(Enumeration(), lambda obs, theta: Bernoulli(logits=theta * obs), name="x")
        graph.stochastic(CommonRandomNumbersPathwise(), lambda x: Normal(x, 1.0), name="y")
        graph.cost(lambda y: y**2, name="c")
    theta = torch.tensor(0.3, requires_grad=True)
    obs = torch.randn(3, 5)
    trace = graph.replay({"obs": obs}, theta=theta) if vectorised else graph.sample(obs=obs, theta=theta)
    noise = trace["y"] - trace["x"]
    assert noise.shape == (2, 3, 5)
    assert torch.allclose(noise[0], noise[1], atol=1e-12)
    assert noise[0].unique().numel() == 15


def test_the_protocol_tells_an_estimator_how_many_axes_lie_above_it():
    """One that defines `branch` alone need not know; an adopted one that asks is told, branches of non-ancestors included."""
    seen = []

    class Asks:
        def branch(self, distribution):
            seen.append(0)
            return Branches(distribution.sample())

        def branch_below(self, distribution, axes):
            seen.append(axes)
            return Branches(distribution.sample())

    graph = scg.Graph()
    graph.stochastic(Asks(), lambda theta: Normal(theta, 1.0), name="alone")
    for name in "ab":
        graph.stochastic(LeaveOneOut(2), lambda theta: Normal(theta, 1.0), name=name)
    graph.stochastic(Asks(), lambda a: Normal(a, 1.0), name="below_one")
    graph.stochastic(Asks(), lambda b: Normal(b, 1.0), name="below_the_other")
    graph.stochastic(Asks(), lambda a, b: Normal(a + b, 1.0), name="below_both")
    graph.cost(lambda alone, below_one, below_the_other, below_both: alone + below_one + below_the_other + below_both, name="c")
    theta = torch.zeros(5, requires_grad=True)
    graph.sample(theta=theta)
    seen.clear()
    with scg.examination(again=False):
        trace = graph.sample(theta=theta)
    assert seen == [0, 1, 2, 2]
    assert trace["below_the_other"].shape == (2, 1, 5) and trace["below_both"].shape == (2, 2, 5)


def test_what_has_no_inverse_is_refused():
    x = torch.tensor(1.2, requires_grad=True)
    for estimator, instead in (
        (CommonRandomNumbers(), r"ScoreFunction\(samples=1\)"),
        (CommonRandomNumbersPathwise(3), r"Pathwise\(samples=3\)"),
    ):
        graph = scg.Graph()
        graph.stochastic(estimator, lambda x: Gamma(x, 1.0), name="y")
        graph.cost(lambda y: y, name="c")
        with pytest.raises(scg.GraphError, match=f"node 'y': .* inverse cdf, and Gamma has none here.\nUse {instead}"):
            graph.surrogate(x=x)


def test_a_pathwise_estimator_inside_is_refused():
    with pytest.raises(ValueError, match=r"use CommonRandomNumbersPathwise\(samples=…\)"):
        CommonRandomNumbers(Pathwise())


def test_an_estimator_that_makes_its_own_noise_is_refused():
    with pytest.raises(scg.GraphError, match="DisARM.* does not draw through distribution.sample"):
        pair(LeaveOneOut(2), CommonRandomNumbers(DisARM())).surrogate(theta=torch.tensor([0.4, -0.3], requires_grad=True))


def test_bias_inside_is_to_be_opted_into():
    class Shrunk(ScoreFunction):
        unbiased = False

    with pytest.raises(scg.GraphError, match="is biased"):
        pair(LeaveOneOut(2), CommonRandomNumbers(Shrunk()))


def test_a_recording_is_met_as_the_estimator_inside_does():
    theta = torch.tensor([0.4, -0.3], requires_grad=True)
    recorded = {"x": torch.tensor(1.0), "y": torch.tensor(0.0), "y.log_prob": torch.tensor(-0.7)}
    ours, plain = (
        pair(ScoreFunction(), below).replay(recorded, theta=theta).surrogate()
        for below in (CommonRandomNumbers(), ScoreFunction())
    )
    assert_same(ours, plain, [theta])
