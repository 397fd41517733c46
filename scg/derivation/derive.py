"""From a graph to the terms of its gradient estimator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from scg.credit import Credit
from scg.derivation.derivation import Derivation, Equation, Spelling, Term
from scg.derivation.identity import identity_of
from scg.derivation.node_notation import NodeNotation, T, bends
from scg.derivation.notation import ALL, Latex, Symbol, Unicode
from scg.derivation.paths import Flow, Path, Vertex
from scg.draw.labels import ParameterNames, brief
from scg.errors import GraphError, nearest, visible
from scg.estimator import ScoreFunction
from scg.evaluation.objectives import trained_by
from scg.node import Node

if TYPE_CHECKING:  # a graph derives itself: Graph calls this module
    from scg.graph import Graph

NOTATIONS = {"unicode": Unicode(), "latex": Latex()}


@dataclass(frozen=True)
class Objective:
    """Costs that are minimised together, and the parameters that they train."""

    name: str
    costs: tuple[str, ...]
    parameters: tuple[str, ...]


def derive(graph: Graph, wrt: Sequence[str] | str | None = None) -> Derivation:
    """Write the gradient estimator of a graph out, one equation for each objective and parameter.

    wrt   inputs by name, or modules that node functions read by their variable's name. Without it: what costs say
          they train; else the modules' parameters; else every input.
    """
    structure, named = graph.structure, ParameterNames(graph.nodes)
    if not structure.costs:
        raise GraphError(
            "this graph has no cost, so there is no gradient to derive: declare one with @graph.cost or @graph.reward"
        )
    spellers = {kind: NodeNotation(structure, named, write) for kind, write in NOTATIONS.items()}
    equations: list[Equation] = []
    totals: dict[tuple[str, str], str] = {}
    for objective in objectives(graph, named, [wrt] if isinstance(wrt, str) else wrt):
        for parameter in objective.parameters:
            flow = Flow(graph.nodes, parameter, named, spellers["unicode"].parameter(parameter))
            terms = tuple(_terms(objective, flow, spellers))
            equations.append(_equation(objective, flow, terms, spellers))
            totals |= {key: value for kind in spellers for key, value in _totals(flow, spellers[kind], kind)}
    return Derivation(tuple(equations), *(_where(graph, spellers[kind], totals, kind) for kind in NOTATIONS))


def objectives(graph: Graph, named: ParameterNames, wrt: Sequence[str] | None) -> list[Objective]:
    """Costs with the same `trains=` belong together; those without train everything."""
    nodes, structure = graph.nodes, graph.structure
    modules = dict.fromkeys(named.of(thing) for node in nodes.values() for thing in named.read_by(node))
    known = [*structure.inputs, *sorted(structure.optional_inputs), *modules]
    for name in wrt or ():
        if name not in known:
            raise GraphError(
                f"derivation(wrt={list(wrt or ())}): {name!r} is no input of the graph and no module that its functions read."
                f"{nearest(name, known)} There are: {', '.join(map(visible, known)) or 'none'}"
            )
    groups: dict[tuple[frozenset[int], frozenset[str]] | None, list[str]] = {}
    for cost in structure.costs:
        claim = trained_by(nodes[cost], nodes) if nodes[cost].trains is not None else None
        groups.setdefault(claim, []).append(cost)
    found = []
    for claim, costs in groups.items():
        own = [name for name in known if claim is None or _trains(claim, name, named)]
        if claim is None and wrt is None:
            own = list(modules) or [n for n in known if n not in _initials(graph)] or known
        found.append(
            Objective(
                ",".join(costs) if len(groups) > 1 else "", tuple(costs), tuple(n for n in own if wrt is None or n in wrt)
            )
        )
    return found


def _trains(claim: Any, name: str, named: ParameterNames) -> bool:
    tensors, inputs = claim
    if name in inputs:
        return True
    held = [p for thing in named.things(name) for p in (thing.parameters() if isinstance(thing, nn.Module) else [thing])]
    return any(id(p) in tensors for p in held)


def _initials(graph: Graph) -> set[str]:
    """Inputs that only say what comes before the first step."""
    edges = [e for n in graph.nodes.values() for e in n.parents]
    return {e.init for e in edges if e.init} - {e.source for e in edges}


def _terms(objective: Objective, flow: Flow, spellers: dict[str, NodeNotation]) -> Iterator[Term]:
    """Likelihood ratios in topological order, then the costs' own derivatives."""
    structure = spellers["unicode"].structure
    for name in structure.stochastic:
        node = structure.nodes[name]
        costs = tuple(c for c in objective.costs if structure.window(name, c, live=True) is not None)
        if not costs or not node.estimator.weighs:
            continue
        time = T if node.in_sequence else None
        paths = flow.paths(Vertex(name, "dist"), time)
        if paths:
            spelt = {kind: _likelihood_ratio(s, node, paths, costs) for kind, s in spellers.items()}
            credit = type(node.credit).__name__ if isinstance(node.credit, Credit) else node.credit
            yield Term(
                "likelihood-ratio", name, flow.parameter, costs, tuple(p.through for p in paths), node.baseline, credit, **spelt
            )
    for cost in objective.costs:
        node = structure.nodes[cost]
        for path in flow.paths(Vertex(cost), T if node.in_sequence else None):
            spelt = {kind: _own(s, node, path) for kind, s in spellers.items()}
            yield Term("pathwise" if path.sampled else "direct", cost, flow.parameter, (cost,), (path.through,), **spelt)


