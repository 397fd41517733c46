"""Independent derivative estimates, as many at a time as the graph's functions allow.

A gradient is linear in the surrogate, so the gradient of a surrogate whose batch holds R replicates is the mean of R
independent gradients: one call of autograd. Replicates come from every stochastic node's distribution expanded by a
leading batch axis; they are used only after a trial in which replaying each replicate alone gave the same mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from scg.estimator import ScoreFunction
from scg.graph import Graph
from scg.node import Node
from scg.randomness import randomness
from scg.testing.parameters import Parameters

REPLICATES = 4096
ELEMENTS = 2**17  # numbers in all sampled values of one call
LOOPED = 16  # draws to an observation where each needs a call of its own
VECTORISED_MOST, LOOPED_MOST = 2**24, 2**15


@dataclass(frozen=True)
class Draws:
    """`take(k)`: k independent observations `[k, entries]`, each the mean of `per_row` draws.

    most   a default limit
    slow   why each draw takes a call, where that can be mended; in words
    """

    take: Callable[[int], Tensor]
    per_row: int
    most: int
    slow: str = ""


def of_callable(draw: Callable[..., Tensor], parameters: Parameters, order: int, generator: torch.Generator) -> Draws:
    """`draw(inputs)` gives a scalar surrogate, or a vector of independent ones."""
    with randomness(generator):
        first = draw(parameters.inputs)
    if not isinstance(first, Tensor) or first.ndim > 1:
        found = f"shape {tuple(first.shape)}" if isinstance(first, Tensor) else type(first).__name__
        raise ValueError(f"draw(inputs) must return a scalar surrogate or a vector of independent ones, got {found}")
    together = first.numel() if first.ndim else 1
    calls = 1 if together >= LOOPED else LOOPED
    take = _rows(lambda: draw(parameters.inputs).mean(), parameters, order, generator, calls)
    slow = (
        ""
        if first.ndim
        else "draw(inputs) returns one number, so each call is one draw: return a vector of independent surrogates, one for each "
        "batch element, and a call is as many draws."
    )
    return Draws(take, together * calls, VECTORISED_MOST if together > LOOPED else LOOPED_MOST, slow)


def of_graph(
    graph: Graph,
    parameters: Parameters,
    order: int,
    generator: torch.Generator,
    steps: int | None,
    given: Callable[[], Mapping[str, Any]] | None,
    vectorise: bool,
) -> Draws:
    """Draws of the graph's own surrogate; `given()` supplies a fresh recording for each."""
    if given is not None:

        def surrogate() -> Tensor:
            recording = dict(given())
            extra = {k: v for k, v in recording.items() if k not in graph.nodes and "." not in k}
            nodes = {k: v for k, v in recording.items() if k not in extra}
            return graph.replay(nodes, steps=steps, **{**parameters.inputs, **extra}).surrogate()

        return Draws(_rows(surrogate, parameters, order, generator, LOOPED), LOOPED, LOOPED_MOST)
    with randomness(generator):
        graph.surrogate(steps=steps, **parameters.inputs)  # what is wrong with the graph is said here, unwrapped
    replicated = replicate(graph, parameters, steps, generator) if vectorise else None
    if replicated is None:
        single = partial(graph.surrogate, steps=steps, **parameters.inputs)
        slow = _scalar_cost(graph, parameters, steps, generator)
        return Draws(_rows(single, parameters, order, generator, LOOPED), LOOPED, LOOPED_MOST, slow)
    many, inputs, replicates = replicated
    take = _rows(partial(many.surrogate, steps=steps, **inputs), parameters, order, generator, 1)
    return Draws(take, replicates, VECTORISED_MOST)


def _scalar_cost(graph: Graph, parameters: Parameters, steps: int | None, generator: torch.Generator) -> str:
    """A cost that is one number for a whole batch of samples."""
    from scg.testing.localise import drawn

    distributions = drawn(graph, parameters, steps)
    with randomness(generator), torch.no_grad():
        trace = graph.sample(steps=steps, **parameters.inputs)
    for cost in graph.structure.costs:
        if graph.nodes[cost].in_sequence or trace[cost].ndim:
            continue
        for influence in graph.structure.influences(cost):
            name = influence.node
            if name in distributions and distributions[name].batch_shape and not graph.nodes[name].in_sequence:
                return (
                    f"cost {cost!r} returns one number for all of {name!r}, whose batch shape is "
                    f"{tuple(distributions[name].batch_shape)}, so each call is one draw: return a vector, one cost for each batch "
                    "element. The surrogate is their mean anyway, and each of them counts as a draw."
                )
    return ""


