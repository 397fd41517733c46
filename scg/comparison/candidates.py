"""Which estimators could be used at a node: asked of the entry points of the group `scg.candidates`.

An entry point is a function `candidates(distribution) -> iterable of estimators`; the package of estimators provides one
with its catalogue, so that the core need not know who is above it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

import torch
from torch.distributions import Distribution

from scg.checks.check import shortened
from scg.errors import GraphError
from scg.estimator import Estimator
from scg.evaluation.call_arguments import split
from scg.evaluation.evaluation import Evaluation
from scg.evaluation.plan import Plan
from scg.graph import Graph

GROUP = "scg.candidates"


def candidates(distribution: Distribution) -> list[Estimator]:
    """Every known estimator that takes the distribution, biased ones included."""
    points = entry_points(group=GROUP)
    if not points:
        raise GraphError(
            f"no installed package offers estimators to choose from (entry points of the group {GROUP!r}).\n"
            "Install this one anew (pip install -e .), or name the estimators: {'b': [ScoreFunction(), …]}"
        )
    found: list[Estimator] = []
    for point in sorted(points, key=lambda p: p.name):
        found += point.load()(distribution)
    return found


def distribution_of(graph: Graph, node: str, inputs: Mapping[str, Any], steps: int | None) -> Distribution:
    """The node's distribution at one plain draw of what comes before it; the random stream is left as it was."""
    if node not in graph.nodes or graph.nodes[node].kind != "stochastic":
        kind = graph.nodes[node].kind if node in graph.nodes else "unknown"
        known = ", ".join(n.name for n in graph.nodes.values() if n.kind == "stochastic")
        raise GraphError(f"node {node!r}: estimators belong to stochastic nodes ({known}); this one is {kind}")
    with torch.random.fork_rng(), torch.enable_grad():
        given, plain = split(graph.structure, {}, inputs)
        given, steps = shortened(graph.structure, given, steps)
        run = Evaluation(graph, Plan(0, {}, {}, {}), given, plain, steps, branching=False, stepping=True)
        run.run()
    return run.distributions[node]
