"""What an estimator draws may depend on what requires a gradient: from step to step, and from one objective to another."""

import pytest
import torch
from torch.distributions import Bernoulli, Normal

import scg
from scg import GraphError, dist, prev
from scg.estimators import Enumeration, MeasureValued, Pruned, ScoreFunction


class Lazy(scg.Estimator):
    """The score function as a weight, which it leaves out where nothing is differentiated."""

    def branch(self, distribution):
        x = distribution.sample()
        if not distribution.logits.requires_grad:
            return scg.Branches(x)
        log_prob = distribution.log_prob(x)
        return scg.Branches(x, weights=(log_prob - log_prob.detach()).exp())


def delayed(estimator):
    """θ reaches the distribution from the second step on."""
    graph = scg.Graph()
    with graph.sequence():
        graph.deterministic(lambda theta: 1.0 * theta, name="h")
        graph.stochastic(estimator, lambda h: Bernoulli(logits=h), name="x", parents=[prev("h", init="start")])
        graph.cost(lambda x, theta: x * (2 + theta), name="c")
    return graph


def gradient(graph, **inputs):
    torch.manual_seed(3)
    theta = torch.full((50,), 0.7, requires_grad=True)
    surrogate = graph.sample(theta=theta, start=torch.zeros(50), **inputs).surrogate()
    return torch.autograd.grad(surrogate, theta)[0]


def test_a_weight_that_is_left_out_at_the_first_step_counts_at_the_second():
    assert torch.allclose(gradient(delayed(Lazy()), steps=3), gradient(delayed(ScoreFunction()), steps=3))


def test_branches_that_begin_at_a_later_step_are_refused():
    with pytest.raises(GraphError, match=r"'x': MeasureValued.* draws other samples \(1 of them\) one step before step 1"):
        gradient(delayed(MeasureValued()), steps=3)
    assert gradient(delayed(Pruned(MeasureValued())), steps=3).isfinite().all()  # one branch at every step


def shared(estimator, trains):
    """Both parameters reach the sample, and a cost trains one of them."""
    graph = scg.Graph()
    graph.stochastic(estimator, lambda loc, scale: Normal(loc, scale.exp()), name="x")
    graph.stochastic(ScoreFunction(), lambda x: Bernoulli(logits=x), name="y")
    graph.cost(lambda x, y: x * y, name="c", trains=trains)
    return graph


@pytest.mark.parametrize("estimator", [MeasureValued(), Pruned(MeasureValued(), share=0.5)])
def test_an_objective_that_would_draw_other_samples_is_refused(estimator):
    inputs = {"loc": torch.zeros(40, requires_grad=True), "scale": torch.zeros(40, requires_grad=True)}
    with pytest.raises(GraphError, match=r"'x': .*for all parameters than for those that 'c' trains"):
        shared(estimator, ["scale"]).surrogate(**inputs)
    shared(estimator, ["loc", "scale"]).surrogate(**inputs).backward()  # the boundary: it trains all of them
    shared(ScoreFunction(), ["scale"]).surrogate(**inputs).backward()


READERS = {
    "the sample": (lambda x: x, ["x"]),
    "a value of it": (lambda h: h, ["h"]),
    "its distribution": (lambda p: p.probs, [dist("x")]),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("stepping", [False, True])
def test_a_terminal_cost_that_trains_a_part_counts_the_last_step_alone(reader, stepping):
    """Once all steps were summed: a value that its objective sees for itself was there for all steps at once."""
    graph = scg.Graph()
    with graph.sequence():
        graph.stochastic(Enumeration(), lambda a, b: Bernoulli(logits=a + b), name="x")
        graph.deterministic(lambda x, a, b: x * (a - a.detach() + b - b.detach() + 1), name="h")
        if stepping:
            graph.deterministic(lambda n: n + 1, name="n", parents=[prev("n", init="zero")])
    fn, parents = READERS[reader]
    graph.cost(fn, name="c", parents=parents, trains=["b"])
    a, b = torch.tensor(0.3, requires_grad=True), torch.tensor(-0.5, requires_grad=True)
    graph.sample(steps=3, a=a, b=b, **({"zero": torch.zeros(())} if stepping else {})).surrogate().backward()
    p = torch.sigmoid(a + b).detach()
    slope = p * (1 - p) + (p if reader == "a value of it" else 0)
    assert a.grad is None and torch.allclose(b.grad, slope)