def _rows(
    surrogate: Callable[[], Tensor], parameters: Parameters, order: int, generator: torch.Generator, calls: int
) -> Callable[[int], Tensor]:
    def take(count: int) -> Tensor:
        with randomness(generator):
            rows = [
                sum((parameters.derivative(surrogate(), order) for _ in range(calls)), torch.zeros(())) / calls
                for _ in range(count)
            ]
        return torch.stack(rows)

    return take


# -- replicates --------------------------------------------------------------------------------------------


def replicate(
    graph: Graph, parameters: Parameters, steps: int | None, generator: torch.Generator
) -> tuple[Graph, dict[str, Any], int] | None:
    """The graph with R replicates in its batch, its inputs, and R; None where its functions do not allow it."""
    try:
        with randomness(generator):
            trace = graph.sample(steps=steps, **parameters.inputs)
        batch, ranks = trace.plan.batch_rank, trace.plan.ranks
        numbers = sum(_numel(trace[name]) for name in graph.structure.stochastic)
        replicates = max(LOOPED, min(REPLICATES, ELEMENTS // max(numbers, 1)))
        for count in (3, replicates):
            many = Graph()
            many.first = graph.first
            many.nodes = {name: _replicated(node, count, batch, ranks) for name, node in graph.nodes.items()}
            inputs = _replicated_inputs(graph, parameters.inputs, count, trace.plan.value_ranks)
            if count == 3 and not _faithful(graph, many, parameters, inputs, steps, generator):
                return None
        with randomness(generator):
            many.surrogate(steps=steps, **inputs)
    except Exception:  # whatever its functions or distributions cannot do along one more axis, single draws can
        return None
    return many, inputs, replicates


def _numel(value: Any) -> int:
    return value.numel() if isinstance(value, Tensor) else 1


def _replicated(node: Node, count: int, batch: int, ranks: Mapping[str, int]) -> Node:
    if node.kind != "stochastic" or node.fn is None:
        return node
    return replace(node, fn=partial(_expanded, node.fn, count, max(batch, ranks[node.name])))


def _expanded(fn: Callable[..., Distribution], count: int, rank: int, *args: Any, **kwargs: Any) -> Distribution:
    """The distribution with replicates on the axis before the batch's `rank` axes."""
    distribution = fn(*args, **kwargs)
    shape = distribution.batch_shape
    if len(shape) <= rank:
        return distribution.expand(torch.Size((count, *[1] * (rank - len(shape)), *shape)))
    if shape[-rank - 1] == count:
        return distribution
    return distribution.expand(torch.Size((*shape[: -rank - 1], count, *shape[len(shape) - rank :])))


def _replicated_inputs(graph: Graph, inputs: Mapping[str, Any], count: int, ranks: Mapping[str, int]) -> dict[str, Any]:
    """Initial states carry the replicates from the first step on; observed values make room for them."""
    found = dict(inputs)
    for node in graph.nodes.values():
        for edge in node.parents:
            value = inputs.get(edge.init) if edge.init else None
            if isinstance(value, Tensor) and found[edge.init] is value:  # type: ignore[index]
                missing = max(0, ranks.get(edge.source, value.ndim) + edge.prefix - value.ndim)
                shape = (*[1] * missing, *value.shape)
                found[edge.init] = value.reshape(shape).expand(count, *shape)  # type: ignore[index]
    for name, value in inputs.items():
        if name in graph.nodes and graph.nodes[name].in_sequence and isinstance(value, Tensor):
            found[name] = value.unsqueeze(1)
    return found


class _Replayed(ScoreFunction):
    """The score function at any distribution: only to compare two evaluations of the same samples."""

    def refuses(self, distribution: Distribution) -> str | None:
        return None


def _faithful(
    graph: Graph,
    many: Graph,
    parameters: Parameters,
    inputs: dict[str, Any],
    steps: int | None,
    generator: torch.Generator,
) -> bool:
    """Three replicates at once, and each of them replayed alone, give the same gradient."""
    plain = dict.fromkeys(graph.structure.stochastic, _Replayed())
    alone, together = graph.with_estimators(**plain), many.with_estimators(**plain)
    with randomness(generator):
        shapes = alone.sample(steps=steps, **parameters.inputs)
        trace = together.sample(steps=steps, **inputs)
    mean = parameters.derivative(trace.surrogate(), retain=True)
    each = []
    for r in range(3):
        given = {}
        for name in graph.structure.stochastic:
            value = trace[name][:, r] if graph.nodes[name].in_sequence else trace[name][r]
            given[name] = value.detach().reshape(shapes[name].shape)
        each.append(parameters.derivative(alone.replay(given, steps=steps, **parameters.inputs).surrogate()))
    stacked = torch.stack(each)
    return bool((mean - stacked.mean(0)).abs().max() <= 1e4 * parameters.epsilon * stacked.abs().max())
