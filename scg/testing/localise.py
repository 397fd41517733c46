"""Which node is to blame: change one thing at a time, and see whether the bias goes.

For every stochastic node: its estimator replaced by a trusted one, its baseline dropped, its credit dropped. A change
is to blame if with it alone, at the biased entries, a bias of half the size that was seen would have been found and
was not. If only all of them together help, the fault is shared; if not even that, it lies in a node's function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.distributions import Distribution

from scg.draw.labels import brief
from scg.errors import GraphError
from scg.estimator import Pathwise, ScoreFunction
from scg.graph import Graph
from scg.testing.monte_carlo import of_graph
from scg.testing.oracle import Oracle
from scg.testing.parameters import Block, Parameters
from scg.testing.reference import trusted
from scg.testing.report import Culprit, Report
from scg.testing.sequential import Outcome, judge
from scg.testing.unroll import Program

Given = Callable[[], Mapping[str, Any]] | None


def culprits(
    report: Report,
    graph: Graph,
    parameters: Parameters,
    order: int,
    steps: int | None,
    given: Given,
    truth: Oracle,
    outcome: Outcome,
    generator: torch.Generator,
    vectorise: bool,
) -> Report:
    """The report with `culprits` filled in, as far as that can be told."""
    wrong = torch.tensor([i for i, v in enumerate(outcome.verdicts) if v == "biased"])
    half = 0.5 * (outcome.mean - truth.exact).abs()[wrong]
    if not bool(torch.isfinite(half).all()):
        return replace(report, note="a draw was not finite")
    # In units of half the bias, around 1: an entry whose detectable bias is its own size.
    unit = 1.0 / half.clamp_min(1e-300)
    target = Oracle(truth.kind, torch.ones_like(unit), truth.error[wrong] * unit, truth.se[wrong] * unit)
    blocks = [Block((str(i),), (), torch.tensor([i])) for i in range(len(wrong))]

    def repaired(candidate: Graph) -> bool:
        try:
            draws = of_graph(candidate, parameters, order, generator, steps, given, vectorise)
            return (
                judge(
                    lambda k: (draws.take(k)[:, wrong] - truth.exact[wrong]) * unit + 1.0,
                    draws.per_row,
                    target,
                    blocks,
                    false_alarm=1e-2,
                    detectable=1.0,
                    floor=0.0,
                    max_draws=max(16 * outcome.draws, 2**14),
                    epsilon=parameters.epsilon,
                ).verdict
                == "unbiased"
            )
        except (GraphError, RuntimeError, ValueError, NotImplementedError):
            return False

    changes = list(candidates(graph, parameters, steps))
    # The core's own estimators last: weighing a pathwise sample instead also bypasses what is wrong below it.
    own = [c for c in changes if c[0].suspect]
    for group in (own, [c for c in changes if not c[0].suspect]):
        fixed = (c for c, change in group if repaired(changed(graph, [(c, change)])))
        found = tuple(dict.fromkeys(fixed))
        if found:
            return replace(report, culprits=found)
    if len(changes) > 1 and repaired(changed(graph, changes[::-1])):
        names = ", ".join(repr(c.node) for c, _ in changes)
        return replace(report, note=f"the bias comes from several nodes together, among {names}")
    return replace(
        report,
        note="no node's estimator, baseline or credit alone explains the bias: look for a node function that cuts or "
        "changes a gradient, or reads what it does not declare",
    )


def candidates(graph: Graph, parameters: Parameters, steps: int | None) -> Iterator[tuple[Culprit, dict[str, Any]]]:
    """What could be wrong about each stochastic node, and the change that would repair it."""
    distributions = drawn(graph, parameters, steps)
    for name in graph.structure.stochastic:
        node = graph.nodes[name]
        if not graph.structure.counts(name, live=True):
            continue
        if node.baseline is not None:
            what = "a function" if node.baseline == f"{name}.baseline" else repr(node.baseline)
            yield Culprit(name, f"its baseline, {what}"), {"baseline": None}
        if node.credit is not None:
            what = "a function" if node.credit == f"{name}.credit" else brief(node.credit)
            yield Culprit(name, f"its credit, {what}"), {"credit": None}
        if name in distributions:
            branches = not (node.in_sequence and graph.structure.feeds_prev(name))
            suspect = type(node.estimator) not in (ScoreFunction, Pathwise)
            for reference in trusted(distributions[name], branches):
                yield Culprit(name, f"its estimator, {brief(node.estimator)}", suspect), {"estimator": reference}


def changed(graph: Graph, changes: list[tuple[Culprit, dict[str, Any]]]) -> Graph:
    other = Graph()
    other.first = graph.first
    other.nodes = dict(graph.nodes)
    for culprit, change in changes:
        other.nodes[culprit.node] = replace(other.nodes[culprit.node], **change)
    return other


def drawn(graph: Graph, parameters: Parameters, steps: int | None) -> dict[str, Distribution]:
    """One distribution of each stochastic node, from one draw."""
    found: dict[str, Distribution] = {}
    try:
        program = Program(graph, parameters.inputs, steps)
    except GraphError:
        return found
    values: dict[Any, Any] = {}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for key in program.keys:
            result, _ = program.result(key, lambda k: (values[k], False))
            if isinstance(result, Distribution):
                found[key[0]] = result
                result = result.sample()
            values[key] = result
    return found
