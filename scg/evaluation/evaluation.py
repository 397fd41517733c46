"""Evaluation: every node's value, in order, at one step after another or at all steps at once.

    outside the sequence        once
    inside, something recurs    step by step, T times                        (sampling a process)
    inside, all of it is given  once, on `[time, batch…]` blocks             (replaying a recording)

Two kinds of recurrence are evaluated at once as well. A deterministic node that reads no previous value but its own, and whose
function has a method `along_time` (a recurrent network): the method takes the function's arguments with a time axis, the initial
value in the place of the previous one, and returns all steps. Where the sequence has `first=`, the function must read that node,
for `along_time` resets its state where an episode starts; and it must read `prev` without `detach`, since no gradient can be cut
within the method. And a node that reads a prefix (`prefix.py`), such as a transformer.

`axes` says where the axes of a value lie, so that values of different nodes broadcast against each other as they are.

With `stretch` K (`checkpoint=` of `Graph.sample`), the second case keeps the values of the nodes only. What autograd saves inside of
their functions is computed again in the backward pass, K steps at a time, on the same random numbers (`torch.utils.checkpoint`;
Chen et al. 2016): less memory, one more forward pass.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.utils.checkpoint import checkpoint

from scg.distributions.densities import remember, unused
from scg.estimator import Branches
from scg.evaluation import prefix
from scg.evaluation.axes import Axes, at_step
from scg.evaluation.branching import branch, other_branches, plain
from scg.evaluation.call_arguments import length
from scg.evaluation.node_call import arguments_of, call
from scg.evaluation.objectives import ObjectiveView, Scoped, random_state, restored
from scg.evaluation.plan import Plan
from scg.evaluation.record import Record, Step, real
from scg.evaluation.weight import Weight
from scg.node import Node
from scg.specification import Specification


class Evaluation:
    """One evaluation in progress. `branching=False` draws one plain sample a node: the first sample's way."""

    def __init__(
        self,
        graph: Specification,
        plan: Plan,
        given: Mapping[str, Any],
        inputs: Mapping[str, Any],
        steps: int | None,
        branching: bool = True,
        stepping: bool = False,
        stretch: int | None = None,
    ) -> None:
        self.graph, self.plan, self.given, self.inputs = graph, plan, given, inputs
        self.structure = graph.structure
        self.branching, self.stretch = branching, stretch
        self.verifying = self.learning = False
        self.total_steps = steps
        self.state: Tensor | None = None
        self.outside: dict[str, Any] = dict(inputs)
        self.distributions: dict[str, Distribution] = {}
        self.weights: dict[str, Weight] = {}
        self.scoped: list[Scoped] = [Scoped(scope) for scope in plan.scopes]
        self.inside = self.structure.inside
        timed = self.structure.has_sequence
        self.steps = length(self.structure, given, steps) if timed else None
        self.vectorised = timed and not stepping and self._replayable()
        plate = self.structure.plate is not None
        self.axes = Axes(plan.batch_rank, int(plate), int(timed), int(self.vectorised), plan.below)
        self.past: list[dict[str, Any]] = []  # the values of the step before this one; of each, where a prefix is read
        self.states: dict[str, Any] = {}  # what nodes that read a prefix keep from step to step

    caching = True  # whether they do

    def repeated(self) -> Evaluation:
        """The same evaluation once more, still to be run."""
        return Evaluation(self.graph, self.plan, self.given, self.inputs, self.total_steps, stretch=self.stretch)

    def _replayable(self) -> bool:
        """Nothing recurrent is left to compute: every previous value that a node asks for is given.

        A given value at a node whose gradient goes through its values is computed again, from the noise that made it.
        """
        nodes = self.structure.nodes
        moving = {s for s in self.structure.recurrent_sources if nodes[s].kind == "stochastic" and nodes[s].estimator.moves}
        return all(
            f"{s}.prev" in self.given or (s in self.given and s not in moving) or s in self.structure.along_time
            for s in self.structure.recurrent_sources
        )

    def run(self) -> Record:
        structure = self.structure
        if structure.learns and not torch.compiler.is_compiling():
            self.state = torch.get_rng_state()  # for `trace.variance`, which evaluates once more on the same numbers
        values, history = self.outside, None
        for name in structure.observed_outside:
            if name in self.given:
                values[name] = self.given[name]
        if structure.before:
            self._nodes(structure.before, values, None)
        if self.vectorised:
            for name in structure.observed_inside:
                if name in self.given:
                    values[name] = self.axes.shared(self.given[name], self.plan.missing.get(name))
            self._nodes(self.inside, values, None)
        elif self.steps is not None:
            history = self._unrolled()
        record = Record(
            structure,
            self.plan,
            self.axes,
            self.given,
            self.inputs,
            self.steps,
            values,
            history,
            self.distributions,
            self.weights,
            self.scoped,
            self.learning,
        )
        if structure.after:
            late = dict(values)
            for name in (*(node.name for node in self.inside), *structure.observed_inside):
                if name in record:
                    late[name] = history[-1].values.get(name) if history else self.axes.last(name, values[name])
            if self.vectorised:
                for scoped in self.scoped:
                    scoped.values = {  # what an objective reads after the sequence is its last step too
                        k: self.axes.last(k, x) if structure.nodes[k].in_sequence else x for k, x in scoped.values.items()
                    }
            self.ended = True
            self._nodes(structure.after, late, None)
            values.update({node.name: late[node.name] for node in structure.after})
        return record

    def _unrolled(self) -> list[Step]:
        assert self.steps is not None
        if self.stretch is None or not torch.is_grad_enabled():
            return self._steps(range(self.steps))
        history: list[Step] = []
        for begin in range(0, self.steps, self.stretch):
            steps = range(begin, min(begin + self.stretch, self.steps))
            part, ended = checkpoint(self._resumed(steps), use_reentrant=False)
            history += part
            self.past, self.states, self.scoped, self.distributions, self.weights = ended
        return history

    def _resumed(self, steps: range) -> Any:
        """A function that goes through `steps` from where this evaluation stands, as often as it is called."""
        stands = copy.copy(self)
        stands.past, stands.states = list(self.past), dict(self.states)
        read = self.structure.asked_for - {node.name for node in self.inside}

        def run() -> tuple[list[Step], Any]:
            now = copy.copy(stands)
            now.past, now.states = list(stands.past), dict(stands.states)
            # Copies of the distributions from before the sequence: what they cache in the first pass, the second would not compute
            # again, and autograd would find fewer saved tensors there.
            now.distributions = {k: unused(d) if k in read else d for k, d in stands.distributions.items()}
            now.scoped = [scoped.copy() for scoped in stands.scoped]
            part = now._steps(steps)
            return part, (now.past, now.states, now.scoped, now.distributions, now.weights)

        return run

    def _steps(self, steps: Iterable[int]) -> list[Step]:
        first = self.given.get(self.structure.first) if self.structure.first else None
        history: list[Step] = []
        for t in steps:
            values = dict(self.outside)
            for name in self.structure.observed_inside:
                if name in self.given:
                    values[name] = at_step(self.given[name], t)
            self.distributions, self.weights = dict(self.distributions), dict(self.weights)
            self.first_now = None if first is None else first[t]
            self._nodes(self.inside, values, t)
            history.append(Step(values, self.distributions, self.weights, [s.snapshot() for s in self.scoped]))
            if not self.structure.reads_prefix:  # the last step is all that is asked for
                self.past.clear()
                for scoped in self.scoped:
                    scoped.past.clear()
            self.past.append(values)
            for scoped in self.scoped:
                scoped.past.append(dict(scoped.values))
        return history

    def replicated(self, node: Node, distribution: Distribution) -> Branches:
        """What a node draws where no estimator branches it: one plain sample."""
        return plain(node, distribution)

    # -- one step ------------------------------------------------------------------------------------------

    def _nodes(self, nodes: Iterable[Node], values: dict[str, Any], t: int | None) -> None:
        """Evaluate `nodes` in order into `values`."""
        for node in nodes:
            objective = self.plan.scope_of.get(node.name) if self.scoped else None
            if objective is not None:
                scoped = self.scoped[objective]
                with scoped.scope.detached():
                    result = self._call(node, arguments_of(self, node, ObjectiveView(values, scoped, self.inputs), t, scoped))
                values[node.name] = self._cost(node, result)
                continue
            result = self._result(node, values, t, None)
            if node.kind == "stochastic":
                mixed = [s for s in self.scoped if node.name in s.scope.mixed]
                state = random_state() if mixed else None
                if node.name in self.structure.asked_for:
                    remember(result)
                self.distributions[node.name] = result
                before = self.weights.get(node.name) if t else None
                values[node.name], self.weights[node.name] = branch(self, node, result, t)
                if before is not None and before.n != self.weights[node.name].n:
                    other_branches(node, before.n, f"one step before step {t}", self.weights[node.name].n, "at it")
                for scoped in mixed:
                    self._again(node, values, t, scoped, state)
            else:
                values[node.name] = self._cost(node, result) if node.kind == "cost" else result
                for scoped in self.scoped:
                    if node.name in scoped.scope.mixed:
                        self._again(node, values, t, scoped, None)

    def _again(self, node: Node, values: dict[str, Any], t: int | None, scoped: Scoped, state: Any) -> None:
        """Evaluate a node that an objective trains in part: under its swap, on the same random numbers."""
        with scoped.scope.detached():
            result = self._result(node, ObjectiveView(values, scoped, self.inputs), t, scoped)
            if node.kind == "stochastic":
                with restored(state):
                    scoped.distributions[node.name] = result
                    scoped.values[node.name], scoped.weights[node.name] = branch(self, node, result, t)
                everything, own = self.weights[node.name].n, scoped.weights[node.name].n
                if everything != own or not torch.equal(values[node.name], scoped.values[node.name]):
                    costs = ", ".join(map(repr, scoped.scope.costs))
                    other_branches(node, everything, "for all parameters", own, f"for those that {costs} trains")
            else:
                scoped.values[node.name] = result

    def _result(self, node: Node, values: Any, t: int | None, scoped: Scoped | None) -> Any:
        if node.name in self.structure.prefixed:
            return prefix.evaluate(self, node, values, scoped)
        return self._call(node, arguments_of(self, node, values, t, scoped))

    def _cost(self, node: Node, value: Any) -> Any:
        value = real(node.name, value)
        if not value.is_floating_point():
            value = value.to(torch.get_default_dtype())  # integers wrap around where they are negated, and have no mean
        return value if node.sign == 1.0 else -value

    def arguments(self, node: Node, values: Any, scoped: Scoped | None, last: bool = False) -> Any:
        """The arguments of a node that reads a prefix; no other one is of a single step. `last`: of the prefix the last position alone."""
        return arguments_of(self, node, values, None, scoped, last)

    _call = call  # a method, which recordings override
    first_now: Tensor | None = None
    replicas = False  # whether samples have an axis that no plain draw has
    ended: bool = False
