"""What would make a gradient wrong, found before it is.

`findings` lists what a graph gets wrong; `first_sample` raises the first error of that list when a graph is first
evaluated with inputs of a new signature, and returns the `Plan` that later evaluations rely on.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.distributions import Distribution

from scg.analysis.d_separation import missed
from scg.analysis.structure import Structure
from scg.checks.examination import Examination
from scg.checks.finding import Finding
from scg.checks.layout import lay_out
from scg.checks.untouched import ordinary, untouched
from scg.credit import Credit
from scg.distributions.laws import parameters
from scg.errors import GraphError, nearest
from scg.evaluation.call_arguments import check_steps, length, split
from scg.evaluation.evaluation import Evaluation
from scg.evaluation.objectives import classify, known_modules, leaves, scopes_of
from scg.evaluation.plan import Plan
from scg.node import Node
from scg.specification import Specification


def findings(graph: Specification, inputs: Mapping[str, Any], steps: int | None) -> list[Finding]:
    """Everything found, errors first: of the structure, and with inputs of a first sample as well."""
    try:
        structure = graph.structure
        scopes_of(graph.nodes)
        if steps is not None:
            check_steps(structure, steps)
    except GraphError as error:
        return [_finding(error)]
    found = structural(structure)
    if not structure.costs:
        found.append(
            Finding("note", "", "this graph has no cost, and so no gradient: declare one with @graph.cost or @graph.reward")
        )
    if inputs or not structure.required:
        try:
            given, plain_inputs = split(structure, {}, inputs)
            _, sampled = examine(graph, given, plain_inputs, steps)
            found += sampled
        except GraphError as error:
            found.append(_finding(error))
        except Exception as error:
            failed = failure(error)
            if failed is None:
                raise
            found.append(failed)
    return sorted(found, key=lambda f: f.severity != "error")


def failure(error: Exception) -> Finding | None:
    """An exception of a node's own function, which carries a note of the node; None where it is another's."""
    for note in getattr(error, "__notes__", ()):
        place = re.match(r"in node '([^']*)'", note)
        if place is not None:
            return Finding("error", place[1], f"its function failed: {type(error).__name__}: {error}")
    return None


def structural(structure: Structure) -> list[Finding]:
    """What the structure alone shows. What makes a graph invalid is raised by `Structure`."""
    found = []
    for node in structure.nodes.values():
        if isinstance(node.credit, Credit):
            found += [f for critic in node.credit.critics for f in _critic(structure, node, critic, False)]
            found += [f for critic in node.credit.q_critics for f in _critic(structure, node, critic, True)]
        if node.kind == "stochastic":
            if not structure.counts(node.name):
                found.append(Finding("note", node.name, "no cost is downstream of it"))
            elif node.credit is not None and not structure.counts(node.name, live=True):
                found.append(Finding("error", node.name, "it has a credit, but no cost is downstream of it"))
    return found


def _critic(structure: Structure, node: Node, critic: str, replaces: bool) -> list[Finding]:
    if critic not in structure.nodes:
        return [
            Finding("error", node.name, f"its credit reads {critic!r}, which is no node.{nearest(critic, structure.nodes)}")
        ]
    absent = missed(structure, node.name, critic, replaces)
    if not absent:
        return []
    role = "replaces its cost-to-go" if replaces else "stands in for the cost-to-go"
    message = (
        f"the critic {critic!r} of its credit {role}, but misses {', '.join(map(repr, absent))}, which tells of later costs "
        f"what the critic's inputs do not. Condition {critic!r} on it, or on something that separates it from those costs."
    )
    return [Finding("error", node.name, message)]


def first_sample(
    graph: Specification, given: Mapping[str, Any], inputs: Mapping[str, Any], steps: int | None, before: int = 0
) -> Plan:
    """Examine a graph on a sample; raise the first error. `before`: how often it was examined for this signature."""
    for finding in structural(graph.structure):
        if finding.severity == "error":
            raise GraphError(f"node {finding.node!r}: {finding.message}")
    plan, found = examine(graph, given, inputs, steps, before)
    for finding in found:
        if finding.severity == "error":
            raise GraphError(f"node {finding.node!r}: {finding.message}")
    return plan


def examine(
    graph: Specification, given: Mapping[str, Any], inputs: Mapping[str, Any], steps: int | None, before: int = 0
) -> tuple[Plan, list[Finding]]:
    """Draw a few plain samples, with no side effects, and examine the graph on them."""
    with untouched(known_modules(graph.nodes)), _validating():
        given, inputs = ordinary(given), ordinary(inputs)
        whole = length(graph.structure, given, steps) if graph.structure.has_sequence else None
        all_given, all_steps = given, steps
        given, steps = shortened(graph.structure, given, steps, 3 << before)
        try:
            plan, _ = lay_out(graph, given, inputs, steps)
        except Exception:
            if not graph.structure.reads_whole:
                raise
            given, steps = dict(all_given), all_steps  # a function of a whole prefix may be defined at its full length only
            plan, _ = lay_out(graph, given, inputs, steps)
        examination = Examination(graph, plan, given, inputs, steps, before, whole)
        found = examination.findings()
        if not any(f.severity == "error" for f in found):
            plan.first_order = frozenset(
                name
                for name, distribution in examination.distributions.items()
                if graph.nodes[name].estimator.order(distribution) < math.inf
            )
            plan.kinked = examination.kinked
            learn_scopes(graph, plan, given, inputs, steps)
    return plan, found


@contextmanager
def _validating() -> Iterator[None]:
    """Inside, distributions check their arguments. The compiler switches these checks off for the whole process."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(True)
    try:
        yield
    finally:
        if Distribution._validate_args:  # else the compiler started inside, and what it switched off stays off
            Distribution.set_default_validate_args(before)


