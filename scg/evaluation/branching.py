"""From a node's distribution to its branches and their weight, with the branch axis where the graph's other values expect it.

The j-th node that branches owns branch axis j. An estimator returns `[n, *batch, *event]`; here the axis of n moves to the place
that `Axes` gives it, with size 1 for the axes that the node does not have. What an estimator returns is held against the
protocol when a graph is examined, and not at later calls.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import methodcaller
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from scg.analysis.structure import Structure
from scg.distributions.densities import forget
from scg.distributions.derivative_order import barrier
from scg.distributions.laws import kind, parameters
from scg.distributions.probabilities import note_parameter
from scg.distributions.samples import has_rsample
from scg.errors import GraphError, impossible
from scg.estimator import Branches
from scg.evaluation.objectives import swapped
from scg.evaluation.weight import Weight
from scg.node import Node
from scg.tree import rebuilt

if TYPE_CHECKING:  # the state of the evaluation that calls this file
    from scg.evaluation.evaluation import Evaluation


def branch(run: Evaluation, node: Node, distribution: Distribution, t: int | None) -> tuple[Any, Weight]:
    """The value of a stochastic node, drawn or given, and its weight: at step t, or at all steps (t None)."""
    name = node.name
    if not isinstance(distribution, Distribution):
        raise GraphError(
            f"node {name!r}: a stochastic node's function returns a torch Distribution, got {type(distribution).__name__}"
        )
    at_once = run.vectorised and node.in_sequence
    if name in run.plan.first_order and not run.learning and not torch.compiler.is_compiling():
        # On the parameters, not on the sample: samplers that differentiate once cut the way back to θ themselves.
        distribution = rebuilt(distribution, lambda p: barrier(p, name), name)
    if name in run.given:
        branches = _given(run, node, distribution, t)
    else:
        if at_once:
            distribution = _with_time(run, node, distribution)
        if node.plate is not None:
            distribution = _on_plate(run, name, distribution, node.plate)
        if run.branching:
            branches = _drawn(node, distribution, _axes_above(run, node, distribution), run.learning)
            if run.verifying:
                verify(node, distribution, branches)
        else:
            branches = run.replicated(node, distribution)
    forget(distribution)
    if branches.n is None:
        plated = name in run.structure.on_plate
        return branches.values, Weight(branches.score, branches.weights, None, 0, node.in_sequence, plated, branches.control)
    return _placed(run, node, distribution, branches)


def _drawn(node: Node, distribution: Distribution, axes: int, learning: bool) -> Branches:
    """The estimator's branches; what it learns itself is kept out of every surrogate, and let into its own variance."""
    note_parameter(distribution)
    estimator: Any = node.estimator
    draw = estimator.branch_below if axes else estimator.branch
    if learning or not isinstance(estimator, nn.Module):
        branches = _called(node, distribution, draw, axes)
    else:
        with swapped(estimator):
            branches = _called(node, distribution, draw, axes)
    if not isinstance(branches, Branches):
        raise GraphError(
            f"node {node.name!r}: {estimator!r}.branch returned {type(branches).__name__}; an estimator returns scg.Branches(values, …)"
        )
    return branches


def _called(node: Node, distribution: Distribution, draw: Callable[..., Any], axes: int) -> Any:
    """`draw(distribution)`, below `axes` branch axes of ancestors where there are some.

    Where torch cannot draw from the distribution, the error names the node and what the parameters are.
    """
    if torch.compiler.is_compiling():
        return draw(distribution, axes=axes) if axes else draw(distribution)
    try:
        return draw(distribution, axes=axes) if axes else draw(distribution)
    except GraphError:
        raise
    except Exception as error:
        found = ", ".join(f"{tuple(p.shape)} {p.dtype}" for p in parameters(distribution))
        said = f"node {node.name!r}: no sample could be drawn from its {kind(distribution)} (parameters: {found})"
        if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError):
            raise GraphError(
                f"{said}: {error}\nParameters are finite real numbers within the distribution's constraints."
            ) from error
        error.add_note(said)
        raise


def _axes_above(run: Evaluation, node: Node, distribution: Distribution) -> int:
    """How many axes of the distribution's batch, its leftmost, are the branches of ancestors."""
    return max(0, len(distribution.batch_shape) - _rank(run, node))


def _rank(run: Evaluation, node: Node) -> int:
    """Axes of a sample's batch below branching nodes, without branch axes. A node that no weight multiplies may have more."""
    return max(run.axes.inner, run.plan.ranks[node.name] + run.axes.at_once)


def _given(run: Evaluation, node: Node, distribution: Distribution, t: int | None) -> Branches:
    value, recorded = run.given[node.name], run.given.get(f"{node.name}.log_prob")
    if t is not None:
        value, recorded = value[t], None if recorded is None else recorded[t]
    elif node.in_sequence:
        value = run.axes.shared(value, run.plan.missing.get(node.name))
        recorded = None if recorded is None else run.axes.given(recorded)
    if not run.branching:
        return Branches(value)
    if recorded is not None and not torch.compiler.is_compiling():
        batch = value.shape[: value.ndim - len(distribution.event_shape)]
        if recorded.shape != batch:
            raise GraphError(
                f"node {node.name!r}: given['{node.name}.log_prob'] has shape {tuple(recorded.shape)}, the recorded values have "
                f"batch {tuple(batch)}; one would broadcast against the other. Give one log-probability per recorded value"
            )
    try:
        branches = node.estimator.given(distribution, value, recorded)
    except ValueError as error:
        raise GraphError(f"node {node.name!r}: {error}") from error
    if branches.weights is not None and not torch.compiler.is_compiling() and bool((branches.weights == 0).any()):
        impossible(node.name, branches.weights)
    return branches


