"""The face of one evaluated graph: its values by name, and the surrogates built from them."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor
from torch.utils._pytree import tree_map

from scg.errors import GraphError, UnknownName, nearest
from scg.evaluation.evaluation import Evaluation
from scg.evaluation.node_call import previous
from scg.evaluation.record import Record
from scg.surrogate.surrogate import assemble, credit_of, objective
from scg.surrogate.variance import variance


class Trace(Record):
    """What `graph.sample` and `graph.replay` return.

    `trace["x"]` is the value of node x, `[branch…, (time,) batch…, event…]`.
    """

    def __init__(self, evaluation: Evaluation, record: Record) -> None:
        self.__dict__.update(record.__dict__)  # a record with a face, not a copy of it
        self.evaluation, self.graph = evaluation, evaluation.graph

    # -- surrogates ----------------------------------------------------------------------------------------

    def surrogate(self, *costs: str, reduce: Literal["sum", "mean"] = "sum") -> Tensor:
        """The scalar surrogate of the named costs, or of all: mean over the batch, sum (or mean) over time, sum over costs.

        Its value is the Monte Carlo estimate of the objective, its gradient is unbiased, and so are its higher
        derivatives up to the order of the estimators involved; a credit makes it first order.
        """
        self._check("surrogate", costs, reduce)
        return assemble(self, costs or self.structure.costs, reduce)

    def _check(self, what: str, costs: tuple[str, ...], reduce: str) -> None:
        for i, name in enumerate(costs):
            if not self.structure.is_a("cost", name):
                raise GraphError(f"trace.{what}({name!r}): no such cost.{nearest(name, self.structure.costs)}")
            if name in costs[:i]:
                raise GraphError(f"trace.{what}: the cost {name!r} is named twice; scale it where it is declared")
        if reduce not in ("sum", "mean"):
            raise GraphError(f"trace.{what}(reduce={reduce!r}): over time it is 'sum' or 'mean'")

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
        self._check("variance", costs, reduce)
        again = self.evaluation.repeated()
        again.learning = True
        return variance(self.structure, again.run, self.evaluation.state, wrt, costs or self.structure.costs, reduce)

    def credit(self, name: str) -> Tensor:
        """What multiplies the score of node `name`: its credit less its baseline, detached, `[(time,) batch…]`.

        Hand it to a replay of any part of the trace as `given["name.credit"]`.
        """
        if name not in self.structure.nodes:
            raise UnknownName(f"trace.credit({name!r}): no such node.{nearest(name, self.structure.nodes)}")
        credit, timed = credit_of(self, name, None), self.structure.nodes[name].in_sequence
        if timed:  # a constant, or what is the same at all steps
            sizes = [*[1] * (self.axes.rank - credit.ndim), *credit.shape]
            sizes[self.axes.time_dim] = self.steps or 1
            credit = credit.expand(sizes)
        return self.axes.natural(credit, timed)

    def pairs(self, index: Tensor) -> dict[str, Any]:
        """`given` for a replay of the (time, batch) pairs numbered by `index` (t · batch + b), as one step of a batch.

        Recorded values, log-probabilities and credits of the sequence travel along, so minibatches may be shuffled:
        nothing of them asks for the order of time any more. Refused where a recurrent value was computed, not given.
        """
        if not self.structure.has_sequence:
            raise GraphError(
                "trace.pairs: this graph has no sequence, so there are no (time, batch) pairs; index the batch itself"
            )
        for source in sorted(self.structure.recurrent_sources):
            if source not in self.given and f"{source}.prev" not in self.given:
                raise GraphError(f"recurrent node {source!r}: its value was computed along time; split along batch")
        for name in sorted(self.structure.prefixed):
            raise GraphError(f"node {name!r}: it reads a prefix, which a single step does not have; split along batch")
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
                before = previous(self.evaluation, edge, self.values, None, None)
                chosen[f"{edge.source}.prev"] = self._taken(before, index)
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
            flat = x.expand((x.shape[0], batch, *x.shape[2:])).flatten(0, 1)
            try:
                return flat[index].unsqueeze(0)
            except IndexError as error:
                raise GraphError(
                    f"trace.pairs(index): integers from 0 to {len(flat) - 1} are needed, t · batch + b each ({error})"
                ) from error

        return tree_map(pairs, value)
