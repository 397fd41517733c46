"""`tune`: at every node the unbiased estimator of least work-normalised variance, by measurement."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from scg.auto import Auto
from scg.comparison.candidates import candidates as known
from scg.comparison.candidates import distribution_of
from scg.comparison.measurement import Clock
from scg.comparison.parameters import Parameters
from scg.comparison.reference import known as known_reference
from scg.comparison.result import By, Comparison
from scg.comparison.side_by_side import Progress, _options, compare
from scg.draw.labels import brief
from scg.errors import GraphError, visible
from scg.estimator import Estimator, ScoreFunction
from scg.graph import Graph
from scg.tables import Table, Tabular

TOGETHER, PASSES = 32, 2  # combinations measured at once; else nodes in turn, so often


@dataclass(frozen=True)
class Tuned(Tabular):
    """The graph with its chosen estimators, what was chosen by node, and the comparisons that say why."""

    graph: Graph
    choice: Mapping[str, Estimator]
    evidence: tuple[Comparison, ...]

    def shown(self) -> Iterator[str | Table]:
        chosen = ", ".join(f"{visible(node)}={brief(estimator)}" for node, estimator in self.choice.items())
        yield f"chosen: {chosen}"
        for comparison in self.evidence:
            yield ""
            yield from comparison.shown()


def tune(
    graph: Graph,
    inputs: Mapping[str, Any],
    candidates: Mapping[str, Sequence[Any] | None] | None = None,
    *,
    by: By = "work",
    biased: bool = False,
    wrt: Any = None,
    steps: int | None = None,
    draws: int = 512,
    budget: float | None = None,
    seed: int = 0,
    reference: Any = None,
    false_alarm: float = 1e-3,
    learn: int = 100,
    clock: Clock = time.perf_counter,
    progress: Progress | None = None,
) -> Tuned:
    """Choose, at each node, the estimator with the least variance × time (or what `by` says), and show the evidence.

        tuned = scg.tune(graph, {"theta": theta}, budget=5.0)
        print(tuned)
        tuned.graph.surrogate(theta=theta).backward()

    candidates  estimators by node; None stands for all known ones that take the node's distribution. Default: the nodes
                declared with "auto"; where there are none, every stochastic node that a cost's gradient reaches
    biased      admit biased estimators. Else what declares itself biased, or was measured to be, is never chosen
    budget      seconds for all rounds together

    Up to 32 combinations are measured side by side. Of more, nodes are tuned in turn, the others as they stand (first
    with the score function where it will do), twice or until nothing changes: then a combination that is best only
    together may be missed. The same seed gives the same draws, so the choice is repeatable up to the noise of the clock.
    The other arguments are those of `compare`. GraphError where no unbiased choice is left; interrupted by hand, it
    raises KeyboardInterrupt with the table so far, as a choice on half the evidence is none.
    """
    nodes = _nodes(graph, candidates)
    options = {n: _candidates(graph, n, inputs, steps, (candidates or {}).get(n), biased) for n in nodes}
    settings: dict[str, Any] = {
        "wrt": wrt, "steps": steps, "draws": draws, "seed": seed, "reference": reference, "false_alarm": false_alarm,
        "learn": learn, "clock": clock, "progress": progress,
    }  # fmt: skip
    if math.prod(map(len, options.values())) <= TOGETHER:
        evidence = [_finished(compare(graph, inputs, options, budget=budget, **settings))]
        choice = dict(evidence[0].best(by, biased).estimators)
        return Tuned(graph.with_estimators(**choice), choice, tuple(evidence))
    choice = {n: next((e for e in found if type(e) is ScoreFunction), found[0]) for n, found in options.items()}
    share = None if budget is None else budget / (PASSES * len(nodes))
    with torch.random.fork_rng(), torch.enable_grad():  # once for all comparisons
        start = graph.with_estimators(**choice)
        settings["reference"] = known_reference(start, Parameters(graph, inputs, wrt), steps, seed, reference) or "draws"
    evidence = []
    for _ in range(PASSES):
        before = {n: brief(e) for n, e in choice.items()}
        for node in nodes:
            others = graph.with_estimators(**{n: e for n, e in choice.items() if n != node})
            evidence.append(_finished(compare(others, inputs, {node: options[node]}, budget=share, **settings)))
            choice[node] = evidence[-1].best(by, biased).estimators[node]
        if before == {n: brief(e) for n, e in choice.items()}:
            break
    return Tuned(graph.with_estimators(**choice), choice, tuple(evidence))


def _nodes(graph: Graph, candidates: Mapping[str, Any] | None) -> list[str]:
    if candidates is not None:
        if not candidates:
            raise GraphError(
                "candidates is empty: name a node and its estimators, {'b': [ScoreFunction(), …]}, or leave it out"
            )
        for name in candidates:
            graph._known(name)
        return [n for n in graph.structure.order if n in candidates]
    structure = graph.structure
    auto = [n for n in structure.stochastic if isinstance(graph.nodes[n].estimator, Auto)]
    live = [n for n in structure.stochastic if structure.counts(n, live=True)]
    if not auto and not live:
        raise GraphError("nothing to tune: no stochastic node of this graph is reached by a cost's gradient")
    return auto or live


def _candidates(
    graph: Graph, node: str, inputs: Mapping[str, Any], steps: int | None, given: Sequence[Any] | None, biased: bool
) -> list[Estimator]:
    if given is not None:
        return _options(graph, node, inputs, steps, given)
    found = [e for e in known(distribution_of(graph, node, inputs, steps)) if biased or e.unbiased]
    if not found:
        raise GraphError(f"node {node!r}: no known unbiased estimator takes its distribution; name some in candidates=")
    return found


def _finished(comparison: Comparison) -> Comparison:
    if comparison.interrupted:
        raise KeyboardInterrupt(f"tuning was interrupted; measured so far:\n{comparison}")
    return comparison