def _with_time(run: Evaluation, node: Node, distribution: Distribution) -> Distribution:
    """A node drawn for all steps at once needs a draw for each: its distribution grows the axis if it has none."""
    shape, rank = distribution.batch_shape, _rank(run, node)
    assert run.steps is not None
    slots = max(0, len(shape) - rank)
    if len(shape) < rank:
        shape = torch.Size((run.steps, *[1] * (rank - 1 - len(shape)), *shape))
    else:
        shape = torch.Size((*shape[:slots], run.steps, *shape[slots + 1 :]))
    return distribution if shape == distribution.batch_shape else distribution.expand(shape)


def _on_plate(run: Evaluation, name: str, distribution: Distribution, size: int) -> Distribution:
    """K draws along the axis left of the batch; an ancestor that branched has left room for it there."""
    shape = distribution.batch_shape
    if name not in run.plan.ranks:  # the layout is still to be learned
        return distribution if plated(run.structure, name, distribution) else distribution.expand(torch.Size((size, *shape)))
    if len(shape) < run.axes.inner:
        return distribution.expand(torch.Size((size, *shape)))
    room = len(shape) - run.axes.inner
    return distribution.expand(torch.Size((*shape[:room], size, *shape[room + 1 :])))


def plated(structure: Structure, name: str, distribution: Distribution) -> bool:
    """Whether a distribution on the plate has its axis from its parents already; on a plain draw, where nothing branches."""
    shape, node = distribution.batch_shape, structure.nodes[name]
    return any(e.source in structure.on_plate for e in node.parents) and len(shape) > 0 and shape[0] == node.plate


def _placed(run: Evaluation, node: Node, distribution: Distribution, branches: Branches) -> tuple[Any, Weight]:
    """Give the branches their own axis, and room for the axes and batch dimensions that the node does not have."""
    name = node.name
    if branches.weights is not None and name in run.structure.on_plate:
        raise GraphError(
            f"node {name!r}: {node.estimator!r} weighs its branches one by one, but on a plate a branch is all its samples "
            "together.\nUse ScoreFunction(samples=…) or Pathwise(samples=…) there."
        )
    if node.in_sequence:
        fed = run.structure.feeds_prev(name)
        if fed is not None:
            raise GraphError(
                f"node {name!r}: it branches, and {fed!r}, which it reaches, feeds a prev(…), so branches would multiply "
                f"at every step. Use Pruned({node.estimator!r}), which keeps one of them, or one sample and replicates in the batch."
            )
    axis = run.axes.slot.setdefault(name, len(run.axes.slot))
    present = _axes_above(run, node, distribution)
    rank = _rank(run, node)
    missing = rank - (len(distribution.batch_shape) - present)

    def place(x: Tensor) -> Tensor:
        if axis == present and not missing:
            return x
        rest = x.shape[1:]
        return x.reshape(x.shape[0], *[1] * (axis - present), *rest[:present], *[1] * missing, *rest[present:])

    score = None if branches.score is None else place(branches.score)
    weights = None if branches.weights is None else place(branches.weights)
    plated = name in run.structure.on_plate
    return place(branches.values), Weight(score, weights, branches.n, axis, node.in_sequence, plated, branches.control)


def verify(node: Node, distribution: Distribution, branches: Branches) -> None:
    """Hold what an estimator returns against the protocol; weights of another shape would broadcast, and nothing would say so."""
    batch = (*(() if branches.n is None else (branches.n,)), *distribution.batch_shape)
    expected = (*batch, *distribution.event_shape)
    n = "no branch axis" if branches.n is None else f"n={branches.n}"
    if tuple(branches.values.shape) != expected:
        raise GraphError(
            f"node {node.name!r}: {node.estimator!r} returned values of shape {tuple(branches.values.shape)} for {n} and a "
            f"distribution of batch {tuple(distribution.batch_shape)}, event {tuple(distribution.event_shape)}; "
            f"they are [n, *batch, *event] = {expected}"
        )
    for what, tensor in (("weights", branches.weights), ("score", branches.score)):
        if tensor is not None and tuple(tensor.shape) != batch:
            raise GraphError(
                f"node {node.name!r}: {node.estimator!r} returned {what} of shape {tuple(tensor.shape)}; they are [n, *batch] = {batch}"
            )
    if branches.control is not None and tuple(branches.control.shape) != tuple(distribution.batch_shape):
        raise GraphError(
            f"node {node.name!r}: {node.estimator!r} returned control of shape {tuple(branches.control.shape)}; it is [*batch] = "
            f"{tuple(distribution.batch_shape)}"
        )
    if branches.score is not None and bool((branches.score != 0).any()) and bool(torch.isfinite(branches.score).all()):
        raise GraphError(
            f"node {node.name!r}: {node.estimator!r} returned a score that is not 0 in value; it is log p − sg log p. "
            "Weights of other values go into weights="
        )


def other_branches(node: Node, n: int | None, here: str, other: int | None, there: str) -> NoReturn:
    """Refuse branches that are not the same at all steps, or for all objectives: nothing says which of them belong together."""
    raise GraphError(
        f"node {node.name!r}: {node.estimator!r} draws other samples ({n or 1} of them) {here} than {there} ({other or 1}): it draws "
        "for the parameters that require a gradient, and these are not the same. Let them require one everywhere (pass an initial "
        "value that does, drop trains=), or use ScoreFunction() or LeaveOneOut(samples=2)."
    )


def plain(node: Node, distribution: Distribution) -> Branches:
    """One sample without an axis, differentiable where the estimator's path is; for examining the graph."""
    if node.estimator.moves and has_rsample(distribution):
        return Branches(_called(node, distribution, methodcaller("rsample"), 0))
    return Branches(_called(node, distribution, methodcaller("sample"), 0))
