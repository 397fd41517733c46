"""Sums of scores shared between the targets of a surrogate."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Bernoulli, Normal

import scg
from scg.checks.examination import Examination
from scg.checks.mixing import _together
from scg.estimators import LeaveOneOut, ScoreFunction
from scg.surrogate.score_sums import ScoreSums
from scg.surrogate.weight_product import Product


def trace(timed=False):
    """Costs on nested and on disjoint sets of ancestors; one node branches, one has a credit, one is outside the sequence."""
    graph = scg.Graph()
    theta = torch.full((5,), 0.3, dtype=torch.float64, requires_grad=True)
    graph.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name="a", parents=["theta"])

    def rest():
        before = [scg.prev("c", init="theta")] if timed else []
        graph.stochastic(ScoreFunction(), lambda a, *_: Bernoulli(torch.sigmoid(a)), name="b", parents=["a", *before])
        graph.stochastic(ScoreFunction(), lambda b, theta: Normal(b * theta, 1.0), name="c", parents=["b", "theta"])
        graph.stochastic(ScoreFunction(), lambda theta: Normal(theta, 2.0), name="e", parents=["theta"], credit=1.5)
        for name, parents in {"c0": ["a"], "c1": ["a", "b"], "c2": ["b", "c"], "c3": ["c", "e"], "c4": ["e"]}.items():
            graph.cost(lambda *xs: sum(x**2 for x in xs), name=name, parents=parents)

    if timed:
        with graph.sequence():
            rest()
    else:
        graph.stochastic(LeaveOneOut(samples=3), lambda a: Normal(a, 1.0), name="d", parents=["a"])
        rest()
        graph.cost(lambda c, d: c * d, name="c5", parents=["c", "d"])
    torch.manual_seed(0)
    return graph.sample(theta=theta, **({"steps": 4} if timed else {})), theta


@pytest.mark.parametrize("timed", [False, True])
def test_shared_sums_weigh_as_one_weight_after_another_does(timed):
    drawn, theta = trace(timed)
    sums = ScoreSums(drawn, None)
    nodes = drawn.structure.nodes
    for cost in drawn.structure.costs:
        shared, single = Product(drawn, None, cost), Product(drawn, None, cost)
        shared.ancestors(sums)
        for influence in drawn.structure.influences(cost):
            single.add(influence, live=nodes[influence.node].credit is None)
        value = drawn.batch_value(cost)
        gradients = [
            torch.autograd.grad(p.fold(value, cost) + 0.0 * theta.sum(), theta, retain_graph=True)[0] for p in (shared, single)
        ]
        assert torch.allclose(*gradients, rtol=1e-12, atol=1e-14)
        assert len(shared.branched) == len(single.branched)


def test_a_chain_with_a_cost_at_every_node_takes_one_addition_a_cost():
    graph, theta = scg.Graph(), torch.zeros(2, requires_grad=True)
    for i in range(20):
        graph.stochastic(ScoreFunction(), lambda x: Normal(x, 1.0), name=f"x{i}", parents=[f"x{i - 1}" if i else "theta"])
        graph.cost(lambda x: x**2, name=f"c{i}", parents=[f"x{i}"])
    drawn = graph.sample(theta=theta)
    sums = ScoreSums(drawn, None)
    for cost in drawn.structure.costs:
        Product(drawn, None, cost).ancestors(sums)
    assert len(sums._sums) == 20
    examination = Examination(graph, drawn.plan, {}, {"theta": theta}, None)
    assert len(_together(examination.recording, {})) == 1


def test_samples_are_exchanged_apart_where_one_target_is_not_weighed_with_the_others():
    """x reaches c1 through detach only: it may mix the batch there, so c1 is not examined while x is exchanged for c0."""
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name="x", parents=["theta"])
    graph.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name="y", parents=["theta"])
    graph.cost(lambda x: x**2, name="c0", parents=["x"])
    graph.cost(lambda x, y: (y - x.mean()) ** 2, name="c1", parents=[scg.detach("x"), "y"])
    theta = torch.zeros(8, requires_grad=True)
    drawn = graph.sample(theta=theta)
    examination = Examination(graph, drawn.plan, {}, {"theta": theta}, None)
    assert _together(examination.recording, {}) == [(("x",), ["c0"]), (("y",), ["c1"])]
