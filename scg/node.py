"""What a graph is made of: nodes, and the edges that their functions' parameters declare.

    @graph.stochastic(ScoreFunction())
    def action(obs, h=prev("h", init="h0")):     # edges obs → action and h(t-1) → action(t)
        ...

A parameter without a default is an edge from the node or input of that name. A marker as the default
says more: `prev`, `prefix`, `detach`, `dist`, alone or nested. Any other default makes an optional input.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import nn

from scg.errors import GraphError
from scg.estimator import Estimator

NodeKind = Literal["stochastic", "deterministic", "cost", "observed"]
RESERVED = frozenset({"steps", "generator", "checkpoint", "costs", "given", "self"})


@dataclass(frozen=True)
class Edge:
    """`source → node`: the value now, or `lag` steps ago; with its gradient or `detached`; the sample or its `dist`.

    conditional   a detached `dist` whose parameters are live: only what the distribution is conditioned on is detached
    prefix   all values up to `lag` steps ago, along an axis of their own, `init` before them
    event    axes of the event of what a prefix is of
    """

    source: str
    lag: int = 0
    init: str | None = None
    detached: bool = False
    dist: bool = False
    conditional: bool = False
    optional: bool = False
    param: str = ""
    prefix: bool = False
    event: int = 0

    @property
    def plain(self) -> bool:
        return not (self.lag or self.detached or self.dist or self.optional or self.prefix)


def _edge(source: str | Edge) -> Edge:
    if isinstance(source, Edge):
        return source
    if isinstance(source, str):
        if not source.strip():
            raise GraphError(f"a parent is a node's name or a marker around one, got the empty name {source!r}")
        return Edge(source)
    raise GraphError(f"a parent is a node's name or a marker around one, got {source!r} of type {type(source).__name__}")


def prev(source: str | Edge, init: str | None = None) -> Any:
    """The previous step's value of `source`; at the first step of an episode, the node or input `init`."""
    if init is not None and not isinstance(init, str):
        raise GraphError(
            f"prev({source!r}, init={init!r}): init= names the node or input whose value comes first; pass the value there"
        )
    return replace(_edge(source), lag=1, init=init)


def prefix(source: str | Edge, init: str | None = None, event: int = 0) -> Any:
    """All earlier values of a stochastic node of the sequence, along an axis of positions, `init` before them.

        step t reads      init ‖ x_0 … x_{t−1}        [batch…, length, event…],   init [batch…, at least 1, event…]

    A deterministic node of the sequence that reads a prefix gives one value per position, `[batch…, length, …]`, as a
    transformer does, and its value at step t is the last one. When the values are given, all steps are computed in one call
    on the longest prefix, so position i may depend on positions up to i alone: the first sample is examined for that.
    A function with a method `extend(state, …) → (values, state)` is called on the new positions alone while the sequence is
    sampled, `state` None at first: a cache of keys and values.

    A node after the sequence reads all of it, init ‖ x_0 … x_{T−1}; there `init` may be left out. `event`: how many axes one
    value of the source has beside its batch, 0 for a token.
    """
    if init is not None and not isinstance(init, str):
        raise GraphError(
            f"prefix({source!r}, init={init!r}): init= names the node or input whose values come first; pass the values there"
        )
    return replace(_edge(source), lag=1, init=init, prefix=True, event=event)


def detach(source: str | Edge) -> Any:
    """The value of `source` without its gradient.

    No pathwise gradient passes this edge. A likelihood ratio multiplies a whole cost and cannot leave out one edge: the weight
    of a node is detached for a cost (at a lag) that the node reaches through `detach` edges only, and a graph in which it
    reaches one both ways at the same lag is refused, unless the node's gradient is pathwise.
    """
    return replace(_edge(source), detached=True, conditional=False)


def dist(source: str | Edge) -> Any:
    """The distribution of the stochastic node `source` instead of its sample."""
    return replace(_edge(source), dist=True)


def conditional(source: str | Edge) -> Any:
    """The distribution of the stochastic node `source`, given the nodes that it is conditioned on: their values are constants.

        dist("a")           p(a | s; θ)                 a gradient reaches θ, and through s what s is made from
        conditional("a")    p(a | detach(s); θ)         it reaches θ alone; earlier samples do not answer for it
        detach(dist("a"))   detach(p(a | s; θ))         none

    θ is what the node's function holds, and inputs. Where no value of s carries a gradient, as in a recording, it is the object
    that the sample was drawn from: an entropy or a divergence at each state does not evaluate a policy a second time.
    """
    return replace(_edge(source), dist=True, detached=True, conditional=True)