def _likelihood_ratio(speller: NodeNotation, node: Node, paths: list[Path], costs: tuple[str, ...]) -> str:
    time = T if node.in_sequence else None
    scores = [speller.score(node, path, time) for path in paths]
    score = scores[0] if len(scores) == 1 else speller.write.bracket(" + ".join(scores))
    factors = [score, speller.multiplier(node, costs, time)]
    if node.in_sequence:
        factors.insert(0, speller.write.sum("t"))
    return " ".join(filter(None, factors))


def _own(speller: NodeNotation, node: Node, path: Path) -> str:
    product = speller.write.times.join(speller.factor(f) for f in path.factors)
    return f"{speller.write.sum('t')} {product}" if node.in_sequence else product


def _equation(objective: Objective, flow: Flow, terms: tuple[Term, ...], spellers: dict[str, NodeNotation]) -> Equation:
    spelt = {}
    for kind, speller in spellers.items():
        write, nodes = speller.write, speller.structure.nodes
        influences = {i.node for c in objective.costs for i in speller.structure.influences(c)}
        over = []
        for name in (n for n in speller.structure.stochastic if n in influences):
            node = nodes[name]
            every = ALL if node.in_sequence else None
            over.append(speller.noise(node, every) if speller.is_sampler(node) else speller.symbol(name, every))
        summands = [_summand(speller, c) for c in objective.costs]
        value = write.expectation(over, speller.added(summands))
        signed = [(1.0 if t.kind == "likelihood-ratio" else nodes[t.node].sign, getattr(t, kind)) for t in terms]
        estimator = speller.added(signed) if signed else "0"
        spelt[kind] = Spelling(
            objective=write.symbol(Symbol("J_" + objective.name.replace(",", "_")) if objective.name else Symbol("J")),
            parameter=write.symbol(flow.symbol),
            value=value,
            estimator=estimator,
            terms=tuple(signed),
            exact=not over or not signed,
        )
    return Equation(objective.costs, flow.parameter, terms, spelt["unicode"], spelt["latex"])


def _summand(speller: NodeNotation, cost: str) -> tuple[float, str]:
    node = speller.structure.nodes[cost]
    spelt = speller.cost(cost, T if node.in_sequence else None)
    return node.sign, f"{speller.write.sum('t')} {spelt}" if node.in_sequence else spelt


def _totals(flow: Flow, speller: NodeNotation, kind: str) -> Iterator[tuple[tuple[str, str], str]]:
    """The recursions behind total derivatives. Spelling one may ask for another."""
    done: set[Vertex] = set()
    while set(flow.totals) - done:
        for vertex in [v for v in flow.totals if v not in done]:
            done.add(vertex)
            time = T if flow.nodes[vertex.name].in_sequence else None
            paths = flow.paths(vertex, time)
            left = speller.write.total(speller.write.symbol(flow.at(vertex, time)), speller.write.symbol(flow.symbol))
            right = " + ".join(speller.write.times.join(speller.factor(f) for f in p.factors) for p in paths)
            yield (kind, left), f"{left} = {right}"


def _where(graph: Graph, speller: NodeNotation, totals: dict[tuple[str, str], str], kind: str) -> tuple[tuple[str, str], ...]:
    """(formula, words) for every node: what it is, how it is differentiated, which costs are downstream."""
    rows = []
    structure, write = graph.structure, speller.write
    for name in structure.order:
        node = structure.nodes[name]
        time = speller.time(node)
        if node.kind == "stochastic":
            costs = [c for c in structure.costs if structure.window(name, c, live=True)]
            words = [brief(node.estimator), *_about(node, structure.first)]
            words.append(
                f"costs downstream: {', '.join(map(visible, costs))}"
                if costs
                else "no cost is downstream of it with a gradient"
            )
            formula = f"{speller.symbol(name, time)} = {speller.call(node, time, deep=False)}"
            if not speller.is_sampler(node):
                formula = f"{speller.symbol(name, time)} {'~' if kind == 'unicode' else chr(92) + 'sim'} {speller.density(node, time)}"
            rows.append((formula, "; ".join(words)))
        elif node.kind == "observed":
            rows.append((speller.symbol(name, time), "observed"))
        else:
            said: str = "reward: its cost is the negative" if node.sign < 0 else node.kind
            if node.hidden:
                owner, _, what = name.rpartition(".")
                said = f"{what} of {visible(owner)}"
            rows.append((f"{speller.of(name, time)} = {speller.call(node, time, deep=False)}", said))
    rows += [(formula, "") for (which, _), formula in totals.items() if which == kind]
    rows += _identities(speller)
    if any(e.detached for n in structure.nodes.values() for e in n.parents):
        rows.append((write.stopped("·" if kind == "unicode" else r"\cdot"), "the value without its gradient"))
    return tuple(rows)


def _identities(speller: NodeNotation) -> Iterator[tuple[str, str]]:
    """What the derivative of each estimator's weights is, or of its K, where it can be written."""
    for name in speller.structure.stochastic:
        node = speller.structure.nodes[name]
        if node.estimator.weighs:
            yield from ((equation, "") for equation in identity_of(node, speller, speller.time(node)))


def _about(node: Node, first: str | None) -> Iterator[str]:
    """What a reader needs to know about an estimator beyond its name."""
    samples = getattr(node.estimator, "samples", 1)
    if bends(node):
        yield "K = combine(w, credit) of the estimator"
    elif node.estimator.weighs and not isinstance(node.estimator, ScoreFunction):
        yield "w are the weights of its branches, over which the term is summed"
    elif isinstance(samples, int) and samples > 1:
        yield f"the mean over its {samples} branches"
    if first is not None and node.in_sequence and node.credit is None:
        yield "sums end with the episode"
    if isinstance(node.credit, Credit):
        yield f"credit: {brief(node.credit)}"
    if not node.estimator.unbiased:
        yield "biased"