def learn_scopes(
    graph: Specification, plan: Plan, given: Mapping[str, Any], inputs: Mapping[str, Any], steps: int | None
) -> None:
    """Which parameters each node reaches, and so what it is to each objective."""
    scopes = scopes_of(graph.nodes)
    if not scopes:
        return
    trace = Evaluation(graph, plan, given, inputs, steps).run()
    reached: dict[str, dict[int, Tensor]] = {}
    for name in graph.structure.order:
        if name not in trace or graph.nodes[name].kind in ("cost", "observed"):
            continue
        things: list[Any] = [trace[name]]
        if graph.nodes[name].kind == "stochastic":
            weight, distribution = trace.weight(name), trace.dist(name)
            things += [weight.score, weight.factor]
            things += [list(parameters(d)) for d in (distribution if isinstance(distribution, list) else [distribution])]
        found = leaves(*things)
        if found:
            reached[name] = found
    for scope in scopes:
        classify(scope, reached, inputs)
        scope.mixed &= graph.structure.read_for(scope.costs)  # what its costs do not read need not be evaluated again
        graph.structure.check_detached(scope.costs, scope.cut | (graph.nodes.keys() - reached.keys()))
        for name in scope.cut:
            for cost in scope.costs:
                window = graph.structure.window(name, cost)
                if (
                    f"{name}.log_prob" in given and window is not None and window.lo == 0
                ):  # later steps' costs are its descendants
                    warnings.warn(
                        f"node {name!r}: its importance weights also multiply the cost {cost!r}, which does not train it. If what "
                        f"{cost!r} reads is recorded data, say a target, do not declare it as a child of {name!r}.",
                        stacklevel=2,
                    )
    plan.scopes = scopes
    plan.scope_of = {cost: i for i, scope in enumerate(scopes) for cost in scope.costs}


def shortened(
    structure: Structure, given: Mapping[str, Any], steps: int | None, length: int = 3
) -> tuple[dict[str, Any], int | None]:
    """The first steps, of which three are enough for a first step, a previous one, and one between."""
    if not structure.has_sequence:
        return dict(given), steps
    short = {}
    for name, value in given.items():
        inside = isinstance(value, Tensor) and structure.nodes[name.partition(".")[0]].in_sequence
        if inside and steps is not None and value.shape[0] != steps:
            raise GraphError(f"steps={steps}, but {name!r} was given for {value.shape[0]} steps")
        short[name] = value[:length] if inside else value
    return short, None if steps is None else min(steps, length)


def _finding(error: GraphError) -> Finding:
    """An error that opens with its node's name, or is about the call."""
    match = re.match(r"(?:node|cost) '([^']*)': (.*)", str(error), re.DOTALL)
    return Finding("error", match[1], match[2]) if match else Finding("error", "", str(error))
