"""Evaluation: every node's value, in order, at one step after another or at all steps at once.

    outside the sequence        once
    inside, something recurs    step by step, T times                        (sampling a process)
    inside, all of it is given  once, on `[time, batch…]` blocks             (replaying a recording)

Values are `[branch axes n_k … n_0, (time,) batch…, event…]`. The j-th node that branches owns axis j, counted
leftwards from the batch, so values of different nodes broadcast against each other as they are.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform
from torch.distributions.constraints import Constraint
from torch.utils._pytree import tree_map

from scg.errors import GraphError, impossible, nearest
from scg.estimator import Branches, FirstOrder
from scg.node import Edge, Node
from scg.plan import Plan, signature
from scg.scan import shift
from scg.scope import Scope
from scg.trace import Trace, Weight

if TYPE_CHECKING:
    from scg.analysis import Structure
    from scg.graph import Graph


def evaluate(graph: Graph, given: Mapping[str, Any], inputs: Mapping[str, Any], steps: int | None) -> Trace:
    """Evaluate a graph: `given` values at nodes, the rest computed or drawn. The first time, everything is checked."""
    key = signature(given, inputs)
    plan = graph._plans.get(key)
    if plan is None:
        from scg.check import first_sample

        known(graph.structure, given)
        plan = first_sample(graph, *split(graph.structure, given, inputs), steps)
        plan.observed = tuple(name for name in inputs if name in graph.nodes)
        if not torch.compiler.is_compiling():
            graph._plans[key] = plan
    if plan.observed:
        given = {**given, **{name: inputs[name] for name in plan.observed}}
        inputs = {name: value for name, value in inputs.items() if name not in plan.observed}
    return Evaluation(graph, plan, given, inputs, steps).run()


def known(structure: Structure, given: Mapping[str, Any]) -> None:
    """Refuse what cannot be given: names of no node, and nodes that are computed."""
    for name in given:
        stem, _, suffix = name.partition(".")
        node = structure.nodes.get(stem)
        if node is None or (suffix and suffix not in ("log_prob", "credit", "prev")):
            raise GraphError(f"given[{name!r}]: no such node.{nearest(stem, structure.nodes)}")
        if not suffix and node.kind not in ("observed", "stochastic"):
            raise GraphError(f"given[{name!r}]: a {node.kind} node is computed from its parents, not given")


def split(
    structure: Structure, given: Mapping[str, Any], inputs: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Sort what a call passes into given node values and inputs; complain about what is missing or unknown."""
    for name in inputs:
        node = structure.nodes.get(name)
        if node is not None and node.kind != "observed":
            raise GraphError(f"node {name!r}: a {node.kind} node is computed here; to give its value use graph.replay")
    given = {**given, **{name: value for name, value in inputs.items() if name in structure.nodes}}
    inputs = {name: value for name, value in inputs.items() if name not in structure.nodes}
    for name in structure.required:
        if name not in inputs and name not in given:
            what = "observed node" if name in structure.nodes else "input"
            users = [n.name for n in structure.nodes.values() if any(name in (e.source, e.init) for e in n.parents)]
            by = f", needed by {', '.join(map(repr, users))}" if users else ""
            passed = nearest(name, inputs) or nearest(name, structure.nodes)
            raise GraphError(f"{what} {name!r} is missing{by}: pass it by keyword.{passed}")
    for name in inputs:
        if name not in structure.known_inputs:
            raise GraphError(
                f"{name!r} is neither an input nor an observed node of this graph.{nearest(name, structure.required)}"
            )
    return given, inputs


