"""Costs, baselines and episode starts have the batch of the samples that they meet: the same sizes, or 1."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from scg.evaluation.record import Record, broadcastable, real


def sizes(trace: Record) -> Iterator[tuple[str, str, str]]:
    """(node, what, message) of each that has another batch, on one plain draw without branches."""
    structure, plan, given = trace.structure, trace.plan, trace.given
    now = {**trace.values, **(trace.history[-1].values if trace.history else {})}
    costs = {name: _batch(now[name], plan.cost_ranks[name]) for name in structure.costs}
    samples: dict[tuple[int, ...], int] = {}  # by batch, the set of nodes that have it
    for name in structure.stochastic:
        node = structure.nodes[name]
        if name in structure.on_plate or not (node.estimator.weighs or name in given):
            continue
        distribution = trace.dist(name)
        event = (distribution[-1] if isinstance(distribution, list) else distribution).event_shape
        batch = tuple(now[name].shape[: now[name].ndim - len(event)])
        samples[batch] = samples.get(batch, 0) | 1 << structure.index[name]
        for what, source in (("baseline", node.baseline), ("credit", node.credit)):
            if isinstance(source, str) and not broadcastable(shape := tuple(real(source, now[source]).shape), batch):
                yield (
                    name,
                    what,
                    f"its {what} has shape {shape}, and its samples have batch {batch}. Return one value per batch element.",
                )
    for cost, shape in costs.items():
        for batch, nodes in samples.items():
            met = () if broadcastable(shape, batch) else structure.named(structure.above(cost, live=True) & nodes)
            for name in met:
                yield (
                    cost,
                    "batch",
                    f"its value has batch shape {shape}, and its ancestor {name!r} has {batch}; their elements do not belong "
                    f"together.\nReturn one cost per batch element of {name!r}.",
                )
    first = structure.first
    if first is None or first not in given:
        return
    starts = tuple(given[first].shape[1:])
    for cost, shape in costs.items():
        if structure.nodes[cost].in_sequence and not broadcastable(shape, starts):
            yield (
                first,
                "batch",
                f"episodes start in a batch of shape {starts}, and the cost {cost!r} has {shape}; give it as [time, batch…], of the "
                "costs' batch.",
            )


def _batch(value: Tensor, rank: int) -> tuple[int, ...]:
    return tuple(value.shape[value.ndim - rank :])
