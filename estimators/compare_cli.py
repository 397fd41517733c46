"""`scg compare`: estimators of a graph's nodes side by side.

    scg compare model.py:graph --node b                            every estimator of the catalogue that b's distribution takes
    scg compare model.py:graph --node b --estimators "ScoreFunction,LeaveOneOut(samples=8)" --plot b.pdf --csv b.csv
    scg compare model.py:graph --node b --estimators "ScoreFunction,mine.py:Mine(samples=4)"
    scg compare model.py:graph --node x --node b --budget 20 --attribute
    scg compare model.py:graph --node action --horizon 1,3,10,30,100 --plot horizons.png

The graph and its inputs are found as `scg check` finds them. Returns an exit code: 0; 1 where no estimator can be used;
2 for arguments or files that make no sense; 130 where it was interrupted, after printing (and saving) what was measured.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from tyro.conf import Positional, UseAppendAction, arg

import scg
from scg import estimators
from scg.auto import Auto
from scg.checks.check import failure
from scg.commands.check import graph_and_inputs
from scg.commands.shared import reported
from scg.comparison.export import IMAGES
from scg.comparison.horizons import compare_horizons
from scg.errors import GraphError, nearest
from scg.estimator import Estimator
from scg.estimators.catalogue import ENTRIES
from scg.graph import Graph
from scg.targets import TargetError, attribute, module


@dataclass(frozen=True)
class Compare:
    """Estimators side by side: bias, variance, time, memory, and variance × time."""

    target: Annotated[str, Positional, arg(metavar="TARGET")]
    """path/to/model.py:graph, or package.module:graph; a graph, or a function that returns one"""
    node: Annotated[
        tuple[str, ...], UseAppendAction, arg(metavar="NAME", help_behavior_hint="(default: the only one; repeat for more)")
    ] = ()
    """a stochastic node"""
    estimators: Annotated[str | None, arg(metavar="A,B,…", help_behavior_hint="(default: all that fit)")] = None
    """such as 'ScoreFunction,LeaveOneOut(samples=8)'"""
    csv: Annotated[Path | None, arg(metavar="FILE")] = None
    """save the numbers"""
    plot: Annotated[Path | None, arg(metavar="FILE", help=f"draw variance against time: {', '.join(IMAGES)}")] = None
    draws: int = 1000
    """gradients of each choice"""
    budget: Annotated[float | None, arg(metavar="SECONDS")] = None
    """stop drawing after so long"""
    seed: int = 0
    """of all draws"""
    steps: int | None = None
    """time steps of a sequence"""
    horizon: Annotated[str | None, arg(metavar="1,3,10,…")] = None
    """variance and error against the time steps of a sequence"""
    learn: int = 100
    """steps that learning estimators take first"""
    settings: Annotated[tuple[str, ...], UseAppendAction, arg(name="set", metavar="NAME=VALUE")] = ()
    """an input: a number or a nested list"""
    wrt: Annotated[
        tuple[str, ...], arg(metavar="INPUT [INPUT …]", help_behavior_hint="(default: those that require a gradient)")
    ] = ()
    """differentiate for these inputs"""
    attribute: bool = False
    """also where the best choice's variance comes from, by node and cost"""


@reported
def compare(argv: list[str]) -> int:
    """Compare estimators at nodes of the graph at `path/to/model.py:graph`."""
    wish = tyro.cli(Compare, prog="scg compare", args=argv)
    horizons = None if wish.horizon is None else _numbers(wish.horizon)
    if horizons is not None and (wish.steps is not None or wish.attribute):
        raise TargetError("--horizon says how many steps, and measures no single choice: drop --steps and --attribute")
    if wish.plot is not None and wish.plot.suffix not in IMAGES:
        raise TargetError(f"--plot {wish.plot}: a figure's name ends in {', '.join(IMAGES)}")
    for flag, path in (("--csv", wish.csv), ("--plot", wish.plot)):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            found = "is a folder" if path.is_dir() else f"lies in {path.parent}, which is no folder"
            raise TargetError(f"{flag} {path}: it {found}; name a file in a folder that is there")
    graph, inputs = graph_and_inputs(wish.target, wish.settings)
    named = None if wish.estimators is None else parsed(wish.estimators)
    choices = dict.fromkeys(wish.node or _nodes(graph), named)
    for node in choices:
        if node not in graph.nodes or graph.nodes[node].kind != "stochastic":
            known = graph.structure.stochastic
            raise TargetError(
                f"--node {node}: no stochastic node of this graph.{nearest(node, known)} It has {', '.join(known)}"
            )
    settings: dict[str, Any] = {"wrt": list(wish.wrt) or None, "steps": wish.steps, "seed": wish.seed}
    measured = {"draws": wish.draws, "budget": wish.budget, "learn": wish.learn}
    comparison: Any
    try:
        with _Bar() as bar:
            if horizons is not None:
                del settings["steps"]
                comparison = compare_horizons(graph, inputs, choices, horizons, progress=bar.show, **measured, **settings)
            else:
                comparison = scg.compare(graph, inputs, choices, progress=bar.show, **measured, **settings)
    except GraphError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        failed = failure(error)
        if failed is not None:
            print(failed, file=sys.stderr)
            return 1
        raise
    print(comparison)
    if wish.csv is not None:
        print(comparison.to_csv(wish.csv))
    if wish.plot is not None:
        comparison.plot(wish.plot)
        print(wish.plot)
    if horizons is not None:
        return 130 if any(c.interrupted for c in comparison.comparisons.values()) else 0
    if comparison.interrupted:
        return 130
    if wish.attribute:
        best = comparison.best(biased=not any(row.unbiased for row in comparison.rows))
        print(f"\nwith {best.label}:")
        print(scg.attribute(graph.with_estimators(**best.estimators), inputs, draws=wish.draws, **settings))
    return 0


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise TargetError(f"--horizon {text}: whole numbers, by commas, as in 1,3,10") from error


