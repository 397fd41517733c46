"""What a baseline or a critic of a node may be a function of.

With L the sum of the costs downstream of x, and pa(x) what its distribution is made from:

    baseline   any set of what x does not influence                                E[b ∇log p(x)] = 0
    critic     any set C with  L ⊥ (x, pa(x)) | C                                  E[L|C] may replace L       (Q)
    value      any set S of what x does not influence with  L ⊥ anc(x) | S         E[L|S] may stand in for L  (V)
               in the credit of an earlier node, as a bootstrap does

Independence is d-separation in the graph lifted over time: a node of the sequence once a step, a node outside once, with
an arrow to each step that it reaches. Functions count as random variables, so a listed set is valid, and a set
that is valid only for what the functions happen to compute is not listed. Only minimal sets are; what is added to one
may open another way (a common effect of two causes), except that x and pa(x) together may take in anything.

Weber et al. (2019), definitions 3 to 6 (baseline, critic and Markov sets); Pearl (1988), d-separation.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from scg.analysis import Structure
from scg.errors import GraphError, nearest
from scg.graph import Graph
from scg.scan import INFINITE

Vertex = tuple[str, int]
PAST, FUTURE = 2, 3  # steps on either side of x: arrows span one step, so what a longer horizon adds it has shown by then


@dataclass(frozen=True)
class Conditioning:
    """`baseline`: pairs of a node and the latest step, counted from x's own, at which it may be read: 0 this one, -1 the
    previous, inf any. `critics` and `values`: minimal sets; a name with `prev(…)` is the previous step's."""

    node: str
    baseline: tuple[tuple[str, float], ...]
    critics: tuple[frozenset[str], ...]
    values: tuple[frozenset[str], ...]

    def __str__(self) -> str:
        lines = [f"node {self.node!r}"]
        when = {INFINITE: "at any step", 0: "up to this step", -1: "up to the previous step"}
        for latest in sorted({latest for _, latest in self.baseline}, reverse=True):
            names = ", ".join(name for name, at in self.baseline if at == latest)
            lines.append(f"  baseline of {when.get(latest, f'up to {latest:+.0f} steps')}: {names}")
        for what, sets in (("critic Q", self.critics), ("value V", self.values)):
            shown = " or ".join("{" + ", ".join(sorted(s)) + "}" for s in sets) or "none of the named nodes suffices"
            lines.append(f"  {what} of at least: {shown}")
        return "\n".join(lines)


def valid_conditioning_sets(graph: Graph, node: str, largest: int = 4) -> Conditioning:
    """What the baselines and critics of a stochastic node may be functions of; sets of up to `largest` nodes."""
    structure = graph.structure
    if node not in structure.stochastic:
        raise GraphError(f"valid_conditioning_sets: {node!r} is no stochastic node.{nearest(node, structure.stochastic)}")
    if not any(structure.window(node, cost) for cost in structure.costs):
        raise GraphError(f"valid_conditioning_sets: no cost is downstream of node {node!r}")
    lifted = Lifted(structure)
    x = (node, 0)
    costs = {c for c in lifted.below(x) if structure.nodes[c[0]].kind == "cost"}
    parents, past = lifted.into[x], lifted.above({x}) - {x}
    informative = lifted.above(costs) - costs
    readable = [v for v in lifted.vertices if v in informative and -1 <= v[1] <= 0 and not structure.nodes[v[0]].hidden]
    sources = {x, *parents}
    critics = lifted.separators(sources, costs, readable, largest)
    values = lifted.separators(past, costs, [v for v in readable if v != x and v not in lifted.below(x)], largest)
    return Conditioning(
        node,
        tuple(_baseline(structure, node)),
        tuple(frozenset(map(_word, s)) for s in critics),
        tuple(frozenset(map(_word, s)) for s in values),
    )


def _baseline(structure: Structure, node: str) -> Iterator[tuple[str, float]]:
    """What `node` does not influence: all of it, or the steps before its influence begins."""
    for other in structure.nodes.values():
        if other.hidden or other.kind == "cost":
            continue
        window = structure.window(node, other.name)
        if other.name == node:
            if other.in_sequence:
                yield node, -1
        elif window is None:
            yield other.name, INFINITE
        elif other.in_sequence and structure.nodes[node].in_sequence:
            yield other.name, window.lo - 1


def _word(vertex: Vertex) -> str:
    return vertex[0] if vertex[1] == 0 else f"prev({vertex[0]})"


class Lifted:
    """A graph unrolled over the steps around one node. Nodes outside the sequence have step 0."""

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        inside = {n.name: n.in_sequence for n in structure.nodes.values()}
        steps = range(-PAST, FUTURE + 1) if any(inside.values()) else range(1)
        self.vertices: list[Vertex] = [(n, t) for t in steps for n in structure.order if inside[n] or t == 0]
        self.into: dict[Vertex, set[Vertex]] = {v: set() for v in self.vertices}
        self.out: dict[Vertex, set[Vertex]] = {v: set() for v in self.vertices}
        for arrow in structure.arrows:
            for t in steps:
                # An outer node reaches every step; one that reads the sequence reads its last step.
                source = (arrow.source, t - arrow.lag if inside[arrow.source] else 0)
                target = (arrow.target, t if inside[arrow.target] else 0)
                if inside[arrow.source] and not inside[arrow.target] and t != steps[-1]:
                    continue
                if source in self.into and target in self.into:
                    self.into[target].add(source)
                    self.out[source].add(target)

    def above(self, of: set[Vertex]) -> set[Vertex]:
        """`of` and its ancestors."""
        return _closure(of, self.into)

    def below(self, of: Vertex) -> set[Vertex]:
        """What `of` influences."""
        return _closure({of}, self.out) - {of}

    def separated(self, sources: set[Vertex], targets: set[Vertex], given: set[Vertex]) -> bool:
        """Whether `given` d-separates sources from targets: no active trail, a ball rolled along all of them."""
        opened = self.above(given)  # a collider is open where it, or something below it, is given
        queue = [(s, False) for s in sources - given]
        seen: set[tuple[Vertex, bool]] = set()
        while queue:
            vertex, from_parent = here = queue.pop()
            if here in seen:
                continue
            seen.add(here)
            if vertex not in given:
                if vertex in targets:
                    return False
                queue += [(v, True) for v in self.out[vertex]]
            if (from_parent and vertex in opened) or (not from_parent and vertex not in given):
                queue += [(v, False) for v in self.into[vertex]]
        return True

    def separators(
        self, sources: set[Vertex], targets: set[Vertex], candidates: list[Vertex], largest: int
    ) -> list[frozenset[Vertex]]:
        """The minimal sets of candidates that separate sources from targets, small ones first."""
        found: list[frozenset[Vertex]] = []
        for size in range(min(largest, len(candidates)) + 1):
            for chosen in itertools.combinations(candidates, size):
                given = frozenset(chosen)
                if not any(smaller <= given for smaller in found) and self.separated(sources, targets, set(given)):
                    found.append(given)
        return found


def _closure(of: set[Vertex], arrows: dict[Vertex, set[Vertex]]) -> set[Vertex]:
    seen, queue = set(of), list(of)
    while queue:
        for vertex in arrows[queue.pop()]:
            if vertex not in seen:
                seen.add(vertex)
                queue.append(vertex)
    return seen
