"""The call of a node's function: what stands at its parameters, and what an error in it says.

    x                           the value of x, of an input or a node
    prev("x", init="x0")        that of the step before, or x0 where an episode starts
    prefix("y", init="y0")      all earlier ones (`prefix.py`)
    dist("x")                   the distribution of x; with `conditional` anew, at arguments without a gradient
    detach(…)                   any of these without its gradient

An objective with `trains=` gives its own view of the values (`scoped`).
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from scg.distributions.derivative_order import last_slope
from scg.errors import GraphError
from scg.evaluation import prefix
from scg.evaluation.axes import at_step
from scg.evaluation.objectives import ObjectiveView, Scoped, detached
from scg.node import Edge, Node
from scg.scan import shift
from scg.tree import rebuilt, tensors

if TYPE_CHECKING:  # the state of the evaluation that calls this file
    from scg.evaluation.evaluation import Evaluation


def arguments_of(run: Evaluation, node: Node, values: Any, t: int | None, scoped: Scoped | None, last: bool = False) -> Any:
    """By position or by parameter. `last`: of a prefix the last position alone."""
    try:
        if node.simple is not None:
            if node.positional:
                return [values[source] for _, source in node.simple]
            return {param: values[source] for param, source in node.simple}
        pairs = [
            (e, _edge(run, node, e, values, t, scoped, last))
            for e in node.parents
            if not (e.optional and e.source not in values)
        ]
    except KeyError as error:
        raise GraphError(f"node {node.name!r}: no value for its parent {error.args[0]!r}") from None
    return [v for _, v in pairs] if node.positional else {e.param: v for e, v in pairs}


def _edge(
    run: Evaluation, node: Node, edge: Edge, values: Any, t: int | None, scoped: Scoped | None, last: bool = False
) -> Any:
    if edge.dist:
        return _distribution(run, edge, values, t, scoped)
    if edge.prefix:
        value = prefix.read(run, node, edge, values, scoped, last)
    else:
        value = previous(run, edge, values, t, scoped) if edge.lag else values[edge.source]
    return detached(value, edge.source) if edge.detached else value


def _distribution(run: Evaluation, edge: Edge, values: Any, t: int | None, scoped: Scoped | None) -> Distribution:
    """An objective's own view of a distribution is the node's function called once more; nothing is drawn."""
    source = run.structure.nodes[edge.source]
    if run.ended and run.vectorised and source.in_sequence:
        return _last_distribution(run, source, edge, scoped)
    if edge.conditional:
        arguments = arguments_of(run, source, values, t, scoped)
        constant = _constant(run, source, arguments)
        if constant is not None:
            with scoped.scope.detached() if scoped is not None else nullcontext():
                # Not through an examination's own `_call`: what it examines is the node, at arguments of the same values.
                return call(run, source, constant)
    elif edge.detached:
        return rebuilt(run.distributions[source.name], Tensor.detach, source.name)
    if scoped is not None and source.name in scoped.scope.cut:
        with scoped.scope.detached():
            return run._call(source, arguments_of(run, source, values, t, scoped))
    if scoped is not None and source.name in scoped.scope.mixed:
        return scoped.distributions[source.name]
    return run.distributions[source.name]


def _constant(run: Evaluation, source: Node, arguments: Any) -> Any:
    """A function's arguments with the values of nodes detached; None where they carry no gradient."""
    pairs = list(enumerate(arguments)) if source.positional else list(arguments.items())
    nodes = {e.param: e.source for e in source.parents if e.source in run.structure.nodes}
    live = {k for k, x in pairs if str(k) in nodes and any(leaf.requires_grad for leaf in tensors(x))}
    if not live:
        return None
    held = [(k, detached(x, nodes[str(k)]) if k in live else x) for k, x in pairs]
    return [x for _, x in held] if source.positional else dict(held)


def _last_distribution(run: Evaluation, source: Node, edge: Edge, scoped: Scoped | None) -> Distribution:
    """A distribution of the sequence at its last step: the node's function, called on the last step of its parents."""
    values: Any = run.outside
    if scoped is not None:
        values = ObjectiveView(values, scoped, run.inputs)
    arguments = arguments_of(run, source, values, None, scoped)
    pairs = list(enumerate(arguments)) if source.positional else list(arguments.items())
    of = {e.param: e.source for e in source.parents}
    last = {key: run.axes.last(of[str(key)], value) for key, value in pairs}
    with scoped.scope.detached() if scoped is not None else nullcontext():
        distribution = run._call(source, list(last.values()) if source.positional else last)
    return rebuilt(distribution, Tensor.detach, source.name) if edge.detached else distribution