def _nodes(graph: Graph) -> list[str]:
    """The nodes to compare at where none is named: those declared "auto", else the only one."""
    stochastic = [graph.nodes[n] for n in graph.structure.stochastic]
    found = [n.name for n in stochastic if isinstance(n.estimator, Auto)] or [n.name for n in stochastic]
    if len(found) != 1 and not any(isinstance(n.estimator, Auto) for n in stochastic):
        raise TargetError(
            f"say which node: --node {' or --node '.join(found)}" if found else "the graph has no stochastic node"
        )
    return found


def parsed(text: str) -> list[Estimator]:
    """Estimators from `Name` (with the catalogue's settings), `Name(setting=value, …)` and `file.py:Mine`, by commas."""
    found: list[Estimator] = []
    for part in re.split(r",(?![^(]*\))", text):
        place, colon, name = part.partition("(")[0].strip().rpartition(":")
        if colon:
            found.append(_own(part.strip(), place, name))
            continue
        try:
            tree = ast.parse(part.strip(), mode="eval").body
        except SyntaxError as error:
            raise TargetError(
                f"--estimators {text!r}: names by commas, as in ScoreFunction,LeaveOneOut(samples=8),file.py:Mine"
            ) from error
        found.append(_one(tree))
    return found


def _own(text: str, place: str, name: str) -> Estimator:
    """`file.py:Mine`, an estimator or a class of them; `file.py:Mine(setting=value)`."""
    thing = attribute(module(place), place, name, "estimator")
    settings: Any = ast.parse(f"f({text.partition('(')[2] or ')'}", mode="eval").body
    try:
        if inspect.isclass(thing):
            thing = thing(
                *map(ast.literal_eval, settings.args), **{k.arg: ast.literal_eval(k.value) for k in settings.keywords}
            )
        elif settings.args or settings.keywords:
            raise TypeError("it is no class, and takes no settings")
    except (TypeError, ValueError) as error:
        raise TargetError(f"--estimators: {text}: {error}") from error
    if not callable(getattr(thing, "branch", None)):
        raise TargetError(f"--estimators: {text} is of type {type(thing).__name__}, not an estimator (it has no `branch`)")
    return thing


def _one(part: ast.expr) -> Estimator:
    call = part if isinstance(part, ast.Call) else None
    name = call.func if call is not None else part
    if not isinstance(name, ast.Name):
        raise TargetError(f"--estimators: {ast.unparse(part)!r} is no estimator's name")
    if name.id not in ENTRIES:
        raise TargetError(f"--estimators: no estimator {name.id!r} in the catalogue.{nearest(name.id, ENTRIES)}")
    if call is None:
        return ENTRIES[name.id].estimator
    try:
        args: list[Any] = [ast.literal_eval(a) for a in call.args]
        settings: dict[Any, Any] = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
        if ENTRIES[name.id].estimator.allow_bias:
            settings.setdefault("allow_bias", True)
        return getattr(estimators, name.id)(*args, **settings)
    except (TypeError, ValueError) as error:
        said = "its settings are numbers and words" if "malformed node" in str(error) else error
        raise TargetError(f"--estimators: {ast.unparse(part)}: {said}") from error


class _Bar:
    """Rounds done, on standard error, in a terminal only."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self.bar = Progress(BarColumn(30), MofNCompleteColumn(), TimeRemainingColumn(), console=console, transient=True,
                            disable=not console.is_terminal)  # fmt: skip
        self.task = self.bar.add_task("", total=None)

    def show(self, done: int, total: int) -> None:
        self.bar.update(self.task, completed=done, total=total)

    def __enter__(self) -> _Bar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
