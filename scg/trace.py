"""One evaluated graph: values by name, and the surrogates built from them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.utils._pytree import tree_map

from scg.axes import broadcast
from scg.errors import GraphError, nearest
from scg.surrogate import assemble, credit_of, objective
from scg.weight import Weight

if TYPE_CHECKING:
    from scg.evaluate import Evaluation, Step


class Trace:
    """What `graph.sample` and `graph.replay` return.

    `trace["x"]` is the value of node x, `[branch…, (time,) batch…, event…]`.
    """

    def __init__(self, evaluation: Evaluation, values: dict[str, Any], history: list[Step] | None) -> None:
        self.graph = evaluation.graph
        self.structure = evaluation.structure
        self.plan = evaluation.plan
        self.given = evaluation.given
        self.steps = evaluation.steps
        self.evaluation = evaluation
        self.axes = evaluation.axes
        self.values = values
        self.history = history
        self._stacked: dict[Any, Any] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.values or (self.history is not None and name in self.history[-1].values)

    def __getitem__(self, name: str) -> Any:
        if self.history is not None and name in self.structure.nodes and self.structure.nodes[name].in_sequence:
            if name not in self._stacked:
                if name not in self.history[-1].values:
                    raise KeyError(name)
                self._stacked[name] = self.axes.stacked(name, [step.values[name] for step in self.history])
            return self._stacked[name]
        if name in self.values:
            return self.values[name]
        if name in self.given:
            return self.given[name]
        raise KeyError(f"{name!r} has no value in this trace.{nearest(name, self.structure.nodes)}")

    def dist(self, name: str) -> Distribution | list[Distribution]:
        """The distribution of a stochastic node; one for each step where the sequence was stepped through."""
        if self.history is not None and self.structure.nodes[name].in_sequence:
            return [step.distributions[name] for step in self.history]
        return self.evaluation.distributions[name]

    def log_prob(self, name: str) -> Tensor:
        """log p of the values of a stochastic node, detached: what `given["x.log_prob"]` takes later."""
        distribution = self.dist(name)
        if isinstance(distribution, list):
            assert self.history is not None
            steps = zip(distribution, self.history, strict=True)
            return torch.stack(broadcast([d.log_prob(step.values[name]).detach() for d, step in steps]))
        return distribution.log_prob(self[name]).detach()

    # -- blocks (see `axes`) -------------------------------------------------------------------------------

    @property
    def first(self) -> Tensor | None:
        """Where episodes start, `[time, batch…]` with the batch padded to the graph's rank."""
        if self.structure.first is None or self.structure.first not in self.given:
            return None
        return self.axes.given(self.given[self.structure.first])

    def batch_value(self, name: str) -> Tensor:
        """A cost's, baseline's or credit's value as a block."""
        node = self.structure.nodes.get(name)
        key = ("batch", name)
        if key not in self._stacked:
            if self.history is not None and node is not None and node.in_sequence and name in self.history[-1].values:
                self._stacked[key] = self.axes.along_time([step.values[name] for step in self.history])
            elif self.structure.plate is not None:
                value = self[name]
                slots = self.axes.slots(name, 0, value)
                self._stacked[key] = self.axes.block(value, reduced=slots > 0 and value.ndim - slots == self.plan.batch_rank)
            else:
                self._stacked[key] = self.axes.block(self[name]) if self.axes.time else self[name]
        return self._stacked[key]

    def weight(self, name: str, scope: int | None = None) -> Weight:
        """The live weight of a stochastic node as blocks, as the objective `scope` sees it."""
        key = ("weight", name, scope)
        if key in self._stacked:
            return self._stacked[key]
        own = None if scope is None else self.plan.scopes[scope]
        mixed = own is not None and name in own.mixed
        if self.history is not None and self.structure.nodes[name].in_sequence:
            steps = [step.scoped[scope][name] if mixed else step.weights[name] for step in self.history]  # type: ignore[index]
            weight = replace(
                steps[0],
                score=None if steps[0].score is None else self.axes.along_time([w.score for w in steps]),  # type: ignore[misc]
                factor=None if steps[0].factor is None else self.axes.along_time([w.factor for w in steps]),  # type: ignore[misc]
                control=None if steps[0].control is None else self.axes.along_time([w.control for w in steps]),  # type: ignore[misc]
            )
        else:
            weight = self.evaluation.scoped[scope].weights[name] if mixed else self.evaluation.weights[name]  # type: ignore[index]
            if self.axes.time or self.axes.plate:
                weight = weight.over(self.axes.block)
        if own is not None and name in own.cut:
            weight = weight.over(Tensor.detach)
        self._stacked[key] = weight
        return weight

    # -- surrogates ----------------------------------------------------------------------------------------

    def surrogate(self, *costs: str, reduce: Literal["sum", "mean"] = "sum") -> Tensor:
        """The scalar surrogate of the named costs, or of all: mean over the batch, sum (or mean) over time, sum over costs.

        Its value is the Monte Carlo estimate of the objective, its gradient is unbiased, and so are its higher
        derivatives up to the order of the estimators involved; a credit makes it first order.
        """
        for name in costs:
            if name not in self.structure.costs:
                raise GraphError(f"trace.surrogate({name!r}): no such cost.{nearest(name, self.structure.costs)}")
        if reduce not in ("sum", "mean"):
            raise GraphError(f"trace.surrogate(reduce={reduce!r}): over time it is 'sum' or 'mean'")
        return assemble(self, costs or self.structure.costs, reduce)

    @property
    def objective(self) -> Tensor:
        """The Monte Carlo estimate of the sum of all costs, detached."""
        return objective(self)

    def variance(self, wrt: Any, *costs: str, reduce: Literal["sum", "mean"] = "sum") -> Tensor:
        """E‖g‖², g the surrogate's gradient for `wrt`, for the estimators of this graph that learn; one draw's estimate.

        Its `.backward()` reaches the estimators' parameters and nothing else. The mean of g does not depend on them, so
        what moves ‖g‖² is the variance (Grathwohl et al. 2018). The graph is evaluated once more, on the same random
        numbers. `wrt`: a tensor, a module, or an iterable of them.
        """
        from scg.variance import variance

        return variance(self, wrt, costs, reduce)

    def credit(self, name: str) -> Tensor:
        """What multiplies the score of node `name`: its credit less its baseline, detached, `[(time,) batch…]`.

        Hand it to a replay of any part of the trace as `given["name.credit"]`.
        """
        return self.axes.natural(credit_of(self, name, None), self.structure.nodes[name].in_sequence)

    def pairs(self, index: Tensor) -> dict[str, Any]:
        """`given` for a replay of the (time, batch) pairs numbered by `index` (t · batch + b), as one step of a batch.

        Recorded values, log-probabilities and credits of the sequence travel along, so minibatches may be shuffled:
        nothing of them asks for the order of time any more. Refused where a recurrent value was computed, not given.
        """
        for source in sorted(self.structure.recurrent_sources):
            if source not in self.given and f"{source}.prev" not in self.given:
                raise GraphError(f"recurrent node {source!r}: its value was computed along time; split along batch")
        rank = self.plan.batch_rank
        if rank != 1:
            raise GraphError(f"trace.pairs needs one batch axis besides time, this graph's costs have {rank}")
        chosen: dict[str, Any] = {}
        for name, value in self.given.items():
            stem, _, suffix = name.partition(".")
            if self.structure.nodes[stem].in_sequence:
                missing = self.plan.missing.get(stem) if suffix in ("", "prev") else None
                value = self.axes.given(value) if suffix in ("log_prob", "credit") else self.axes.shared(value, missing)
                chosen[name] = self._taken(value, index)
            else:
                chosen[name] = value
        for edge in (e for n in self.structure.inside if n.kind != "observed" for e in n.parents if e.lag):
            if f"{edge.source}.prev" not in chosen:
                previous = self.evaluation._previous(edge, self.values, None, None)
                chosen[f"{edge.source}.prev"] = self._taken(previous, index)
        for name in self.structure.stochastic:
            node = self.structure.nodes[name]
            if node.credit is not None and node.in_sequence and f"{name}.credit" not in chosen:
                chosen[f"{name}.credit"] = self._taken(self.axes.given(self.credit(name)), index)
        return chosen

    def _taken(self, value: Any, index: Tensor) -> Any:
        """The numbered pairs of each leaf `[time, batch, event…]`, as one step of a batch."""
        batch = max(self.batch_value(cost).shape[-1] for cost in self.structure.costs)

        def pairs(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            return x.expand((x.shape[0], batch, *x.shape[2:])).flatten(0, 1)[index].unsqueeze(0)

        return tree_map(pairs, value)
