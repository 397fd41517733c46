"""What a choice's mean gradient is held against, and how far that may itself be off.

exact               the sum over all outcomes, or quadrature to 1e-6 of the largest entry
finite difference   where there are few parameters: its error bound and standard error
draws               many draws of a graph whose compared nodes have the core's primitives: Pathwise where it is accepted,
                    else ScoreFunction; where neither is, of the compared choice of least variance that declares itself unbiased
given               numbers of the caller's own
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scg.comparison.measurement import Clock, Measurement
from scg.comparison.parameters import Parameters
from scg.comparison.seeds import seed_of
from scg.draw.labels import brief
from scg.errors import GraphError
from scg.estimator import Pathwise, ScoreFunction
from scg.graph import Graph

TOLERANCE = 1e-6
FEW = 4  # parameters up to which finite differences take seconds
ENOUGH = 64  # draws that make a reference
KINDS = ("exact", "finite_difference", "draws")


@dataclass(frozen=True)
class Reference:
    """A gradient as a flat vector, a bound of its deterministic error, and its standard error.

    `unseen`, of a probability: how much of each entry lies in outcomes that are together no more probable than that.
    """

    kind: str
    value: Tensor
    error: Tensor
    se: Tensor
    unseen: Callable[[float], Tensor] | None = None


def known(graph: Graph, parameters: Parameters, steps: int | None, seed: int, wish: Any) -> Reference | None:
    """The caller's, the exact one, or finite differences; None where draws have to do. `wish`: one of KINDS, numbers, None."""
    if isinstance(wish, Reference):
        return wish
    if isinstance(wish, (Tensor, Mapping)):
        return _given(parameters, wish)
    if wish not in (None, *KINDS):
        raise GraphError(f"reference={wish!r}: {', '.join(map(repr, KINDS))}, a tensor, or tensors by name")
    for kind, find in (("exact", _exact), ("finite_difference", _difference)):
        if wish == kind:
            return find(graph, parameters, steps, seed)
        if wish is None and (kind == "exact" or parameters.size <= FEW):
            try:
                return find(graph, parameters, steps, seed)
            except (ValueError, RuntimeError, NotImplementedError):  # no oracle for this graph: the next one
                continue
    return None


def _given(parameters: Parameters, wish: Tensor | Mapping[str, Tensor]) -> Reference:
    names = list(parameters.tensors)
    if isinstance(wish, Tensor):
        if len(names) > 1:
            raise GraphError(f"reference: one tensor for the parameters {', '.join(names)}; pass them by name")
        wish = {names[0]: wish}
    parts = []
    for name, tensor in parameters.tensors.items():
        value = wish.get(name)
        if value is None or tuple(value.shape) != tuple(tensor.shape):
            found = "missing" if value is None else f"of shape {tuple(value.shape)}"
            raise GraphError(
                f"reference: the gradient for {name!r} is {found}; it has the parameter's shape {tuple(tensor.shape)}"
            )
        parts.append(value.detach().double().flatten())
    flat = torch.cat(parts)
    return Reference("given", flat, torch.zeros_like(flat), torch.zeros_like(flat))


def _exact(graph: Graph, parameters: Parameters, steps: int | None, seed: int) -> Reference:
    from scg.testing.oracle import NoOracle, exact
    from scg.testing.parameters import Parameters as Entries

    found = exact(graph, Entries(parameters.inputs, parameters.tensors), 1, steps)
    scale = float(found.exact.abs().max())
    bound = max(TOLERANCE, 256 * parameters.epsilon) * scale
    if not float(found.error.max()) <= max(bound, TOLERANCE * 1e-12):
        raise NoOracle(
            f"the exact gradient is only good to {float(found.error.max()):.2g}, beside a largest entry of {scale:.3g}"
        )
    value = found.exact
    return Reference("exact", value, torch.full_like(value, bound), torch.zeros_like(value), found.unseen)


def _difference(graph: Graph, parameters: Parameters, steps: int | None, seed: int) -> Reference:
    from scg.testing.differences import difference
    from scg.testing.parameters import Parameters as Entries

    found = difference(graph, Entries(parameters.inputs, parameters.tensors), 1, steps, seed=seed, target=0.01)
    return Reference(found.kind, found.exact, found.error, found.se, found.unseen)


def primitive(graph: Graph, nodes: Sequence[str], parameters: Parameters, steps: int | None) -> Measurement | None:
    """A meter of the graph with the core's primitives at the compared nodes and at biased ones, and without credits and
    baselines, which the objective knows nothing of; None where a node refuses both primitives."""
    plain = Graph()
    plain.first = graph.first
    plain.nodes = {name: replace(node, credit=None, baseline=None) for name, node in graph.nodes.items()}
    biased = [n.name for n in graph.nodes.values() if n.kind == "stochastic" and not n.estimator.unbiased]
    names = list(dict.fromkeys([*nodes, *biased]))
    plain = plain.with_estimators(**dict.fromkeys(names, ScoreFunction()))
    for name in names:
        for estimator in (Pathwise(), ScoreFunction(samples=8), ScoreFunction()):
            candidate = plain.with_estimators(**{name: estimator})
            try:
                candidate.surrogate(steps=steps, **parameters.inputs)
            except (GraphError, RuntimeError):
                continue
            plain = candidate
            break
        else:
            return None
    label = ", ".join(f"{n}={brief(plain.nodes[n].estimator)}" for n in names)
    return Measurement(label, {}, plain, parameters, steps)


def sampled(meter: Measurement, draws: int, seed: int, clock: Clock, budget: float | None) -> tuple[Reference | None, bool]:
    """The mean of many draws of one unbiased choice, on seeds of its own; and whether a hand stopped it. None: too early."""
    fresh = Measurement(meter.label, meter.estimators, meter.graph, meter.parameters, meter.steps)
    interrupted = False
    try:
        start = clock()
        for r in range(draws):
            if budget is not None and r >= ENOUGH and clock() - start > budget:
                break
            fresh.add(*fresh.draw(seed_of(seed, "reference", r), clock))
    except KeyboardInterrupt:
        interrupted = True
    if fresh.count < ENOUGH:
        return None, interrupted
    moments = fresh.moments
    kind = f"{moments.count:,} draws of {meter.label}"
    return Reference(kind, moments.mean, torch.zeros_like(moments.mean), moments.se), interrupted
