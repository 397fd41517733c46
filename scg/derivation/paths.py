"""The paths along which a gradient flows: from a parameter, through values, to a distribution or a cost.

A value carries a gradient where it is deterministic, or a sample that its estimator differentiates (pathwise). It
does not where a `detach` edge cuts it, at an observed node, and at a sample whose estimator differentiates its weight.
What depends on itself through time has infinitely many paths: there the path ends in a total derivative,
dh_t/dθ, which is given by its recursion. So it does where paths would be too many to read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from scg.derivation.notation import LAST, Symbol, Time
from scg.draw.labels import ParameterNames
from scg.node import Edge, Node

MANY = 8


@dataclass(frozen=True)
class Vertex:
    """The value of a node, or its distribution's parameters, with what it is conditioned on or, `conditional`, without."""

    name: str
    what: Literal["value", "dist", "conditional"] = "value"


@dataclass(frozen=True)
class Factor:
    """One derivative of a product: ∂of/∂by, or d of/d by where `total`. `first` marks an initial step's factor."""

    of: Symbol
    by: Symbol
    total: bool = False
    first: Time | None = None


@dataclass(frozen=True)
class Path:
    """A product of derivatives from a parameter on. `through` names the nodes passed, the last one included."""

    factors: tuple[Factor, ...]
    through: tuple[str, ...]
    sampled: bool = False


@dataclass(frozen=True)
class Step:
    """One edge of the differentiated graph, into a vertex."""

    source: Vertex | None
    edge: Edge | None = None
    initial: bool = False


class Flow:
    """The differentiated graph, seen from one parameter."""

    def __init__(self, nodes: Mapping[str, Node], parameter: str, named: ParameterNames, symbol: Symbol) -> None:
        self.nodes, self.parameter, self.named, self.symbol = nodes, parameter, named, symbol
        self.totals: dict[Vertex, None] = {}
        self._below: dict[Vertex, frozenset[Vertex]] = {}

    def steps(self, vertex: Vertex) -> Iterator[Step]:
        """What the vertex is differentiated by: the parameter itself, or vertices that may depend on it."""
        node = self.nodes[vertex.name]
        if node.kind == "observed":
            return
        if any(self.named.of(thing) == self.parameter for thing in self.named.read_by(node)):
            yield Step(None)
        for edge in node.parents:
            held = vertex.what == "conditional" and edge.source in self.nodes
            if held or (edge.detached and not edge.conditional):
                continue
            yield from self._step(edge, edge.source, initial=False)
            if edge.init is not None:
                yield from self._step(edge, edge.init, initial=True)

    def _step(self, edge: Edge, name: str, initial: bool) -> Iterator[Step]:
        node = self.nodes.get(name)
        if node is None:
            if name == self.parameter:
                yield Step(None, edge, initial)
        elif edge.dist:
            yield Step(Vertex(name, "conditional" if edge.conditional else "dist"), edge)
        elif node.kind in ("deterministic", "cost") or (node.kind == "stochastic" and node.estimator.moves):
            yield Step(Vertex(name), edge, initial)

    def reaches(self, vertex: Vertex) -> bool:
        """Whether the vertex depends on the parameter."""
        return any(step.source is None for v in (vertex, *self.below(vertex)) for step in self.steps(v))

    def below(self, vertex: Vertex) -> frozenset[Vertex]:
        """Every vertex that this one is made from; itself where it recurs."""
        if vertex not in self._below:
            seen: set[Vertex] = set()
            queue = [vertex]
            while queue:
                new = {s.source for s in self.steps(queue.pop()) if s.source is not None} - seen
                seen |= new
                queue += new
            self._below[vertex] = frozenset(seen)
        return self._below[vertex]

    def paths(self, vertex: Vertex, time: Time | None) -> list[Path]:
        """Every path into the vertex at a time, each as the product of its derivatives."""
        found = []
        for step in self.steps(vertex):
            target = self.at(vertex, time)
            first = time if step.initial else None
            if step.source is None:
                found.append(Path((Factor(target, self.symbol, first=first),), (vertex.name,)))
                continue
            if not self.reaches(step.source):
                continue
            assert step.edge is not None
            then = self._time(step, time)
            last = Factor(target, self.at(step.source, then), first=first)
            sampled = step.source.what == "value" and self.nodes[step.source.name].kind == "stochastic"
            if step.source in self.below(step.source) or self.count(step.source) > MANY:
                self.totals[step.source] = None
                total = Factor(self.at(step.source, then), self.symbol, total=True)
                found.append(Path((total, last), (step.source.name, vertex.name), sampled or self._sampled(step.source)))
                continue
            for path in self.paths(step.source, then):
                through = (*path.through, vertex.name)
                found.append(Path((*path.factors, last), through, path.sampled or sampled))
        return found

    def count(self, vertex: Vertex) -> int:
        """How many paths lead into a vertex that does not recur; recurrent ones below it count as one."""
        total = 0
        for step in self.steps(vertex):
            if step.source is None:
                total += 1
            elif self.reaches(step.source):
                total += 1 if step.source in self.below(step.source) else self.count(step.source)
            if total > MANY:
                return total
        return total

    def _sampled(self, vertex: Vertex) -> bool:
        return any(
            v.what == "value" and self.nodes[v.name].kind == "stochastic" and self.reaches(v) for v in self.below(vertex)
        )

    def _time(self, step: Step, time: Time | None) -> Time | None:
        assert step.source is not None
        assert step.edge is not None
        if not self.nodes[step.source.name].in_sequence:
            return None
        return LAST if time is None else time - step.edge.lag

    def at(self, vertex: Vertex, time: Time | None) -> Symbol:
        return Symbol(vertex.name, time, "" if vertex.what == "value" else "p")
