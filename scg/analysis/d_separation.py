"""A graph lifted over time, and what it says of independence: Pearl's d-separation.

A node of the sequence is there once a step, a node outside once, with an arrow to each step that it reaches. Functions
count as random variables: what separates does so whatever they compute.

Weber et al. (2019), definitions 3 to 6; Pearl (1988).
"""

from __future__ import annotations

import itertools

from scg.analysis.structure import Structure

Vertex = tuple[str, int]
PAST, FUTURE = 2, 3  # steps on either side of x: arrows span one step, so what a longer horizon adds it has shown by then


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


def missed(structure: Structure, node: str, critic: str, replaces: bool) -> tuple[str, ...]:
    """What a critic of `node` ought to be a function of, and is not: stochastic and observed nodes, nearest last.

    With L the costs downstream of x and S what the critic reads:

        a value, which stands in for costs beyond the record     L ⊥ anc(x) | S
        a Q-critic, which replaces the cost-to-go (`replaces`)   L ⊥ (x, anc(x)) | S
    """
    lifted, x = Lifted(structure), (node, 0)
    costs = {c for c in lifted.below(x) if structure.nodes[c[0]].kind == "cost"}
    read = {(critic, 0)} | {
        (e.source, -e.lag if structure.nodes[e.source].in_sequence else 0)
        for e in structure.nodes[critic].parents
        if e.source in structure.nodes
    }
    for edge in (e for e in structure.nodes[critic].parents if e.prefix):
        read |= {(edge.source, -lag) for lag in range(edge.lag, PAST + 1)}
    read &= set(lifted.vertices)
    before = lifted.above({x}) - ({x} if not replaces else set())
    sources = [v for v in lifted.vertices if v in before - read and structure.nodes[v[0]].kind in ("stochastic", "observed")]
    found = [v[0] for v in sources if not lifted.separated({v}, costs - read, read)]
    return tuple(dict.fromkeys(found))
