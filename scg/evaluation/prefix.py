"""A prefix: a node of the sequence that reads all earlier values, as a transformer does.

    step t reads               init ‖ x_0 … x_{t−1}         [batch…, length, event…]
    its function gives         one value per position       [batch…, length, …], of which the last one is the value at step t
    all steps at once          one call on init ‖ x_0 … x_{T−2}; its last T positions are the steps
    with `extend`              a call on the new positions alone, and what it keeps from call to call: keys and values

So a recording of T steps costs one pass, as `along_time` does for a recurrent network. That the pass is causal is examined
(`checks/causal.py`). After the sequence a prefix is all of it, an argument like others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from scg.errors import GraphError
from scg.evaluation.objectives import ObjectiveView, Scoped
from scg.node import Edge, Node

if TYPE_CHECKING:  # the state of the evaluation that calls this file
    from scg.evaluation.evaluation import Evaluation


def read(run: Evaluation, node: Node, edge: Edge, values: Any, scoped: Scoped | None, last: bool = False) -> Tensor:
    """What a prefix edge gives, `[batch…, length, event…]`. `last`: the last position alone."""
    event, initial = edge.event, None if edge.init is None else values[edge.init]
    drawn = run.distributions.get(edge.source)
    if drawn is not None and len(drawn.event_shape) != event:
        raise GraphError(
            f"node {node.name!r}: prefix({edge.source!r}, event={event}), but one value of {edge.source!r} has event shape "
            f"{tuple(drawn.event_shape)}; say event={len(drawn.event_shape)}"
        )
    if run.vectorised:
        positions = _positions(run, edge.source, scoped, event)
        positions = positions.narrow(-1 - event, 0, positions.shape[-1 - event] - edge.lag)
    else:
        known = len(run.past)
        steps = [_seen(run, i, scoped)[edge.source] for i in range(max(0, known - 1) if last else 0, known)]
        positions = torch.stack(torch.broadcast_tensors(*steps), -1 - event) if steps else None  # type: ignore[assignment]
    if initial is None or (last and positions is not None):
        return positions
    if not isinstance(initial, Tensor) or initial.ndim < 1 + event:
        found = f"shape {tuple(initial.shape)}" if isinstance(initial, Tensor) else f"type {type(initial).__name__}"
        raise GraphError(
            f"node {node.name!r}: prefix({edge.source!r}, init={edge.init!r}): the initial positions are a tensor [batch…, length, "
            f"event…], got {found}"
        )
    if positions is None or not positions.shape[-1 - event]:
        return initial
    lead = torch.broadcast_shapes(initial.shape[: -1 - event], positions.shape[: -1 - event])
    return torch.cat([x.expand(*lead, *x.shape[-1 - event :]) for x in (initial, positions)], -1 - event)


def _seen(run: Evaluation, i: int, scoped: Scoped | None) -> Mapping[str, Any] | ObjectiveView:
    return run.past[i] if scoped is None else ObjectiveView(run.past[i], scoped, run.inputs, scoped.past[i])


def _positions(run: Evaluation, source: str, scoped: Scoped | None, event: int) -> Tensor:
    """All steps of a node, the axis of time as positions right of the batch."""
    values: Any = run.outside if scoped is None else ObjectiveView(run.outside, scoped, run.inputs)
    if source in values:
        block: Tensor = values[source]
        return block.movedim(run.axes.slots(source, 0, block), -1 - event)
    block = run.axes.shared(run.given[source], run.plan.missing.get(source))  # it is evaluated later than its readers
    return block.movedim(0, -1 - event)


def evaluate(run: Evaluation, node: Node, values: Any, scoped: Scoped | None) -> Any:
    """A node of the sequence that reads a prefix: at one step, or at all steps at once."""
    if not run.vectorised and run.caching and hasattr(node.fn, "extend"):
        return _extended(run, node, values, scoped)
    arguments = run.arguments(node, values, scoped)
    result = run._call(node, arguments)
    lead, length = extent(node, arguments)
    if not run.vectorised:
        return at(node, result, lead, length)
    steps, batch = run.steps, run.axes.batch
    assert steps is not None
    return _each(
        node, result, lead, length, lambda x: x.narrow(lead, length - steps, steps).movedim(lead, max(0, lead - batch))
    )


def _extended(run: Evaluation, node: Node, values: Any, scoped: Scoped | None) -> Any:
    """The same from what was kept of the positions before; from the start where the batch has grown since."""
    fn: Any = node.fn
    states = run.states if scoped is None else scoped.states
    arguments = run.arguments(node, values, scoped, last=node.name in states)
    lead, length = extent(node, arguments)
    before, state = states.get(node.name, (None, None))
    shape = _argument(node, arguments).shape[:lead]
    if before is not None and before != shape:
        arguments, state = run.arguments(node, values, scoped), None
        lead, length = extent(node, arguments)
    result = run._call(node, arguments, partial(fn.extend, state))
    if not isinstance(result, tuple) or len(result) != 2:
        raise GraphError(f"node {node.name!r}: extend(state, …) returns (values, state), got a {type(result).__name__}")
    states[node.name] = (shape, result[1])
    return at(node, result[0], lead, length)


def extent(node: Node, arguments: Any) -> tuple[int, int]:
    """Axes left of the positions in what a node reads, and how many positions there are."""
    lengths, leads = set(), set()
    for i, edge in enumerate(_given(node, arguments)):
        if edge.prefix:
            x = arguments[i] if node.positional else arguments[edge.param]
            place = x.ndim - 1 - edge.event
            leads.add(place)
            lengths.add(x.shape[place])
    if len(lengths) > 1:
        raise GraphError(
            f"node {node.name!r}: it reads prefixes of {' and '.join(map(str, sorted(lengths)))} positions; they are to be of one "
            "length, their initial values too"
        )
    return max(leads), lengths.pop()


def _given(node: Node, arguments: Any) -> list[Edge]:
    """The edges of the arguments, in order: optional ones may be absent."""
    return [e for e in node.parents if node.positional or e.param in arguments]


def _argument(node: Node, arguments: Any) -> Tensor:
    for i, edge in enumerate(_given(node, arguments)):
        if edge.prefix:
            return arguments[i] if node.positional else arguments[edge.param]  # type: ignore[no-any-return]
    raise AssertionError(node.name)


def at(node: Node, result: Any, lead: int, length: int) -> Any:
    """The value at the last position."""
    return _each(node, result, lead, length, lambda x: x.select(lead, -1))


def _each(node: Node, result: Any, lead: int, length: int, take: Callable[[Tensor], Tensor]) -> Any:
    def one(x: Any) -> Any:
        if not isinstance(x, Tensor) or x.ndim <= lead or x.shape[lead] != length:
            found = f"a tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise GraphError(
                f"node {node.name!r}: it read {length} positions and its function returned {found}. A node that reads a prefix "
                f"returns one value for each position, [batch…, length, …]: axis {lead} is to have size {length}"
            )
        return take(x)

    return tree_map(one, result)
