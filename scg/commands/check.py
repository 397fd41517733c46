"""`scg check`: is a graph's gradient what it should be?

    scg check path/to/model.py:graph                     scg check model.py:make_graph --order 2 --steps 3
    scg check model.py:graph --set theta=0.3 --set "data=[1.0, 2.0]"

The graph is a module's attribute, or what a function without arguments returns. Its inputs are the attribute `inputs`
of the same module, a dict (or a function that returns one), and what `--set` says. First the findings of
`graph.check`, then the table of `scg.testing.check_unbiased`. Returns an exit code: 0 where the derivative is proved
unbiased; 1 where it is biased, undecided, or the graph has errors; 2 for arguments or files that make no sense.

    scg check model.py:loss --objective model.py:value      scg check model.py:MyEstimator

A loss that is no graph, and an estimator of one's own, are checked as `check_loss.py` says.

    scg check model.py:graph model.py:loss estimators.py:Mine --workers 4

Several targets are tasks of an executor; their reports come in their order, and the exit code is the greatest.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from types import ModuleType
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Tensor
from tyro.conf import Positional, UseAppendAction, arg

from scg.commands.check_loss import check_thing, is_estimator, made, verdict
from scg.commands.draw import graph_of, is_graph
from scg.commands.shared import reported
from scg.errors import nearest, visible
from scg.evaluation.objectives import reachable_modules
from scg.executors import opened
from scg.graph import Graph
from scg.targets import TargetError, attribute, called, module, split
from scg.testing import check_unbiased
from scg.testing.unbiased import DETECTABLE, FALSE_ALARM


@dataclass(frozen=True)
class Check:
    """Hold a graph's gradient against the true one."""

    targets: Annotated[tuple[str, ...], Positional, arg(metavar="TARGET [TARGET …]", help_behavior_hint="(required)")]
    """path/to/model.py:graph, or package.module:graph; a graph, or a function that returns one"""
    settings: Annotated[tuple[str, ...], UseAppendAction, arg(name="set", metavar="NAME=VALUE")] = ()
    """an input: a number or a nested list"""
    wrt: Annotated[
        tuple[str, ...], arg(metavar="INPUT [INPUT …]", help_behavior_hint="(default: those that require a gradient)")
    ] = ()
    """differentiate for these inputs"""
    order: Literal[1, 2] = 1
    """1: the gradient, 2: the Hessian"""
    steps: int | None = None
    """time steps of a sequence"""
    oracle: Literal["enumeration", "quadrature", "finite_difference"] | None = None
    """what the truth is computed by; None: the most precise"""
    false_alarm: float = FALSE_ALARM
    """error rate of the verdict"""
    detectable: float = DETECTABLE
    """bias not to be missed, relative"""
    objective: Annotated[str | None, arg(metavar="FILE:NAME", help_behavior_hint="(default: its `objective`)")] = None
    """what a loss's gradient is that of"""
    max_draws: int | None = None
    """when to give up"""
    seed: int = 0
    """of all draws"""
    workers: int = 1
    """targets at a time"""
    executor: str = "local"
    """what checks several targets: local, ray, or slurm"""

    @property
    def chosen(self) -> list[str] | None:
        """The inputs of `wrt`, None where it names none."""
        return list(self.wrt) or None


@reported
def check(argv: list[str]) -> int:
    """Check the graph at `path/to/model.py:graph`."""
    wish = tyro.cli(Check, prog="scg check", args=argv)
    if not wish.targets:
        raise TargetError("no target given: say path/to/model.py:graph, with the graph's name after the colon")
    if len(wish.targets) == 1:
        if wish.workers != 1 or wish.executor != "local":
            raise TargetError("--workers and --executor are for several targets: one is one task.")
        return _checked(wish, wish.targets[0])
    for target in wish.targets:  # before any of them is checked
        split(target)
    worst = 0
    with opened(wish.executor, wish.workers) as executor:
        tasks = [(wish, target) for target in wish.targets]
        for target, (code, out, err) in zip(wish.targets, executor.map(_told, tasks), strict=True):
            print(f"── {visible(target)}\n{out}", end="" if out.endswith("\n") else "\n", flush=True)
            print(err, end="", file=sys.stderr, flush=True)
            worst = max(worst, code)
    return worst


