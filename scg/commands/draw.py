"""`scg draw`: a graph as a picture, and its gradient estimator on paper.

    scg draw path/to/model.py:graph --out graph.svg        scg draw package.module:make_graph --derivation
    scg draw ppo --out ppo.png

The graph is a module's attribute, or what a function without arguments returns; or one that a package offers by name, as
entry points of the group `scg.graphs`: functions that return `{name: function that returns the graph}`. Returns an exit
code: 0, or 2 for arguments or files that make no sense.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional, arg

from scg.commands.shared import reported
from scg.draw import IMAGES, TEXTS, render
from scg.errors import nearest
from scg.graph import Graph
from scg.targets import TargetError, called, found

SUFFIXES = ", ".join(s.removeprefix(".") for s in (*IMAGES, *TEXTS))


@dataclass(frozen=True)
class Draw:
    """Draw a graph, or write its gradient estimator out."""

    target: Annotated[str, Positional, arg(metavar="TARGET")]
    """path/to/model.py:graph, or package.module:graph: a graph, or a function that returns one; or an agent's name"""
    out: Annotated[
        Path | None,
        arg(
            metavar="FILE",
            help=f"where to draw; the suffix says what: {SUFFIXES}",
            help_behavior_hint="(default: <graph>.png)",
        ),
    ] = None
    derivation: bool = False
    """print the gradient estimator, term by term"""
    latex: bool = False
    """print it in LaTeX"""
    wrt: Annotated[tuple[str, ...], arg(metavar="NAME [NAME …]", help_behavior_hint="(default: all)")] = ()
    """the parameters to differentiate for: inputs, or modules by name"""


@reported
def draw(argv: list[str]) -> int:
    """Draw the graph at `path/to/model.py:graph`."""
    wish = tyro.cli(Draw, prog="scg draw", args=argv)
    graph = load(wish.target)
    if wish.derivation or wish.latex:
        derivation = graph.derivation(list(wish.wrt) or None)
        print(derivation.latex if wish.latex else derivation.unicode)
    if wish.out is not None or not (wish.derivation or wish.latex):
        print(render(graph, wish.out or Path(f"{wish.target.rpartition(':')[2].rpartition('.')[2]}.png")))
    return 0


def load(target: str) -> Graph:
    """The graph that `path/to/model.py:graph`, `package.module:graph` or a name among `offered()` names."""
    if ":" not in target:
        named = offered()
        if target in named:
            return graph_of(named[target], target)
        hint = f"{nearest(target, named)}\nGraphs with a name: {', '.join(sorted(named))}." if named else ""
        raise TargetError(
            f"{target!r} names no graph: say path/to/model.py:graph, with the graph's name after the colon.{hint}"
        )
    return graph_of(found(target, like=is_graph), target)


def is_graph(thing: Any) -> bool:
    return isinstance(thing, Graph)


def offered() -> Mapping[str, Callable[[], Graph]]:
    """The graphs that installed packages offer by name; none from a package that lacks what it needs."""
    graphs: dict[str, Callable[[], Graph]] = {}
    for point in entry_points(group="scg.graphs"):
        try:
            graphs.update(point.load()())
        except ModuleNotFoundError:
            continue
    return graphs


def graph_of(thing: Any, target: str) -> Graph:
    """A graph, what a function without arguments returns if that is one, or the graph of a class that offers one (`__graph__`)."""
    if isinstance(thing, Graph):
        return thing
    if isinstance(thing, type) and hasattr(thing, "__graph__"):
        thing, target = thing.__graph__, f"{target}.__graph__"
    if not callable(thing):
        raise TargetError(f"{target} is of type {type(thing).__name__}, not a Graph nor a function that returns one")
    try:
        inspect.signature(thing).bind()
    except (TypeError, ValueError) as error:
        raise TargetError(
            f"{target} cannot be called without arguments ({error}); name a function of none that returns the graph"
        ) from error
    made = called(thing, target)
    if not isinstance(made, Graph):
        raise TargetError(f"{target}() returned {type(made).__name__}, not a Graph")
    return made
