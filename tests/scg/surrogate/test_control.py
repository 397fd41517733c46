"""Estimators that learn: a control variate of their own, kept out of every surrogate, trained by its variance."""

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal

import scg
from scg import prev
from scg.estimators import Pathwise, ScoreFunction
from tests.exact import assert_same, expectation, outcomes

BIT = [0.0, 1.0]


class Levelled(scg.Estimator, nn.Module):
    """The score function with a learned level subtracted: k = −c · (w − 1)."""

    def __init__(self):
        nn.Module.__init__(self)
        self.level = nn.Parameter(torch.tensor(2.0))

    def branch(self, distribution):
        value = distribution.sample()
        log_prob = distribution.log_prob(value)
        score = log_prob - log_prob.detach()
        return scg.Branches(value, score=score, control=-self.level * torch.expm1(score))


class Recited(Levelled):
    """Levelled, on prescribed values."""

    def __init__(self, values):
        super().__init__()
        self.values, self.calls = values, 0

    def branch(self, distribution):
        value = self.values[self.calls % len(self.values)].expand(distribution.batch_shape)
        self.calls += 1
        log_prob = distribution.log_prob(value)
        score = log_prob - log_prob.detach()
        return scg.Branches(value, score=score, control=-self.level * torch.expm1(score))


def chain(estimator, above=None):
    graph = scg.Graph()
    graph.stochastic(above or ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="x")
    graph.stochastic(estimator, lambda x, theta: Bernoulli(logits=theta * (x - 0.3)), name="y")
    graph.cost(lambda x, y, theta: (x - 2 * y) ** 2 * theta + y, name="f")
    return graph


def test_a_control_changes_no_derivative():
    theta = torch.tensor(0.4, requires_grad=True)
    total = torch.zeros(())
    for x in BIT:
        for y in BIT:
            graph = chain(Levelled(), Recited([torch.tensor(x)])).with_estimators(y=Recited([torch.tensor(y)]))
            trace = graph.sample(theta=theta)
            p = trace.dist("x").log_prob(trace["x"]) + trace.dist("y").log_prob(trace["y"])
            total = total + p.exp().detach() * trace.surrogate()
    plain = chain(ScoreFunction())
    assert_same(total, expectation(plain, list(outcomes({"x": BIT, "y": BIT})), theta=theta), [theta])


def test_a_surrogate_leaves_nothing_in_an_estimator():
    estimator, theta = Levelled(), torch.tensor(0.4, requires_grad=True)
    trace = chain(estimator).sample(theta=theta)
    trace.surrogate().backward()
    assert estimator.level.grad is None
    assert theta.grad is not None


def test_the_variance_reaches_the_estimator_and_nothing_else():
    estimator, theta = Levelled(), torch.tensor(0.4, requires_grad=True)
    graph = chain(estimator)
    trace = graph.sample(theta=theta)
    gradient = torch.autograd.grad(trace.surrogate(), theta)[0]
    value = trace.variance(theta)
    assert torch.allclose(value, gradient.square())  # the same draw
    value.backward()
    assert theta.grad is None
    difference = []
    for step in (1e-4, -1e-4):
        with torch.no_grad():
            estimator.level += step
        difference.append(trace.variance(theta).item())
        with torch.no_grad():
            estimator.level -= step
    assert abs(estimator.level.grad.item() - (difference[0] - difference[1]) / 2e-4) < 1e-5


def test_learning_lowers_the_variance():
    """One bit at θ = 0: the best level is E[f ∇log p²]/E[∇log p²] = E[f] here, and descent finds it."""
    torch.manual_seed(0)
    estimator, theta = Levelled(), torch.zeros(256, requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(estimator, lambda theta: Bernoulli(logits=theta), name="b")
    graph.cost(lambda b: (b - 0.45) ** 2, name="f")
    optimiser = torch.optim.Adam(estimator.parameters(), 0.05)
    for _ in range(200):
        optimiser.zero_grad()
        (graph.sample(theta=theta).variance(theta) * 256**2).backward()
        optimiser.step()
    assert abs(estimator.level.item() - (0.55**2 + 0.45**2) / 2) < 0.02


def test_the_random_stream_is_untouched_by_a_variance():
    estimator, theta = Levelled(), torch.tensor(0.4, requires_grad=True)
    trace = chain(estimator).sample(theta=theta)
    state = torch.get_rng_state()
    trace.variance(theta)
    assert torch.equal(state, torch.get_rng_state())


def test_controls_along_time():
    theta = torch.tensor(0.4, requires_grad=True)

    def build(estimator):
        graph = scg.Graph()
        with graph.sequence():
            graph.stochastic(
                estimator, lambda a, theta: Bernoulli(logits=theta + a), name="a", parents=[prev("a", init="a0"), "theta"]
            )
            graph.cost(lambda a: (a - 0.3) ** 2, name="c")
        return graph

    total = torch.zeros(())
    every = list(outcomes({"a": BIT}, {"a": (3,)}))
    for outcome in every:
        graph = build(Recited(list(outcome["a"])))
        graph.sample(steps=3, theta=theta, a0=torch.tensor(0.0))  # the first sample's examination recites too
        graph.nodes["a"].estimator.calls = 0
        trace = graph.sample(steps=3, theta=theta, a0=torch.tensor(0.0))
        assert torch.equal(trace["a"], outcome["a"])
        p = sum(d.log_prob(v) for d, v in zip(trace.dist("a"), trace["a"], strict=True)).exp().detach()
        total = total + p * trace.surrogate()
    assert_same(total, expectation(build(ScoreFunction()), every, theta=theta, a0=torch.tensor(0.0)), [theta])


def test_a_graph_without_learning_has_no_variance_to_train():
    theta = torch.tensor(0.4, requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda theta: Normal(theta, 1.0), name="x")
    graph.cost(lambda x: x, name="f")
    with pytest.raises(scg.GraphError, match="no estimator of this graph has parameters to learn"):
        graph.sample(theta=theta).variance(theta)


def test_a_control_of_another_shape_is_refused():
    class Wide(Levelled):
        def branch(self, distribution):
            branches = super().branch(distribution)
            return scg.Branches(branches.values, score=branches.score, control=branches.control.sum())

    graph = scg.Graph()
    graph.stochastic(Wide(), lambda theta: Bernoulli(logits=theta), name="x")
    graph.cost(lambda x: x, name="f")
    with pytest.raises(scg.GraphError, match=r"node 'x': .* returned control of shape \(\); it is \[\*batch\] = \(3,\)"):
        graph.surrogate(theta=torch.zeros(3, requires_grad=True))