def previous(run: Evaluation, edge: Edge, values: Any, t: int | None, scoped: Scoped | None) -> Any:
    """What `prev` gives: at step t, or at all steps (t None)."""
    assert edge.init is not None
    recorded = run.given.get(f"{edge.source}.prev")
    if recorded is not None:
        return run.axes.shared(recorded, run.plan.missing.get(edge.source)) if t is None else at_step(recorded, t)
    if run.vectorised and edge.source in run.structure.along_time:
        return values[edge.init]
    if run.vectorised:
        now = run.axes.shared(run.given[edge.source], run.plan.missing.get(edge.source))
        opens = _opens(run, now)
        before = tree_map(lambda x: shift(x, 1, 0, 0.0) if x.is_floating_point() else shift(x, 1, 0, 0), now)
        return _where(run, opens, edge.source, values[edge.init], before)
    if t == 0 or not run.past:
        return values[edge.init]
    if scoped is not None:
        before = ObjectiveView(run.past[-1], scoped, run.inputs, scoped.past[-1])[edge.source]
    else:
        before = run.past[-1][edge.source]
    if run.first_now is None:
        return before
    return _where(run, run.first_now.bool(), edge.source, values[edge.init], before)


def _opens(run: Evaluation, now: Any) -> Tensor:
    """Where an episode starts, `[time, batch…]` with axes of size 1 where it is the same for the batch."""
    steps = run.steps
    assert steps is not None
    device = next(x for x in tree_flatten(now)[0] if isinstance(x, Tensor)).device
    opens = (torch.arange(steps, device=device) == 0).view(-1, *[1] * run.plan.batch_rank)
    if run.structure.first is None:
        return opens
    return opens | run.axes.given(run.given[run.structure.first].bool())


def _where(run: Evaluation, mask: Tensor, source: str, initial: Any, before: Any) -> Any:
    """`initial` where an episode starts, else `before`, leaf by leaf."""
    leaves, spec = tree_flatten(before)
    others = tree_flatten(initial)[0]
    if len(others) != len(leaves):
        raise GraphError(
            f"node {source!r}: its value has {len(leaves)} tensors, and its initial value {len(others)}; they are to be alike"
        )
    drawn = run.distributions.get(source)
    event = None if drawn is None else len(drawn.event_shape)
    chosen: list[Any] = []
    for i, (x, y) in enumerate(zip(leaves, others, strict=True)):
        if isinstance(x, Tensor):
            opens = run.axes.over(mask, source, i, x, event)
            try:
                x = torch.where(opens, y, x)
            except RuntimeError as error:
                if run.branching or run.replicas:  # the examination says what does not work below branches
                    raise
                raise GraphError(
                    f"node {source!r}: its value {list(x.shape)} and its initial value {list(y.shape)} do not meet episodes that "
                    f"start element by element, {list(mask.shape)}. A value is [batch…, event…]; give what is the same for "
                    "the whole batch axes of size 1 in the batch's place."
                ) from error
        chosen.append(x)
    return tree_unflatten(chosen, spec)


def call(run: Evaluation, node: Node, arguments: Any, instead: Any = None) -> Any:
    """Call a node's function, or `instead` of it another one; an error says in which node, and with what shapes."""
    fn: Any = node.fn if instead is None else instead
    if run.vectorised and node.name in run.structure.along_time and f"{node.name}.prev" not in run.given:
        fn = fn.along_time
    if torch.compiler.is_compiling():
        return fn(*arguments) if node.positional else fn(**arguments)
    try:
        result = fn(*arguments) if node.positional else fn(**arguments)
        return last_slope(result, node.name) if node.name in run.plan.kinked and not run.learning else result
    except GraphError:
        raise
    except Exception as error:
        error.add_note(f"in node {node.name!r}" + _shapes(node, arguments))
        if isinstance(error, ValueError) and ("within the support" in str(error) or "satisfy the constraint" in str(error)):
            raise GraphError(
                f"node {node.name!r}: a value lies outside the support or the constraints of a distribution there. "
                "A relaxed sample where a hard one belongs does this: score the relaxed density instead, or use an "
                f"estimator with hard samples.\n{error}"
            ) from error
        raise


def _shapes(node: Node, arguments: Any) -> str:
    pairs = zip((e.source for e in node.parents), arguments, strict=False) if isinstance(arguments, list) else arguments.items()
    shown = ", ".join(f"{k}: {tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__}" for k, v in pairs)
    return f", called with {shown}" if shown else ""
