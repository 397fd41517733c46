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

import argparse
import ast
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

import scg
from scg import estimators
from scg.auto import Auto
from scg.checks.check import failure
from scg.commands.check import graph_and_inputs
from scg.comparison.export import IMAGES
from scg.comparison.horizons import compare_horizons
from scg.errors import GraphError, nearest
from scg.estimator import Estimator
from scg.estimators.catalogue import ENTRIES
from scg.graph import Graph
from scg.targets import TargetError, attribute, module


def compare(argv: list[str]) -> int:
    """Compare estimators at nodes of the graph at `path/to/model.py:graph`."""
    try:
        wish = _parser().parse_args(argv)
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else 2
    try:
        if wish.horizon is not None and (wish.steps is not None or wish.attribute):
            raise TargetError("--horizon says how many steps, and measures no single choice: drop --steps and --attribute")
        if wish.plot is not None and wish.plot.suffix not in IMAGES:
            raise TargetError(f"--plot {wish.plot}: a figure's name ends in {', '.join(IMAGES)}")
        for flag, path in (("--csv", wish.csv), ("--plot", wish.plot)):
            if path is not None and (path.is_dir() or not path.parent.is_dir()):
                found = "is a folder" if path.is_dir() else f"lies in {path.parent}, which is no folder"
                raise TargetError(f"{flag} {path}: it {found}; name a file in a folder that is there")
        graph, inputs = graph_and_inputs(wish.target, wish.set)
        named = None if wish.estimators is None else parsed(wish.estimators)
        choices = dict.fromkeys(wish.node or _nodes(graph), named)
        for node in choices:
            if node not in graph.nodes or graph.nodes[node].kind != "stochastic":
                known = graph.structure.stochastic
                raise TargetError(
                    f"--node {node}: no stochastic node of this graph.{nearest(node, known)} It has {', '.join(known)}"
                )
    except (GraphError, OSError, TargetError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    settings: dict[str, Any] = {"wrt": wish.wrt, "steps": wish.steps, "seed": wish.seed}
    measured = {"draws": wish.draws, "budget": wish.budget, "learn": wish.learn}
    comparison: Any
    try:
        with _Bar() as bar:
            if wish.horizon is not None:
                del settings["steps"]
                comparison = compare_horizons(graph, inputs, choices, wish.horizon, progress=bar.show, **measured, **settings)
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
        if not isinstance(error, ValueError):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(comparison)
    if wish.csv is not None:
        print(comparison.to_csv(wish.csv))
    if wish.plot is not None:
        comparison.plot(wish.plot)
        print(wish.plot)
    if wish.horizon is not None:
        return 130 if any(c.interrupted for c in comparison.comparisons.values()) else 0
    if comparison.interrupted:
        return 130
    if wish.attribute:
        best = comparison.best(biased=not any(row.unbiased for row in comparison.rows))
        print(f"\nwith {best.label}:")
        print(scg.attribute(graph.with_estimators(**best.estimators), inputs, draws=wish.draws, **settings))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scg compare", description="Estimators side by side: bias, variance, time, memory, and variance × time."
    )
    parser.add_argument(
        "target", help="path/to/model.py:graph, or package.module:graph; a graph, or a function that returns one"
    )
    parser.add_argument(
        "--node", action="append", metavar="NAME", help="a stochastic node (default: the only one); repeat for more"
    )
    parser.add_argument(
        "--estimators", metavar="A,B,…", help="such as 'ScoreFunction,LeaveOneOut(samples=8)' (default: all that fit)"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="save the numbers")
    parser.add_argument("--plot", type=Path, metavar="FILE", help=f"draw variance against time: {', '.join(IMAGES)}")
    parser.add_argument("--draws", type=int, default=1000, help="gradients of each choice (1000)")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="stop drawing after so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="time steps of a sequence")
    parser.add_argument(
        "--horizon", type=_numbers, metavar="1,3,10,…", help="variance and error against the time steps of a sequence"
    )
    parser.add_argument("--learn", type=int, default=100, help="steps that learning estimators take first (100)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an input: a number or a nested list")
    parser.add_argument(
        "--wrt", nargs="+", metavar="INPUT", help="differentiate for these (default: inputs that require a gradient)"
    )
    parser.add_argument(
        "--attribute", action="store_true", help="also where the best choice's variance comes from, by node and cost"
    )
    return parser


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


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
