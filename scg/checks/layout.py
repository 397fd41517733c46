"""What the first sample teaches about the axes of a graph's values: two plain draws, one of them replicated.

The first draws one sample a node, step by step. In the second each stochastic node has P replicates along one common
axis, left of all others; P is a size that nothing in the first draw has, so what depends on a sample shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.utils._pytree import tree_leaves, tree_map

from scg.errors import GraphError
from scg.estimator import Branches
from scg.evaluation.axes import learned, ranks, unlike
from scg.evaluation.branching import plain, plated
from scg.evaluation.evaluation import Evaluation
from scg.evaluation.plan import Plan
from scg.evaluation.record import Record
from scg.node import Node
from scg.specification import Specification


class Replicated(Evaluation):
    """An evaluation in which each stochastic node that is not given has `size` replicates, along one axis for all."""

    size, replicas = 1, True

    def replicated(self, node: Node, distribution: Distribution) -> Branches:
        """One sample of each replicate, with the axes that a branching node's samples have."""
        own = self.plan.ranks[node.name]
        full = max(own, self.axes.inner)
        shape = distribution.batch_shape
        if len(shape) <= full:
            distribution = distribution.expand((self.size, *[1] * (full - len(shape)), *shape))
        return plain(node, distribution)


def lay_out(
    graph: Specification, given: Mapping[str, Any], inputs: Mapping[str, Any], steps: int | None
) -> tuple[Plan, Evaluation]:
    """The ranks of everything at one step, and the evaluation that showed them."""
    given, steps = lengthened(graph, given, steps)
    evaluation = Evaluation(graph, Plan(0, {}, {}, {}), given, inputs, steps, branching=False, stepping=True)
    trace = evaluation.run()
    plain_steps = _values(trace)
    last = plain_steps[-1]
    nodes = graph.nodes
    value_ranks = {k: v.ndim for k, v in last.items() if isinstance(v, Tensor)}
    own = {
        k: len(d.batch_shape) + (nodes[k].plate is not None and not plated(graph.structure, k, d))
        for k, d in evaluation.distributions.items()
    }
    if trace.history:  # an initial value may have the batch that later steps lack
        for step in trace.history:
            for k, d in step.distributions.items():
                own[k] = max(own[k], len(d.batch_shape))
    costs = {c: max(values[c].ndim for values in plain_steps if c in values) for c in graph.structure.costs}
    # The costs say what a batch is; nodes that reach no cost may have one where the costs have none.
    flags = [x.ndim - 1 for k, x in given.items() if k == graph.structure.first]  # episodes may start element by element
    batch = max(
        [
            0,
            *flags,
            *costs.values(),
            *(rank - (k in graph.structure.on_plate) for k, rank in own.items() if not graph.structure.counts(k)),
        ]
    )
    plan = Plan(batch, own, value_ranks, costs)
    if batch and graph.structure.has_sequence:
        events = {k: len(d.event_shape) for k, d in evaluation.distributions.items()}
        plan.missing = {k: _missing(last[k], events.get(k, 0), batch) for k in given if k in last and nodes[k].in_sequence}
    branched = Replicated(graph, plan, given, inputs, steps, branching=False, stepping=True)
    branched.given = {k: branched.axes.shared(v, plan.missing.get(k)) for k, v in given.items()}  # as all steps at once see it
    branched.size = unlike([plain_steps, list(inputs.values()), list(given.values())])
    try:
        plan.below = learned(plain_steps, _values(branched.run()), branched.size, batch)
    except GraphError:
        raise
    except Exception:  # a function that does not work below branches; the examination says so where one branches
        plan.below = learned(plain_steps, plain_steps, branched.size, batch)
    return plan, evaluation


def lengthened(graph: Specification, given: Mapping[str, Any], steps: int | None) -> tuple[dict[str, Any], int | None]:
    """Two steps at least, the recorded one repeated: what an initial value hides at the first step is seen at the second."""
    structure = graph.structure
    if not structure.has_sequence:
        return dict(given), steps
    recorded = {k for k in given if structure.nodes[k.partition(".")[0]].in_sequence}
    short = {k for k in recorded if any(x.shape[:1] == (1,) for x in tree_leaves(given[k]) if isinstance(x, Tensor))}
    if recorded and not short:
        return dict(given), steps
    twice = {k: tree_map(lambda x: torch.cat([x, x]) if isinstance(x, Tensor) else x, given[k]) for k in short}
    return {**given, **twice}, 2 if steps == 1 else steps


def _values(trace: Record) -> list[dict[str, Any]]:
    """The values of all nodes, at each step."""
    nodes = trace.structure.nodes
    outside = {k: v for k, v in trace.values.items() if k in nodes}
    if trace.history is None:
        return [outside]
    return [{**outside, **{k: v for k, v in step.values.items() if k in nodes}} for step in trace.history]


def _missing(value: Any, event: int, batch: int) -> tuple[int, ...]:
    """How many of the batch's axes each leaf of a given value lacks at one step.

    A recording may have a batch that its distribution lacks (parameters that the batch shares), and the reverse. An observed
    value has no distribution that tells its event: its first axes are taken for the batch's."""
    return tuple(max(0, batch - max(0, rank - event)) for rank in ranks(value))
