"""Random graphs for Hypothesis: whatever they look like, their surrogates must be unbiased.

    @given(strategies.graphs())
    def test_my_estimator_everywhere(case):
        assert_unbiased(case.graph.with_estimators(...), case.inputs, steps=case.steps)

A case has 1 to 6 nodes besides its costs: Bernoulli, Categorical, Normal, Exponential, deterministic; several parents
each, some through `detach`; estimators that suit them, with one branch or several, nested; baselines (a constant, a
node, a function); a batch; a sequence of two or three steps with recurrences. All functions are smooth, all numbers
of size 1. `print(case)` lists the declarations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch import distributions as D

from scg.errors import GraphError
from scg.estimator import Estimator, Pathwise, ScoreFunction
from scg.graph import Graph
from scg.node import detach, prev
from scg.testing.reference import Enumerated

TrialKind = Literal["bernoulli", "categorical", "normal", "exponential", "deterministic"]
FINITE: tuple[TrialKind, ...] = ("bernoulli", "categorical")
REAL: tuple[TrialKind, ...] = ("normal", "exponential")
MOST_OUTCOMES = 256  # of all occurrences together; a quarter of that for each real axis beside them


@dataclass(frozen=True)
class Case:
    """A graph, inputs that it can be evaluated with, its number of steps, and its declarations as text."""

    graph: Graph
    inputs: dict[str, Tensor]
    steps: int | None
    text: str

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Formula:
    """Σ aᵢ fᵢ(xᵢ) + a₀, with a product of the first and the last term for curvature; then what the node makes of it."""

    kind: TrialKind | Literal["cost"]
    terms: tuple[tuple[float, str], ...]
    constant: float

    def __call__(self, *values: Any) -> Any:
        parts = [a * getattr(torch, f)(v.to(torch.get_default_dtype())) for (a, f), v in zip(self.terms, values, strict=True)]
        total = sum(parts[1:], parts[0]) + self.constant + 0.5 * parts[0] * parts[-1]
        match self.kind:
            case "bernoulli":
                return D.Bernoulli(logits=total)
            case "categorical":
                return D.Categorical(logits=torch.stack([torch.zeros_like(total), total, 0.4 - 0.7 * total], -1))
            case "normal":
                return D.Normal(total, torch.exp(0.3 * torch.sin(total)))
            case "exponential":
                return D.Exponential(torch.exp(0.5 * torch.tanh(total)))
        return total

    def __str__(self) -> str:
        return " + ".join(f"{a:g}·{f}" for a, f in self.terms) + f" + {self.constant:g}"


FINITE_ESTIMATORS: tuple[Estimator, ...] = (ScoreFunction(), ScoreFunction(samples=2), ScoreFunction(samples=3), Enumerated())
REAL_ESTIMATORS: tuple[Estimator, ...] = (Pathwise(), ScoreFunction(), Pathwise(samples=2), ScoreFunction(samples=2))
COEFFICIENTS = st.sampled_from([1.0, -1.0, 0.5, -0.5, 1.5])
FUNCTIONS = st.sampled_from(["sin", "tanh", "cos"])


@st.composite
def graphs(
    draw: Callable[..., Any],
    max_nodes: int = 6,
    *,
    finite: Sequence[Estimator] = FINITE_ESTIMATORS,
    real: Sequence[Estimator] = REAL_ESTIMATORS,
    sequences: bool = True,
    detached: bool = True,
    baselines: bool = True,
    batched: bool = True,
) -> Case:
    """Random graphs with estimators out of `finite` (for finite supports) and `real`; without real ones, no real nodes."""
    return _Builder(draw, finite, real, detached, baselines).case(max_nodes, sequences, batched)


class _Builder:
    def __init__(
        self, draw: Callable[..., Any], finite: Sequence[Estimator], real: Sequence[Estimator], detached: bool, baselines: bool
    ) -> None:
        self.draw, self.finite, self.real = draw, list(finite), list(real)
        self.detached, self.baselines = detached, baselines
        self.graph = Graph()
        self.lines: list[str] = []
        self.outcomes, self.axes = 1, 0  # joint values and real axes of all occurrences: what an exact oracle has to sum
        self.recurrent: set[str] = set()
        self.batched = False

    def case(self, max_nodes: int, sequences: bool, batched: bool) -> Case:
        draw = self.draw
        count = draw(st.integers(1, max_nodes))
        steps = draw(st.sampled_from([None, None, 2, 3])) if sequences else None
        inside = draw(st.integers(1, min(count, 3))) if steps else 0
        inputs: dict[str, Tensor] = {
            name: torch.tensor(draw(st.sampled_from([0.3, -0.6, 0.9])), requires_grad=True)
            for name in (["theta", "phi"] if draw(st.booleans()) else ["theta"])
        }
        self.batched = batched and draw(st.integers(0, 3)) == 0
        if self.batched:
            inputs["data"] = torch.tensor([0.4, -0.8])
        if steps:
            inputs["start"] = torch.full_like(inputs["data"], 0.2) if "data" in inputs else torch.tensor(0.2)
        roots = [n for n in inputs if n != "start"]
        nodes: list[str] = []
        for i in range(count - inside):
            nodes.append(self.node(i, nodes, roots, None, []))
        within: list[str] = []
        if steps:
            with self.graph.sequence():
                names = [f"x{i}" for i in range(count - inside, count)]
                # Who is asked for in the next step must be known beforehand: it may not branch, nor may what it hangs on.
                self.recurrent = set(draw(st.lists(st.sampled_from(names), min_size=1, unique=True)))
                for i in range(count - inside, count):
                    within.append(self.node(i, [*nodes, *within], roots, steps, names))
                self.cost(0, [*nodes, *within], within[-1], inside=True)
        if not steps or draw(st.booleans()):
            self.cost(1, nodes or roots, nodes[-1] if nodes else roots[0], inside=False)
        if draw(st.integers(0, 3)) == 0:
            self.cost(2, nodes or roots, roots[0], inside=False)
        try:
            self.analysed()
        except GraphError as refusal:  # what detach does beside live paths can be refused by name
            if "no window tells them apart" not in str(refusal) and "beside that through detach" not in str(refusal):
                raise
            self.attached()
        read = {e.source for n in self.graph.nodes.values() for e in n.parents} | {
            e.init for n in self.graph.nodes.values() for e in n.parents
        }
        inputs = {name: value for name, value in inputs.items() if name in read}
        shown = ", ".join(f"{k}={v.tolist()}" for k, v in inputs.items())
        return Case(self.graph, inputs, steps, "\n".join([*self.lines, f"inputs: {shown}; steps={steps}"]))

    def analysed(self) -> None:
        for cost in self.graph.structure.costs:
            self.graph.structure.influences(cost)

    def attached(self) -> None:
        """Every detached edge as a live one."""
        for name, node in self.graph.nodes.items():
            self.graph.nodes[name] = replace(node, parents=tuple(replace(e, detached=False) for e in node.parents))
        self.graph._structure = None
        self.lines = [line.replace("detach(", "(") for line in self.lines]

    # -- nodes ---------------------------------------------------------------------------------------------

    def node(self, i: int, earlier: list[str], roots: list[str], steps: int | None, loop: list[str]) -> str:
        draw, name, times = self.draw, f"x{i}", steps or 1
        # An oracle sums every outcome on a grid or on panels of every real axis.
        room = MOST_OUTCOMES // (self.outcomes * 4**self.axes)
        kinds: list[TrialKind] = [k for k in FINITE if (2 if k == "bernoulli" else 3) ** times <= room]
        if self.real and self.axes + times <= 2 and 4**times <= room:
            kinds += list(REAL)
        if i or not kinds:
            kinds.insert(0, "deterministic")
        kind = draw(st.sampled_from(kinds))
        parents = draw(st.lists(st.sampled_from([*earlier, *roots]), min_size=1, max_size=3, unique=True))
        if i == 0:
            parents = list(dict.fromkeys(["theta", *parents]))  # something is to be differentiated
        edges: list[Any] = [self.edge(p, p in self.graph.nodes) for p in parents]
        if steps:
            for source in sorted(self.recurrent):
                if source == name or draw(st.booleans()):
                    edge = prev(source, init="start")
                    edges.append(detach(edge) if self.detached and draw(st.integers(0, 5)) == 0 else edge)
        # Where something recurs, branches would multiply at every step: only what nothing inside is made of may branch.
        may_branch = name not in self.recurrent and bool(loop) and name == loop[-1]
        formula = self.formula(kind, len(edges))
        if kind == "deterministic":
            self.graph.deterministic(formula, name=name, parents=edges)
            self.lines.append(f"{name} = {formula} of {self.spelled(edges)}")
            return name
        if kind in FINITE:
            self.outcomes *= (2 if kind == "bernoulli" else 3) ** times
        else:
            self.axes += times
        estimator = draw(
            st.sampled_from(self.single(kind) if steps and not may_branch else self.finite if kind in FINITE else self.real)
        )
        baseline = self.baseline(earlier, roots)
        self.graph.stochastic(estimator, formula, name=name, parents=edges, baseline=baseline)
        self.lines.append(
            f"{name} ~ {kind}({formula}) of {self.spelled(edges)}: {estimator!r}, baseline={getattr(baseline, '__name__', baseline)}"
            + (" in the sequence" if steps else "")
        )
        return name

    def single(self, kind: TrialKind) -> list[Estimator]:
        """Estimators of one branch."""
        given = self.finite if kind in FINITE else self.real
        one = [e for e in given if getattr(e, "samples", None) == 1]
        return one or [ScoreFunction()]

    def edge(self, name: str, is_node: bool) -> Any:
        if self.detached and is_node and self.draw(st.integers(0, 5)) == 0:
            return detach(name)
        return name

    def formula(self, kind: Any, terms: int) -> Formula:
        draw = self.draw
        return Formula(kind, tuple((draw(COEFFICIENTS), draw(FUNCTIONS)) for _ in range(terms)), draw(COEFFICIENTS))

    def baseline(self, earlier: list[str], roots: list[str]) -> Any:
        """A constant, an earlier node, or a function of one: nothing that the node could influence."""
        choice = self.draw(st.sampled_from(["none", "none", "constant", "node", "function"])) if self.baselines else "none"
        if choice == "constant":
            return self.draw(COEFFICIENTS)
        outside = [n for n in earlier if not self.graph.nodes[n].in_sequence]
        if choice == "node" and outside:
            return self.draw(st.sampled_from(outside))
        if choice == "function":
            return _baseline_of(self.draw(st.sampled_from(outside or roots)))
        return None

    def cost(self, i: int, names: list[str], surely: str, inside: bool) -> None:
        others = self.draw(st.lists(st.sampled_from(names), max_size=2, unique=True))
        batch = ["data"] if self.batched else []  # every cost has the whole batch: it is what the graph's batch is
        parents = list(dict.fromkeys([surely, *others, *batch]))
        edges = [self.edge(p, p in self.graph.nodes and p != surely) for p in parents]
        formula = self.formula("cost", len(edges))
        self.graph.cost(formula, name=f"cost{i}", parents=edges)
        self.lines.append(f"cost{i} = {formula} of {self.spelled(edges)}" + (" in the sequence" if inside else ""))

    @staticmethod
    def spelled(edges: list[Any]) -> str:
        words = []
        for edge in edges:
            if isinstance(edge, str):
                words.append(edge)
            else:
                word = f"prev({edge.source})" if edge.lag else edge.source
                words.append(f"detach({word})" if edge.detached else word)
        return ", ".join(words)


def _baseline_of(name: str) -> Callable[..., Tensor]:
    """A function whose one parameter is called `name`: parameters are how a baseline says what it reads."""
    scope: dict[str, Any] = {"torch": torch}
    exec(f"def baseline({name}):\n    return torch.sin({name}.to(torch.get_default_dtype())) + 0.5", scope)
    return scope["baseline"]