def _told(wish: Check, target: str) -> tuple[int, str, str]:
    """On a worker: the exit code of one target's check, and what it says."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        code = reported(lambda _: _checked(wish, target))([])
    return code, out.getvalue(), err.getvalue()


def _checked(wish: Check, target: str) -> int:
    place, name = split(target)
    home = module(place)
    thing = made(attribute(home, place, name, like=is_graph))
    objective = getattr(thing, "objective", None)
    if wish.objective is not None:
        at, name = split(wish.objective, "objective")
        objective = attribute(home if at == place else module(at), at, name, "objective")
    if isinstance(objective, Graph):
        objective = objective, _inputs(home, place, objective, wish.settings)
    if is_estimator(thing) or (objective is not None and not is_graph(thing)):
        return check_thing(thing, objective, wish)
    graph = graph_of(thing, target)
    inputs = _inputs(home, place, graph, wish.settings)
    wrt = wish.chosen or _differentiable(inputs, graph)
    findings = graph.check(steps=wish.steps, **inputs)
    for finding in findings:
        print(finding)
    if any(f.severity == "error" for f in findings):
        return 1
    return verdict(
        lambda: check_unbiased(
            graph,
            inputs,
            wrt,
            wish.order,
            steps=wish.steps,
            oracle=wish.oracle,
            false_alarm=wish.false_alarm,
            detectable=wish.detectable,
            max_draws=wish.max_draws,
            seed=wish.seed,
        )
    )


def graph_and_inputs(target: str, settings: Sequence[str]) -> tuple[Graph, dict[str, Any]]:
    """The graph that `target` names, and its inputs: those of its module, with `name=value` of `settings` on top."""
    place, name = split(target)
    home = module(place)
    graph = graph_of(attribute(home, place, name, like=is_graph), target)
    return graph, _inputs(home, place, graph, settings)


def _inputs(home: ModuleType, place: str, graph: Graph, settings: Sequence[str]) -> dict[str, Any]:
    """The module's `inputs`, with those of `--set` on top; complain about what is missing."""
    found: Any = getattr(home, "inputs", {})
    found = called(found, f"{place}:inputs") if callable(found) else found
    if not isinstance(found, dict):
        raise TargetError(f"inputs in {place} is of type {type(found).__name__}; it must be a dict of tensors, by input name")
    inputs = dict(found)
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise TargetError(f"--set {setting!r}: say --set name=value")
        try:
            value = torch.tensor(ast.literal_eval(text))
        except (RuntimeError, SyntaxError, TypeError, ValueError) as error:
            raise TargetError(f"--set {setting!r}: {text!r} is no number nor a nested list of numbers") from error
        inputs[name.strip()] = value.requires_grad_() if value.is_floating_point() else value
    known = {*graph.structure.required, *graph.structure.known_inputs}
    for name in inputs.keys() - known:
        if any(s.partition("=")[0].strip() == name for s in settings):
            raise TargetError(f"--set {name}=…: the graph has no input {name!r}.{nearest(name, known)}")
        del inputs[name]  # a module's inputs may serve several graphs
    missing = [name for name in graph.structure.required if name not in inputs]
    if missing:
        where = f"a dict called `inputs` in {place}" if not found else f"`inputs` in {place}"
        raise TargetError(f"no value for {', '.join(map(repr, missing))}: put it into {where}, or say --set {missing[0]}=…")
    return inputs


def _differentiable(inputs: dict[str, Any], graph: Graph) -> list[Any]:
    """The inputs that require a gradient; where none does, all real ones; where there are none, the graph's modules."""
    real = [k for k, v in inputs.items() if isinstance(v, Tensor) and v.is_floating_point()]
    chosen: list[Any] = [k for k in real if inputs[k].requires_grad] or real
    if chosen:
        return chosen
    return list({id(m): m for node in graph.nodes.values() for m in reachable_modules(node.fn)}.values())