@dataclass(frozen=True)
class Node:
    """One declared node. `parents` are its edges in the order of its function's parameters."""

    name: str
    kind: NodeKind
    fn: Callable[..., Any] | None
    parents: tuple[Edge, ...]
    in_sequence: bool = False
    positional: bool = False
    sign: float = 1.0
    estimator: Any = None
    credit: Any = None
    baseline: Any = None
    plate: int | None = None
    trains: Any = field(default=None, compare=False)
    hidden: bool = False

    simple: tuple[tuple[str, str], ...] | None = field(default=None, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # (parameter, source) pairs where every edge is plain: the fast path of evaluation.
        if all(e.plain for e in self.parents):
            object.__setattr__(self, "simple", tuple((e.param, e.source) for e in self.parents))


def check_function(fn: Any, kind: str, name: str | None) -> None:
    """What is declared must be a function of the node's parents; a class of modules is one of its settings."""
    where = f"node {name!r}" if name else f"graph.{kind}"
    if not callable(fn):
        raise GraphError(f"{where}: a {kind} node is a function of its parents, got {fn!r} of type {type(fn).__name__}")
    if isinstance(fn, type) and issubclass(fn, nn.Module):
        raise GraphError(f"{where}: {fn.__name__} is a class of modules; give an instance, {fn.__name__}(…)")


def node_name(fn: Callable[..., Any] | None, name: str | None) -> str:
    """The declared name, else the function's own. Lambdas, partials and modules have none to give."""
    if name is None:
        name = getattr(fn, "__name__", None) if inspect.isfunction(fn) or inspect.ismethod(fn) else None
        if name is None or name == "<lambda>":
            raise GraphError(f"a {type(fn).__name__} has no name of its own: pass name='…'")
    if not isinstance(name, str) or not name.strip() or "." in name:
        raise GraphError(f"node name {name!r}: a name is a non-empty string without dots")
    if name in RESERVED:
        raise GraphError(f"node {name!r}: this name is reserved ({', '.join(sorted(RESERVED))})")
    return name


def edges_of(name: str, fn: Callable[..., Any] | None, parents: Sequence[str | Edge] | None) -> tuple[tuple[Edge, ...], bool]:
    """The edges of a node, and whether its function is called by position (`parents=`) or by keyword."""
    if parents is not None:
        if isinstance(parents, (str, Mapping, Set)) or not isinstance(parents, Iterable):
            found = f"the string {parents!r}" if isinstance(parents, str) else f"{parents!r} of type {type(parents).__name__}"
            raise GraphError(f"node {name!r}: parents= is a list of names, got {found}")
        try:
            named = tuple(replace(_edge(p), param=str(i)) for i, p in enumerate(parents))
        except GraphError as error:
            raise GraphError(f"node {name!r}: parents=: {error}") from None
        if fn is not None:
            _check_count(name, fn, len(named))
        return named, True
    if fn is None:
        return (), False
    target = fn.forward if isinstance(fn, nn.Module) else fn
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError) as error:
        raise GraphError(f"node {name!r}: {fn!r} shows no signature; say parents=['…', …]") from error
    edges = []
    for p in parameters:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            raise GraphError(
                f"node {name!r}: the signature of {fn!r} has {'*' * (1 + (p.kind == p.VAR_KEYWORD))}{p.name}, "
                "which names no parents (compiled and wrapped modules look so); say parents=['…', …]"
            )
        if p.kind is p.POSITIONAL_ONLY:
            raise GraphError(f"node {name!r}: parameter {p.name!r} is positional-only; node functions are called by keyword")
        if isinstance(p.default, Edge):
            edges.append(replace(p.default, param=p.name))
        elif p.default is p.empty:
            edges.append(Edge(p.name, param=p.name))
        else:
            edges.append(Edge(p.name, param=p.name, optional=True))
    return tuple(edges), False


def _check_count(name: str, fn: Callable[..., Any], count: int) -> None:
    """A function that cannot be called with so many parents by position; some show no signature."""
    try:
        signature = inspect.signature(fn.forward if isinstance(fn, nn.Module) else fn)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*[None] * count)
    except TypeError as error:
        raise GraphError(
            f"node {name!r}: parents= names {count} of them, and its function takes {signature}: {error}. "
            "parents= are its arguments, in order"
        ) from None


def check_bias(node: str, estimator: Estimator) -> None:
    """A biased estimator is taken only where its user says that it is meant."""
    if not estimator.unbiased and not estimator.allow_bias:
        raise GraphError(f"node {node!r}: {estimator!r} is biased. If that is what you want, opt in with allow_bias=True.")


def check_edge(node: str, edge: Edge, in_sequence: bool) -> None:
    """What is wrong with one edge whatever the rest of the graph says."""
    if edge.prefix and edge.dist:
        raise GraphError(f"node {node!r}: prefix({edge.source!r}) reads values; their distributions it does not read")
    if edge.lag and not in_sequence:
        raise GraphError(f"node {node!r}: prev({edge.source!r}) outside a sequence; declare it inside `with graph.sequence():`")
    if edge.lag and edge.dist:
        raise GraphError(
            f"node {node!r}: dist(prev({edge.source!r})) has no value at the first step; "
            "pass the distribution's parameters through a deterministic node and take prev of that"
        )
    if edge.source in RESERVED:
        raise GraphError(f"node {node!r}: {edge.source!r} is a reserved name ({', '.join(sorted(RESERVED))})")
