"""What a picture of a graph shows, whoever draws it.

    square    deterministic node            plain text   input (a parameter, data)
    circle    stochastic node               shaded       observed: its value is given, never computed
    diamond   cost or reward                grey dotted  baseline, credit or critic of a node: no part of the computation

    solid     the value                     p(·)         the distribution instead of the sample
    dashed    the value without gradient    t−1, t=1     the previous step's value; its initial value

Shapes after Schulman et al. (2015), "Gradient estimation using stochastic computation graphs"; shading and plates
after Bishop (2006), chapter 8. Nodes of the sequence lie on a plate `t = 1…T`; what is read from its last step
carries `t=T`. Below a name stand the estimator, the credit and the baseline, or what a cost trains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from scg.draw.labels import ParameterNames, notes
from scg.node import Edge, Node

if TYPE_CHECKING:  # as `draw` itself
    from scg.graph import Graph

PLATE = "t = 1…T"
ShapeKind = Literal["input", "deterministic", "stochastic", "cost", "observed", "aside"]
Reading = Literal["value", "dist", "prev", "aside"]


@dataclass(frozen=True)
class Mark:
    """One shape. `name` is unique; `title` and `notes` are what is written in it."""

    name: str
    title: str
    kind: ShapeKind
    notes: tuple[str, ...] = ()
    on_plate: bool = False


@dataclass(frozen=True)
class Line:
    """One arrow. `detached` ones are dashed. `forward` ones run in the picture's direction, the others return."""

    source: str
    target: str
    reading: Reading
    label: str = ""
    detached: bool = False
    forward: bool = True


@dataclass(frozen=True)
class Picture:
    marks: tuple[Mark, ...]
    lines: tuple[Line, ...]

    @property
    def plate(self) -> tuple[Mark, ...]:
        return tuple(m for m in self.marks if m.on_plate)


def picture_of(graph: Graph) -> Picture:
    """The marks and lines of a graph. Asks for no analysis, so a graph that is wrong can be looked at, too."""
    nodes = graph.nodes
    named = ParameterNames(nodes)
    marks = {name: _mark(node, graph.first, named) for name, node in nodes.items()}
    lines: list[Line] = []
    for node in nodes.values():
        for edge in node.parents:
            for source in filter(None, (edge.source, edge.init)):
                if source not in marks:
                    marks[source] = Mark(source, source, "input", ("optional",) if edge.optional else ())
            lines += _lines(edge, node, nodes.get(edge.source))
        lines += _asides(node, nodes)
    inputs = [m for m in marks.values() if m.name not in nodes]
    return Picture((*inputs, *(m for m in marks.values() if m.name in nodes)), tuple(_once(lines)))


def _mark(node: Node, first: str | None, named: ParameterNames) -> Mark:
    lines = notes(node)
    if node.hidden:
        what = node.name.rpartition(".")[2]
        own = getattr(node.fn, "__name__", "<lambda>")
        return Mark(node.name, what, "aside", () if own.startswith("<") else (own,), node.in_sequence)
    if node.kind == "cost" and node.trains is not None:
        lines = (*lines, f"trains {named.trained(node)}")
    if node.name == first:
        lines = ("opens an episode",)
    return Mark(node.name, node.name, node.kind, lines, node.in_sequence)


def _lines(edge: Edge, node: Node, source: Node | None) -> Iterator[Line]:
    reading: Reading = "aside" if node.hidden else "dist" if edge.dist else "prev" if edge.lag else "value"
    label = "p(·)" if edge.dist else "<t" if edge.prefix and edge.lag else "≤T" if edge.prefix else "t−1" if edge.lag else ""
    if source is not None and source.in_sequence and not node.in_sequence and not edge.prefix:
        label = f"{label}, t=T" if label else "t=T"
    yield Line(edge.source, node.name, reading, label, edge.detached, forward=not edge.lag)
    if edge.init is not None:
        yield Line(edge.init, node.name, "aside" if node.hidden else "value", "" if edge.prefix else "t=1", edge.detached)


def _asides(node: Node, nodes: Mapping[str, Node]) -> Iterator[Line]:
    """Grey lines from what a node's score is multiplied with; forward where it can be known before the sample."""
    named = [(what, level) for what, level in (("credit", node.credit), ("baseline", node.baseline)) if isinstance(level, str)]
    for what, source in [*named, *(("critic", critic) for critic in getattr(node.credit, "critics", ()))]:
        if source in nodes:
            own = source == f"{node.name}.{what}"
            yield Line(source, node.name, "aside", "" if own else what, forward=not _reads(source, node.name, nodes))


def _reads(name: str, other: str, nodes: Mapping[str, Node]) -> bool:
    """Whether `name` depends on `other` within a step."""
    seen, queue = {name}, [name]
    while queue:
        node = nodes.get(queue.pop())
        new = {e.source for e in node.parents if not e.lag} - seen if node else set()
        seen |= new
        queue += new
    return other in seen


def _once(lines: list[Line]) -> Iterator[Line]:
    """Two parameters may read the same thing in the same way: one arrow."""
    yield from dict.fromkeys(lines)
