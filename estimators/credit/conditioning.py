"""The sets of nodes that a baseline or a critic of a node may be a function of.

With L the sum of the costs downstream of x, and pa(x) what its distribution is made from:

    baseline   any set of what x does not influence                                E[b ∇log p(x)] = 0
    critic     any set C with  L ⊥ (x, pa(x)) | C                                  E[L|C] may replace L       (Q)
    value      any set S of what x does not influence with  L ⊥ anc(x) | S         E[L|S] may stand in for L  (V)
               in the credit of an earlier node, as a bootstrap does

Independence is d-separation in the graph lifted over time: a node of the sequence once a step, a node outside once, with
an arrow to each step that it reaches. Functions count as random variables, so every listed set is valid, and a set that is
valid only for particular functions is not listed. Only minimal sets are listed: adding a node to one may open another path
(a common effect of two causes), except that any node may be added to x and pa(x) together.

Weber et al. (2019), definitions 3 to 6 (baseline, critic and Markov sets); Pearl (1988), d-separation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from scg.analysis.d_separation import Lifted, Vertex
from scg.analysis.structure import Structure
from scg.errors import GraphError, nearest
from scg.graph import Graph
from scg.scan import INFINITE


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
    if not structure.is_a("stochastic", node):
        raise GraphError(f"valid_conditioning_sets: {node!r} is no stochastic node.{nearest(node, structure.stochastic)}")
    if not structure.counts(node):
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