class Evaluation:
    """One evaluation in progress. `branching=False` draws one plain sample a node: the first sample's way."""

    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        given: Mapping[str, Any],
        inputs: Mapping[str, Any],
        steps: int | None,
        branching: bool = True,
        stepping: bool = False,
    ) -> None:
        self.graph, self.plan, self.given, self.inputs = graph, plan, given, inputs
        self.structure = graph.structure
        self.branching = branching
        self.axes: dict[str, int] = {}
        self.outside: dict[str, Any] = dict(inputs)
        self.distributions: dict[str, Distribution] = {}
        self.weights: dict[str, Weight] = {}
        self.scoped: list[_Scoped] = [_Scoped(scope) for scope in plan.scopes]
        self.inside = self.structure.inside
        timed = self.structure.has_sequence
        self.steps = self._steps(steps) if timed else None
        self.vectorised = timed and not stepping and self._replayable()
        self.rank = plan.batch_rank + self.vectorised
        self.previous: dict[str, Any] = {}

    def _steps(self, steps: int | None) -> int:
        known: int | None = None
        nodes = self.structure.nodes
        for name, value in self.given.items():
            if not isinstance(value, Tensor) or not (nodes.get(name) or nodes[name.partition(".")[0]]).in_sequence:
                continue
            if known is None:
                known = value.shape[0]
            elif known != value.shape[0]:
                raise GraphError(
                    f"given values of different length along time: {name!r} has {value.shape[0]} steps, another {known}; "
                    "they are [time, batch…, event…]"
                )
        if known is not None and steps is not None and steps != known:
            raise GraphError(f"steps={steps}, but values were given for {known} steps")
        steps = known if known is not None else steps
        if steps is None or not isinstance(steps, int) or steps < 1:
            raise GraphError(f"this graph has a sequence: say how many steps, steps=100 for instance (got {steps!r})")
        return steps

    def _replayable(self) -> bool:
        """Nothing recurrent is left to compute: every previous value that a node asks for is given."""
        return all(s in self.given or f"{s}.prev" in self.given for s in self.structure.recurrent_sources)

    def run(self) -> Trace:
        structure = self.structure
        values, history = self.outside, None
        for name in structure.observed_outside:
            if name in self.given:
                values[name] = self.given[name]
        if structure.before:
            self._nodes(structure.before, values, None)
        if self.vectorised:
            for name in structure.observed_inside:
                if name in self.given:
                    values[name] = self.given[name]
            self._nodes(self.inside, values, None)
        elif self.steps is not None:
            history = self._unrolled()
        trace = Trace(self, values, history)
        if structure.after:
            late = dict(values)
            for name in (*(node.name for node in self.inside), *structure.observed_inside):
                if name in trace:
                    late[name] = history[-1].values.get(name) if history else self._last(trace, name)
            self._nodes(structure.after, late, None)
            values.update({node.name: late[node.name] for node in structure.after})
        return trace

    def _last(self, trace: Trace, name: str) -> Any:
        value, rank = trace.values[name], self.plan.value_ranks.get(name)
        return value.select(-1 - rank, -1) if isinstance(value, Tensor) and rank is not None and value.ndim > rank else value

    def _unrolled(self) -> list[Step]:
        first = self.given.get(self.structure.first) if self.structure.first else None
        history: list[Step] = []
        assert self.steps is not None
        for t in range(self.steps):
            values = dict(self.outside)
            for name in self.structure.observed_inside:
                if name in self.given:
                    values[name] = self.given[name][t]
            self.distributions, self.weights = dict(self.distributions), dict(self.weights)
            self.first_now = None if first is None else first[t]
            self._nodes(self.inside, values, t)
            history.append(Step(values, self.distributions, self.weights, [s.snapshot() for s in self.scoped]))
            self.previous = values
            for scoped in self.scoped:
                scoped.previous = dict(scoped.values)
        return history

    # -- one step ------------------------------------------------------------------------------------------

    def _nodes(self, nodes: Iterable[Node], values: dict[str, Any], t: int | None) -> None:
        """Evaluate `nodes` in order into `values`."""
        for node in nodes:
            objective = self.plan.scope_of.get(node.name) if self.scoped else None
            if objective is not None:
                scoped = self.scoped[objective]
                with scoped.scope.detached():
                    result = self._call(node, self._arguments(node, _View(values, scoped, self.inputs), t, scoped))
                values[node.name] = self._cost(node, result)
                continue
            result = self._call(node, self._arguments(node, values, t, None))
            if node.kind == "stochastic":
                mixed = [s for s in self.scoped if node.name in s.scope.mixed]
                state = _random_state() if mixed else None
                if node.name in self.structure.asked_for:
                    remember(result)
                self.distributions[node.name] = result
                values[node.name], self.weights[node.name] = self._branch(node, result, t)
                for scoped in mixed:
                    self._again(node, values, t, scoped, state)
            else:
                values[node.name] = self._cost(node, result) if node.kind == "cost" else result
                for scoped in self.scoped:
                    if node.name in scoped.scope.mixed:
                        self._again(node, values, t, scoped, None)

    def _again(self, node: Node, values: dict[str, Any], t: int | None, scoped: _Scoped, state: Any) -> None:
        """Evaluate a node that an objective trains in part: under its swap, on the same random numbers."""
        with scoped.scope.detached():
            result = self._call(node, self._arguments(node, _View(values, scoped, self.inputs), t, scoped))
            if node.kind == "stochastic":
                with _restored(state):
                    scoped.distributions[node.name] = result
                    scoped.values[node.name], scoped.weights[node.name] = self._branch(node, result, t)
            else:
                scoped.values[node.name] = result

    def _cost(self, node: Node, value: Any) -> Any:
        if not isinstance(value, Tensor):
            value = torch.as_tensor(value, dtype=torch.get_default_dtype())
        return value if node.sign == 1.0 else -value

    def _arguments(self, node: Node, values: Any, t: int | None, scoped: _Scoped | None) -> Any:
        try:
            if node.simple is not None:
                if node.positional:
                    return [values[source] for _, source in node.simple]
                return {param: values[source] for param, source in node.simple}
            pairs = [(e, self._edge(node, e, values, t, scoped)) for e in node.parents if not (e.optional and e.source not in values)]
        except KeyError as error:
            raise GraphError(f"node {node.name!r}: no value for its parent {error.args[0]!r}") from None
        return [v for _, v in pairs] if node.positional else {e.param: v for e, v in pairs}

    def _edge(self, node: Node, edge: Edge, values: Any, t: int | None, scoped: _Scoped | None) -> Any:
        if edge.dist:
            return self._distribution(edge, values, t, scoped)
        value = self._previous(edge, values, t, scoped) if edge.lag else values[edge.source]
        return detached(value) if edge.detached else value

    def _distribution(self, edge: Edge, values: Any, t: int | None, scoped: _Scoped | None) -> Distribution:
        """An objective's own view of a distribution is the node's function called once more; nothing is drawn."""
        source = self.structure.nodes[edge.source]
        if edge.detached:
            return rebuilt(self.distributions[source.name], Tensor.detach, source.name)
        if scoped is not None and source.name in scoped.scope.cut:
            with scoped.scope.detached():
                return self._call(source, self._arguments(source, values, t, scoped))
        if scoped is not None and source.name in scoped.scope.mixed:
            return scoped.distributions[source.name]
        return self.distributions[source.name]

    def _previous(self, edge: Edge, values: Any, t: int | None, scoped: _Scoped | None) -> Any:
        assert edge.init is not None
        if self.vectorised:
            recorded = self.given.get(f"{edge.source}.prev")
            if recorded is not None:
                return recorded
            initial, now = values[edge.init], self.given[edge.source]
            before = shift(now, 1, 0, 0.0) if now.is_floating_point() else shift(now, 1, 0, 0)
            opens = torch.arange(now.shape[0], device=now.device).view(-1, *[1] * (self.rank - 1)) == 0
            if self.structure.first is not None:
                opens = opens | self.given[self.structure.first].bool()
            return torch.where(_grown(opens, before), initial, before)
        if t == 0 or not self.previous:
            return values[edge.init]
        if scoped is not None:
            before = _View(self.previous, scoped, self.inputs, before=True)[edge.source]
        else:
            before = self.previous[edge.source]
        if self.first_now is None:
            return before
        return torch.where(_grown(self.first_now.bool(), before), values[edge.init], before)

    first_now: Tensor | None = None

    def _call(self, node: Node, arguments: Any) -> Any:
        assert node.fn is not None
        if torch.compiler.is_compiling():
            return node.fn(*arguments) if node.positional else node.fn(**arguments)
        try:
            return node.fn(*arguments) if node.positional else node.fn(**arguments)
        except GraphError:
            raise
        except Exception as error:
            error.add_note(f"in node {node.name!r}" + _shapes(node, arguments))
            if isinstance(error, ValueError) and ("within the support" in str(error) or "satisfy the constraint" in str(error)):
                raise GraphError(
                    f"node {node.name!r}: a value lies outside the support or the constraints of a distribution there. "
                    "A relaxed sample where a hard one belongs does this: score the relaxed density instead, or use an "
                    f"estimator with hard samples.\n{error}"
                ) from error
            raise

    # -- branching -----------------------------------------------------------------------------------------

    def _branch(self, node: Node, distribution: Distribution, t: int | None) -> tuple[Any, Weight]:
        name = node.name
        if not isinstance(distribution, Distribution):
            raise GraphError(
                f"node {name!r}: a stochastic node's function returns a torch Distribution, got {type(distribution).__name__}"
            )
        at_once = self.vectorised and node.in_sequence
        if name in self.plan.first_order and not torch.compiler.is_compiling():
            # On the parameters, not on the sample: samplers that differentiate once cut the way back to θ themselves.
            distribution = rebuilt(distribution, lambda p: FirstOrder.apply(p, name) if p.requires_grad else p, name)
        if name in self.given:
            branches = self._given(node, distribution, t)
        else:
            if at_once:
                distribution = self._with_time(name, distribution)
            if self.branching:
                branches = node.estimator.branch(distribution)
            else:
                branches = plain(node, distribution)
        if branches.n is None:
            return branches.values, Weight(branches.score, branches.weights, None, 0, node.in_sequence)
        return self._placed(node, distribution, branches)

    def _given(self, node: Node, distribution: Distribution, t: int | None) -> Branches:
        value, recorded = self.given[node.name], self.given.get(f"{node.name}.log_prob")
        if t is not None:
            value, recorded = value[t], None if recorded is None else recorded[t]
        try:
            if self.branching:
                branches = node.estimator.given(distribution, value, recorded)
                if branches.weights is not None and not torch.compiler.is_compiling() and bool((branches.weights == 0).any()):
                    impossible(node.name, branches.weights)
                return branches
            return Branches(value)
        except ValueError as error:
            raise GraphError(f"node {node.name!r}: {error}") from error

    def _with_time(self, name: str, distribution: Distribution) -> Distribution:
        """A node drawn for all steps at once needs a draw for each: its distribution grows the axis if it has none."""
        shape, rank = distribution.batch_shape, self.plan.ranks[name]
        if len(shape) > rank:
            return distribution
        assert self.steps is not None
        return distribution.expand(torch.Size((self.steps, *[1] * (self.plan.batch_rank - rank), *shape)))

    def _placed(self, node: Node, distribution: Distribution, branches: Branches) -> tuple[Any, Weight]:
        """Give the branches their own axis, and room for the axes and batch dimensions that the node does not have."""
        name = node.name
        if node.in_sequence:
            fed = self.structure.feeds_prev(name)
            if fed is not None:
                raise GraphError(
                    f"node {name!r}: it branches, and {fed!r}, which it reaches, feeds a prev(…), so branches would multiply "
                    "at every step. Use one sample here and put replicates into the batch."
                )
        axis = self.axes.setdefault(name, len(self.axes))
        rank = self.plan.ranks[name] + (self.vectorised and node.in_sequence)
        length = len(distribution.batch_shape)
        present = max(0, length - max(self.rank, rank))
        own = min(length - present, self.rank)

        def place(x: Tensor) -> Tensor:
            if axis == present and own == self.rank:
                return x
            rest = x.shape[1:]
            return x.reshape(
                x.shape[0], *[1] * (axis - present), *rest[:present], *[1] * (self.rank - own), *rest[present:]
            )

        score = None if branches.score is None else place(branches.score)
        weights = None if branches.weights is None else place(branches.weights)
        return place(branches.values), Weight(score, weights, branches.n, axis, node.in_sequence)


