"""Estimators of the whole catalogue at the nodes of random graphs: each mean against finite differences of the objective.

The differences are of the objective's value, so neither autograd nor another estimator is asked.
"""

import math
from dataclasses import replace

import torch
from hypothesis import event, given, reject, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli, Normal

from scg import Graph, GraphError
from scg.estimators import ScoreFunction
from scg.estimators.catalogue import ENTRIES
from scg.randomness import randomness
from scg.testing import check_unbiased
from scg.testing.localise import drawn
from scg.testing.parameters import Parameters
from scg.testing.report import Report
from scg.testing.strategies import graphs

UNBIASED = {
    name: entry.estimator
    for name, entry in ENTRIES.items()
    if entry.estimator.unbiased and not entry.estimator.allow_bias and getattr(entry.estimator, "differentiates", True)
    and not entry.recorded
}  # fmt: skip


class HalfScore(ScoreFunction):
    """Half of the score's weight: the gradient through the sample is half of what it should be."""

    def branch(self, distribution):
        branches = super().branch(distribution)
        return replace(branches, score=0.5 * branches.score + 0.5 * branches.score.detach())


def held(graph: Graph, inputs: dict[str, Tensor]) -> Report:
    """The graph's mean gradient beside differences of its objective."""
    return check_unbiased(
        graph, inputs, oracle="finite_difference", detectable=0.2, floor=0.5, false_alarm=1e-5, max_draws=2**17, localise=False
    )


@settings(max_examples=max(4, settings.default.max_examples // 4))
@given(graphs(max_nodes=3, sequences=False, detached=False, batched=False), st.data())
def test_every_mean_is_the_finite_difference(case, data):
    distributions = drawn(case.graph, Parameters(case.inputs), None)
    chosen = {}
    for name in case.graph.structure.stochastic:
        fitting = [n for n, e in UNBIASED.items() if e.refuses(distributions[name]) is None]
        chosen[name] = data.draw(st.sampled_from(fitting), label=name)
    try:
        graph = case.graph.with_estimators(**{n: UNBIASED[e] for n, e in chosen.items()})
        with randomness(None):
            graph.surrogate(**case.inputs)
    except GraphError:  # not every estimator may stand below or above every other one
        reject()
    report = held(graph, case.inputs)
    for estimator in chosen.values():
        event(estimator)
    assert report.verdict != "biased", f"{chosen}\n{case!r}\n{report}"
    assert all(math.isfinite(r.mean) for r in report.rows)
    event(report.verdict)


def test_and_the_same_test_finds_half_of_a_score():
    graph = Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="bit", parents=["theta"])
    graph.stochastic(ScoreFunction(), lambda bit, theta: Normal(bit + theta, 1.0), name="x")
    graph.cost(lambda x: (x - 2).square(), name="loss")
    theta = {"theta": torch.tensor(0.3, requires_grad=True)}
    assert held(graph, theta).verdict == "unbiased"
    assert held(graph.with_estimators(bit=HalfScore()), theta).verdict == "biased"
