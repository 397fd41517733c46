"""From declared nodes to a checked order and to arrows: what is wrong with an edge is said here, at the first use of a graph.

    check_edges    what no value could repair: an unknown name, a `prev` without a first value, a prefix where it has no meaning
    topological    every node after all it needs within its step; an error that names the cycle
    arrows         each edge as an influence `source → target` at a lag, for `reach.py` and `lags.py`

Linear in the number of edges; once a graph.
"""

from __future__ import annotations

from scg.analysis.lags import Arrow
from scg.errors import GraphError, nearest
from scg.node import Edge, Node


def check_edges(nodes: dict[str, Node], first: str | None) -> None:
    """Raise GraphError at the first edge, baseline or credit that names what it cannot name."""
    if first is not None and (first not in nodes or nodes[first].kind != "observed"):
        raise GraphError(
            f"sequence(first={first!r}): declare it inside the sequence as graph.observed({first!r})" + nearest(first, nodes)
        )
    for node in nodes.values():
        for edge in node.parents:
            source = nodes.get(edge.source)
            if edge.optional and source is not None:
                raise GraphError(
                    f"node {node.name!r}: parameter {edge.param!r} has a default, but {edge.source!r} is a node; "
                    "drop the default, or rename the parameter"
                )
            if edge.dist and (source is None or source.kind != "stochastic"):
                found = "no node" if source is None else f"a {source.kind} node"
                raise GraphError(
                    f"node {node.name!r}: dist({edge.source!r}) needs a stochastic node, but {edge.source!r} is {found}."
                    + nearest(edge.source, (n.name for n in nodes.values() if n.kind == "stochastic"))
                )
            if edge.conditional and source is not None and source.in_sequence and not node.in_sequence:
                raise GraphError(
                    f"node {node.name!r}: conditional({edge.source!r}) from outside the sequence; declare {node.name!r} inside it, "
                    f"or read dist({edge.source!r}), the distribution of the last step"
                )
            if edge.prefix:
                _check_prefix(node, edge, source, nodes, first)
            if not edge.lag:
                continue
            if source is None or not source.in_sequence:
                raise GraphError(
                    f"node {node.name!r}: prev({edge.source!r}) needs a node of the sequence."
                    + nearest(edge.source, (n.name for n in nodes.values() if n.in_sequence))
                )
            if edge.init is None and node.kind != "observed":
                raise GraphError(
                    f"node {node.name!r}: prev({edge.source!r}) has no value at the first step; "
                    f"say prev({edge.source!r}, init='…') with a node or an input"
                )
            if edge.init in nodes and nodes[edge.init].in_sequence:
                raise GraphError(f"node {node.name!r}: init={edge.init!r} is inside the sequence; declare it outside")
        for what, name in (("baseline", node.baseline), ("credit", node.credit)):
            if isinstance(name, str) and name not in nodes:
                raise GraphError(f"node {node.name!r}: {what}={name!r} is no node.{nearest(name, nodes)}")


def _check_prefix(node: Node, edge: Edge, source: Node | None, nodes: dict[str, Node], first: str | None) -> None:
    where = f"node {node.name!r}: prefix({edge.source!r})"
    if source is None or source.kind != "stochastic" or not source.in_sequence:
        found = "no node" if source is None else f"a {source.kind} node" + " outside the sequence" * (not source.in_sequence)
        raise GraphError(f"{where} needs a stochastic node of the sequence, but {edge.source!r} is {found}")
    if first is not None:
        raise GraphError(
            f"{where} in a sequence with first={first!r}: a prefix begins with the block, and knows no episodes within "
            "it. Give each episode a batch element of its own"
        )
    if not node.in_sequence:
        return
    if node.kind != "deterministic":
        raise GraphError(
            f"{where}: within the sequence a deterministic node reads it, one value per position; this is a {node.kind} "
            "node. Declare the module as a deterministic node and read that"
        )
    if edge.init is None:
        raise GraphError(
            f"{where} is empty at the first step; say prefix({edge.source!r}, init='…') with a node or an input of at least "
            "one position: a prompt, a token that opens"
        )
    for other in node.parents:
        found_other = nodes.get(other.source)
        if not other.prefix and (found_other is not None and found_other.in_sequence):
            raise GraphError(
                f"{where}: beside a prefix it reads {other.source!r} at one step, which at all steps at once has no place in "
                f"one call. Read prefix({other.source!r}), or let another node bring them together"
            )


def topological(nodes: dict[str, Node]) -> tuple[str, ...]:
    """Declaration order where it is one already; every node after all it needs within its step."""
    needs = {
        n.name: [e.source for e in n.parents if e.source in nodes and not e.lag]
        + [e.init for e in n.parents if e.init in nodes]
        for n in nodes.values()
    }
    order: list[str] = []
    done: set[str] = set()
    for root in nodes:
        path = {} if root in done else {root: iter(needs[root])}  # depth first; names in the order of descent
        while path:
            name = next(reversed(path))
            source = next(path[name], None)
            if source is None:
                del path[name]
                done.add(name)
                order.append(name)
            elif source in path:
                names = list(path)
                cycle = " → ".join((*names[names.index(source) :], source))
                raise GraphError(f"node {source!r}: cycle {cycle}; break it with prev(…) inside a sequence")
            elif source not in done:
                path[source] = iter(needs[source])
    late = set()
    for name in order:
        node = nodes[name]
        inside = [s for s in needs[name] if nodes[s].in_sequence or s in late]
        if not node.in_sequence and inside:
            late.add(name)
        elif node.in_sequence and any(s in late for s in needs[name]):
            source = next(s for s in needs[name] if s in late)
            raise GraphError(f"node {name!r}: it is inside the sequence and needs {source!r}, which waits for its last step")
    return tuple(order)


def arrows(nodes: dict[str, Node], order: tuple[str, ...]) -> tuple[Arrow, ...]:
    """The arrows of all edges; those of a distribution are known before it is read.

    What reads a prefix is influenced at every lag: an arrow to itself says so.
    """
    into: dict[str, dict[Arrow, None]] = {}
    for name in order:
        found = into[name] = {}
        for edge in nodes[name].parents:
            if edge.dist:
                for arrow in into[edge.source]:
                    live = arrow.live and not edge.detached
                    found[Arrow(arrow.source, name, arrow.lag, live, arrow.first)] = None
            elif edge.source in nodes:
                found[Arrow(edge.source, name, edge.lag, not edge.detached)] = None
            if edge.prefix:
                found[Arrow(name, name, 1, True)] = None
            if edge.init in nodes:
                found[Arrow(edge.init, name, 0, not edge.detached, first=not edge.prefix)] = None
    return tuple(arrow for name in nodes for arrow in into[name])