class Step:
    """What one step of an unrolled sequence left."""

    __slots__ = ("values", "distributions", "weights", "scoped")

    def __init__(self, values: Any, distributions: Any, weights: Any, scoped: Any) -> None:
        self.values, self.distributions, self.weights, self.scoped = values, distributions, weights, scoped


class _Scoped:
    """One objective's own evaluations of mixed nodes."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.values: dict[str, Any] = {}
        self.weights: dict[str, Weight] = {}
        self.distributions: dict[str, Distribution] = {}
        self.previous: dict[str, Any] = {}

    def snapshot(self) -> dict[str, Weight]:
        return dict(self.weights)


class _View:
    """Node values as one objective sees them."""

    def __init__(self, base: Mapping[str, Any], scoped: _Scoped, inputs: Mapping[str, Any], before: bool = False) -> None:
        self.base, self.scope = base, scoped.scope
        self.own = scoped.previous if before else scoped.values

    def __getitem__(self, name: str) -> Any:
        if name in self.scope.mixed:
            return self.own[name]
        value = self.base[name]
        return detached(value) if name in self.scope.cut or name in self.scope.blocked_inputs else value

    def __contains__(self, name: str) -> bool:
        return name in self.base


def remember(distribution: Any) -> None:
    """Let a distribution that other nodes ask for keep its log-density at the last value it was asked about.

    The estimator takes it at the sample, and a cost that is given the sample and its `dist` takes it again.
    """
    if torch.compiler.is_compiling() or not isinstance(distribution, Distribution):
        return
    compute, itself = type(distribution).log_prob, weakref.ref(distribution)  # no cycle: tensors must die with the trace
    kept: list[Any] = [None, -1, None]

    def remembered(value: Tensor) -> Tensor:
        if value is kept[0] and value._version == kept[1]:
            return kept[2]
        result = compute(itself(), value)
        kept[:] = value, value._version, result
        return result

    distribution.log_prob = remembered  # type: ignore[method-assign]


def plain(node: Node, distribution: Distribution) -> Branches:
    """One sample without an axis, differentiable where the estimator's path is; for examining the graph."""
    from scg.estimator import Pathwise

    if isinstance(node.estimator, Pathwise) and distribution.has_rsample:
        return Branches(distribution.rsample())
    value = distribution.sample()
    return Branches(value)


def detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    return tree_map(lambda v: v.detach() if isinstance(v, Tensor) else v, value)


def rebuilt(distribution: Distribution, change: Callable[[Tensor], Tensor], name: str) -> Distribution:
    """A copy of a distribution with `change` applied to its parameters, all the way down."""

    def rebuild(thing: Any) -> Any:
        if isinstance(thing, Tensor):
            return change(thing)
        if isinstance(thing, nn.Module):
            raise GraphError(
                f"node {name!r}: its distribution holds a {type(thing).__name__}, whose parameters cannot be told apart from "
                "outside. For detach(dist(…)), declare a second node that builds it under torch.no_grad()."
            )
        if isinstance(thing, (list, tuple)):
            return type(thing)(rebuild(part) for part in thing)
        if isinstance(thing, (Distribution, Transform, Constraint)):
            twin = copy.copy(thing)
            twin.__dict__ = {k: rebuild(v) for k, v in vars(thing).items() if k != "log_prob"}
            return twin
        return thing

    return rebuild(distribution)


def _grown(mask: Tensor, like: Tensor) -> Tensor:
    """`mask` with trailing axes to broadcast over the event of `like`."""
    return mask.reshape((*mask.shape, *[1] * (like.ndim - mask.ndim)))


def _shapes(node: Node, arguments: Any) -> str:
    pairs = zip((e.source for e in node.parents), arguments, strict=False) if isinstance(arguments, list) else arguments.items()
    shown = ", ".join(f"{k}: {tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__}" for k, v in pairs)
    return f", called with {shown}" if shown else ""


def _random_state() -> Tensor:
    if torch.compiler.is_compiling():
        raise GraphError("a stochastic node that objectives train in parts cannot be compiled; detach it for all but one")
    return torch.get_rng_state()


class _restored:
    """Draw once more from where `state` was taken, then go on from where the stream stood."""

    def __init__(self, state: Tensor | None) -> None:
        self.state = state

    def __enter__(self) -> None:
        if self.state is not None:
            self.now = torch.get_rng_state()
            torch.set_rng_state(self.state)

    def __exit__(self, *_: object) -> None:
        if self.state is not None:
            torch.set_rng_state(self.now)
