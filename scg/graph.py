"""The specification of a stochastic computation graph: declarations, and the calls that evaluate it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol, TypeVar, overload

import torch
from torch import Tensor

from scg.analysis.structure import Window
from scg.auto import chosen
from scg.checks.check import findings
from scg.checks.finding import Finding
from scg.checks.signature import Plans
from scg.credit import Credit, check_credit_or_baseline
from scg.errors import GraphError, nearest, visible
from scg.estimator import Estimator
from scg.evaluation.call_arguments import check_checkpoint, check_steps
from scg.evaluation.evaluation import Evaluation
from scg.node import Edge, Node, check_bias, check_edge, check_function, edges_of, node_name
from scg.randomness import randomness
from scg.specification import Specification
from scg.trace import Trace

F = TypeVar("F", bound=Callable[..., Any])
Parents = Sequence[str | Edge] | None
CreditLike = Callable[..., Tensor] | str | float | None


class Branching(Protocol):
    """What can stand for an estimator: an `Estimator`, or any object that draws branches."""

    def branch(self, distribution: Any, /) -> Any: ...


class Graph(Specification):
    """A stochastic computation graph (Schulman et al. 2015): declared once, evaluated any number of times.

    Nodes are functions of their parents; a stochastic node's function returns a `torch.distributions.Distribution`
    and carries an estimator, a cost's function returns one cost per batch element.

        graph = scg.Graph()

        @graph.stochastic(ScoreFunction())
        def b(theta):
            return Bernoulli(logits=theta)

        @graph.cost
        def loss(b):
            return (b - 0.499) ** 2

        graph.surrogate(theta=theta).backward()
    """

    def __init__(self) -> None:
        super().__init__()
        self._inside = False
        self._plans = Plans(self)

    def __repr__(self) -> str:
        return f"Graph({', '.join(f'{visible(n.name)}: {n.kind}' for n in self.nodes.values() if not n.hidden)})"

    def _repr_html_(self) -> str:
        from scg.draw import to_html

        return to_html(self)

    # -- declarations --------------------------------------------------------------------------------------

    @overload
    def deterministic(self, fn: F, *, name: str | None = None, parents: Parents = None) -> F: ...
    @overload
    def deterministic(self, fn: None = None, *, name: str | None = None, parents: Parents = None) -> Callable[[F], F]: ...
    def deterministic(self, fn: Callable[..., Any] | None = None, *, name: str | None = None, parents: Parents = None) -> Any:
        """A node whose value is `fn(parents)`."""
        return self._declare(fn, "deterministic", name, parents)

    @overload
    def stochastic(
        self,
        estimator: Branching | str,
        fn: F,
        /,
        *,
        credit: Credit | CreditLike = None,
        baseline: CreditLike = None,
        plate: int | None = None,
        name: str | None = None,
        parents: Parents = None,
    ) -> F: ...
    @overload
    def stochastic(
        self,
        estimator: Branching | str,
        /,
        *,
        credit: Credit | CreditLike = None,
        baseline: CreditLike = None,
        plate: int | None = None,
        name: str | None = None,
        parents: Parents = None,
    ) -> Callable[[F], F]: ...
    @overload
    def stochastic(
        self,
        fn: F,
        /,
        *,
        estimator: Branching | str,
        credit: Credit | CreditLike = None,
        baseline: CreditLike = None,
        plate: int | None = None,
        name: str | None = None,
        parents: Parents = None,
    ) -> F: ...
    @overload
    def stochastic(
        self,
        *,
        estimator: Branching | str,
        credit: Credit | CreditLike = None,
        baseline: CreditLike = None,
        plate: int | None = None,
        name: str | None = None,
        parents: Parents = None,
    ) -> Callable[[F], F]: ...
    def stochastic(
        self,
        *args: Any,
        estimator: Any = None,
        credit: Credit | CreditLike = None,
        baseline: CreditLike = None,
        plate: int | None = None,
        name: str | None = None,
        parents: Parents = None,
    ) -> Any:
        """A node that is sampled from the distribution `fn(parents)`, and differentiated by `estimator`.

        estimator an `Estimator`, or "auto": `scg.tune` chooses it by measurement, before the first sample
        credit    replaces the cost downstream of the node: a `Credit`, a node's name, a function of nodes, a constant
        baseline  is subtracted from it: a node's name, a function of nodes that this node does not influence, a constant
        plate     draws so many samples along an axis of their own, left of the batch: `[K, batch…, event…]`. What follows
                  keeps that axis until a cost reduces it. For bounds that are not linear in their samples

        `@graph.stochastic(ScoreFunction())`, or `graph.stochastic(ScoreFunction(), policy, name="action", parents=["obs"])`.
        """
        where = f"node {name!r}: " if name else ""
        estimators = [] if estimator is None else [estimator]
        functions = []
        for arg in args:
            if isinstance(arg, type) and hasattr(arg, "branch"):
                raise GraphError(
                    f"{where}graph.stochastic takes an estimator (an instance, as in ScoreFunction()), got the class {arg.__name__}"
                )
            if isinstance(arg, str) or hasattr(arg, "branch"):
                estimators.append(arg)
            elif callable(arg):
                functions.append(arg)
            else:
                raise GraphError(
                    f"{where}graph.stochastic takes an estimator (an instance, as in ScoreFunction()) and a function, got {arg!r}"
                )
        if len(estimators) > 1 or len(functions) > 1:
            raise GraphError(
                f"{where}graph.stochastic takes one estimator and one function, got {', '.join(map(repr, estimators + functions))}"
            )
        if not estimators:
            raise GraphError(f"{where}graph.stochastic needs an estimator: graph.stochastic(ScoreFunction()), say")
        fn = functions[0] if functions else None
        estimator = chosen(estimators[0], name)
        return self._declare(
            fn, "stochastic", name, parents, estimator=estimator, credit=credit, baseline=baseline, plate=plate
        )

    @overload
    def cost(self, fn: F, *, trains: Any = None, name: str | None = None, parents: Parents = None) -> F: ...
    @overload
    def cost(
        self, fn: None = None, *, trains: Any = None, name: str | None = None, parents: Parents = None
    ) -> Callable[[F], F]: ...
    def cost(
        self, fn: Callable[..., Any] | None = None, *, trains: Any = None, name: str | None = None, parents: Parents = None
    ) -> Any:
        """A node to minimise, `[batch…]`. `trains`: the modules, parameters or inputs (by name) that alone get its gradient."""
        return self._declare(fn, "cost", name, parents, trains=trains)

    @overload
    def reward(self, fn: F, *, trains: Any = None, name: str | None = None, parents: Parents = None) -> F: ...
    @overload
    def reward(
        self, fn: None = None, *, trains: Any = None, name: str | None = None, parents: Parents = None
    ) -> Callable[[F], F]: ...
    def reward(
        self, fn: Callable[..., Any] | None = None, *, trains: Any = None, name: str | None = None, parents: Parents = None
    ) -> Any:
        """A node to maximise: a cost whose value is `-fn(parents)`, negated here and nowhere else."""
        return self._declare(fn, "cost", name, parents, trains=trains, sign=-1.0)

    def observed(self, name: str, parents: Sequence[str | Edge] = ()) -> None:
        """A node whose structure is known and whose value is always given: an environment, a data set, recorded flags."""
        if not isinstance(name, str):
            raise GraphError(
                f"graph.observed({name!r}): an observed node has a name and no function; its value is given at each call"
            )
        self._declare(None, "observed", name, () if parents is None else parents)

    @contextmanager
    def sequence(self, first: str | None = None) -> Iterator[None]:
        """Nodes declared inside exist at every time step. A graph has one sequence; entering again adds to it.

        first   the observed node `[time, batch…]` that is true where an episode starts: there `prev` gives its `init`,
                and products of weights, traces and discounted sums begin anew
        """
        if first is not None and not isinstance(first, str):
            raise GraphError(f"sequence(first={first!r}): first= is the name of an observed node of the sequence")
        if self._inside:
            raise GraphError("sequence() inside sequence(): a graph has one time axis; put the other one into the batch")
        if first is not None and self.first not in (None, first):
            raise GraphError(f"sequence(first={first!r}): this graph's sequence already has first={self.first!r}")
        self.first = first or self.first
        self._inside = True
        try:
            yield
        finally:
            self._inside = False

    def _declare(
        self,
        fn: Callable[..., Any] | None,
        kind: Any,
        name: str | None,
        parents: Sequence[str | Edge] | None,
        **settings: Any,
    ) -> Any:
        if fn is None and kind != "observed":  # a decorator with options

            def declared(function: Callable[..., Any]) -> Any:
                check_function(function, kind, name)
                return self._declare(function, kind, name, parents, **settings)

            return declared
        if kind != "observed":
            check_function(fn, kind, name)
        title = node_name(fn, name)
        if title in self.nodes:
            raise GraphError(f"node {title!r} is declared twice")
        edges, positional = edges_of(title, fn, parents)
        if not self._inside:  # after the sequence a prefix is all of it
            edges = tuple(replace(e, lag=0) if e.prefix else e for e in edges)
        for edge in edges:
            check_edge(title, edge, self._inside)
        if settings.get("estimator") is not None:
            check_bias(title, settings["estimator"])
        hidden = {}
        for what in ("credit", "baseline"):
            given = settings.get(what)
            check_credit_or_baseline(title, what, given)
            if callable(given) and not isinstance(given, Credit):
                hidden[f"{title}.{what}"] = edges_of(f"{title}.{what}", given, None), given
                settings[what] = f"{title}.{what}"
            elif isinstance(given, Tensor):
                settings[what] = float(given)
        self.nodes[title] = Node(title, kind, fn, edges, self._inside, positional, **settings)
        for label, ((label_edges, by_position), function) in hidden.items():
            self.nodes[label] = Node(label, "deterministic", function, label_edges, self._inside, by_position, hidden=True)
        self._structure, self._plans = None, Plans(self)
        return fn

    # -- analysis ------------------------------------------------------------------------------------------

    def ancestors(self, name: str) -> tuple[str, ...]:
        """The stochastic nodes that influence `name`, in topological order."""
        self._known(name)
        return tuple(i.node for i in self.structure.influences(name))

    def lags(self, source: str, target: str) -> Window | None:
        """The window of lags at which `source` influences `target` along time; None if it never does."""
        self._known(source)
        self._known(target)
        return self.structure.window(source, target)

    def _known(self, name: str) -> None:
        if name not in self.nodes:
            raise GraphError(f"{name!r} is no node of this graph.{nearest(name, self.nodes)}")

    def check(self, *, steps: int | None = None, **inputs: Any) -> list[Finding]:
        """What is wrong, errors first. Without inputs the structure alone; with them also a first sample, examined."""
        return findings(self, inputs, steps)

    def with_estimators(self, **estimators: Estimator | str) -> Graph:
        """The same graph with other estimators at the named stochastic nodes."""
        for name in estimators:
            self._known(name)
            if self.nodes[name].kind != "stochastic":
                raise GraphError(f"node {name!r}: a {self.nodes[name].kind} node has no estimator to replace")
        other = Graph()
        other.first = self.first
        for name, node in self.nodes.items():
            if name in estimators:
                estimator = chosen(estimators[name], name)
                check_bias(name, estimator)
                node = replace(node, estimator=estimator)
            other.nodes[name] = node
        return other

    def to_dot(self) -> str:
        """The graph in Graphviz's language, in the notation of Schulman et al. (2015)."""
        from scg.draw import to_dot

        return to_dot(self)

    def to_mermaid(self) -> str:
        """The graph in Mermaid's language."""
        from scg.draw import to_mermaid

        return to_mermaid(self)

    def derivation(self, wrt: Sequence[str] | None = None) -> Any:
        """The gradient estimator of this graph, term by term, in Unicode and LaTeX."""
        from scg.derivation import derive

        return derive(self, wrt)

    # -- evaluation ----------------------------------------------------------------------------------------

    def sample(
        self,
        *,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        checkpoint: int | None = None,
        **inputs: Any,
    ) -> Trace:
        """Ancestral sampling. Observed nodes are given by keyword, like inputs; in a sequence `[time, batch…, event…]`.

        checkpoint   of a sequence that is stepped through, keep the nodes' values and compute what autograd keeps inside of
                     them again, so many steps at a time: less memory, one more forward pass, the same gradient
        """
        if generator is None:
            return self._evaluated({}, inputs, steps, checkpoint)
        with randomness(generator):
            return self._evaluated({}, inputs, steps, checkpoint)

    def replay(
        self,
        given: Mapping[str, Any],
        *,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        checkpoint: int | None = None,
        **inputs: Any,
    ) -> Trace:
        """Evaluation at recorded values, vectorised over time where nothing recurrent is left to compute.

        given   values by node name; besides, for a stochastic node x: `"x.log_prob"` (log μ of the recording policy:
                its weight becomes π/μ), `"x.credit"` (a credit computed before), and `"x.prev"` (its previous values).
                What is not given is sampled or computed.

        `checkpoint` as in `sample`; what is evaluated at all steps at once has no steps to keep.
        """
        if not isinstance(given, Mapping):
            raise GraphError(f"graph.replay(given): a dict of values by node name, got {type(given).__name__}")
        if generator is None:
            return self._evaluated(given, inputs, steps, checkpoint)
        with randomness(generator):
            return self._evaluated(given, inputs, steps, checkpoint)

    def surrogate(
        self,
        *,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        checkpoint: int | None = None,
        **inputs: Any,
    ) -> Tensor:
        """Draw once and return the scalar surrogate: its value estimates the objective (mean over the batch, sum over
        costs and time), its derivatives the objective's derivatives. `checkpoint` as in `sample`."""
        return self.sample(steps=steps, generator=generator, checkpoint=checkpoint, **inputs).surrogate()

    def _evaluated(
        self, given: Mapping[str, Any], inputs: Mapping[str, Any], steps: int | None, stretch: int | None = None
    ) -> Trace:
        """`given` values at nodes, the rest computed or drawn. What was not seen before is examined first."""
        if stretch is not None:
            check_checkpoint(self.structure, stretch)
        if steps is not None:
            check_steps(self.structure, steps)
        plans = self._plans
        plan = plans.trace(given, inputs, steps) if torch.compiler.is_compiling() else plans.find(given, inputs, steps)
        if plan.observed:
            given = {**given, **{name: inputs[name] for name in plan.observed}}
            inputs = {name: value for name, value in inputs.items() if name not in plan.observed}
        evaluation = Evaluation(self, plan, given, inputs, steps, stretch=stretch)
        return Trace(evaluation, evaluation.run())
