"""Sticking the landing: the pathwise gradient of E_q[log q(z) − …], without the score of q at its own sample.

    ∇_φ E[log q_φ(z) − log p(z)] = E[ (∂_z log q_φ(z) − ∂_z log p(z)) ∂_φ z ]        for  E[∇_φ log q_φ(z)]_{z fixed} = 0

The term that is left out has mean zero, and at q = p it is all the noise there is: with it out, every draw's gradient is 0
there. Away from p it may be quieter or noisier. In a graph it is an edge, `detach(dist("z"))`, in the node that takes
log q(z); `sticking_the_landing(graph, "z")` makes a graph's `dist("z")` such edges, so that both can be compared.

Right where `dist("z")` serves for log q(z) alone, and the cost is linear in it. A node that reads `dist("z")` and not the
sample (a KL divergence in closed form) is left as it is; one that does both is to be split in two. For bounds of several
samples, which are not linear in log q(z_k), it is biased: `dreg` is their form of it. Roeder, Wu & Duvenaud (2017).
"""

from __future__ import annotations

from dataclasses import replace

from scg.errors import GraphError, nearest
from scg.estimator import Pathwise
from scg.graph import Graph
from scg.node import Node


def sticking_the_landing(graph: Graph, *names: str) -> Graph:
    """The same graph; where a node has both a named pathwise node's sample and its distribution, the latter is detached."""
    if not names:
        raise GraphError("sticking_the_landing(graph): name the pathwise nodes whose log-density is to be detached")
    for name in names:
        _check(graph, name)
    other = graph.with_estimators()
    for key, node in graph.nodes.items():
        landing = [name for name in names if _reads(node, name)]
        parents = tuple(
            replace(e, detached=True, conditional=False) if e.dist and e.source in landing else e for e in node.parents
        )
        other.nodes[key] = replace(node, parents=parents)
    return other


def _check(graph: Graph, name: str) -> None:
    node = graph.nodes.get(name)
    if node is None:
        raise GraphError(f"sticking_the_landing: no node {name!r}.{nearest(name, graph.nodes)}")
    if not isinstance(node.estimator, Pathwise):
        raise GraphError(
            f"node {name!r}: sticking the landing leaves a score out of a pathwise gradient, and this is {_told(node)}.\n"
            "Use it with Pathwise()."
        )
    if node.plate is not None:
        raise GraphError(
            f"node {name!r}: it has plate={node.plate}, and in a bound of several samples the score of q has no mean of zero.\n"
            "Use estimators.dreg.doubly_reparameterised."
        )
    if not any(_reads(other, name) for other in graph.nodes.values()):
        raise GraphError(
            f"node {name!r}: no node reads both its sample and dist({name!r}), so there is no log-density to detach"
        )


def _reads(node: Node, name: str) -> bool:
    edges = [e for e in node.parents if e.source == name]
    return any(e.dist and (e.conditional or not e.detached) for e in edges) and any(e.plain for e in edges)


def _told(node: Node) -> str:
    return f"a {node.kind} node" if node.estimator is None else repr(node.estimator)
