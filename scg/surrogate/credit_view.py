"""A trace as a credit sees it: time first, every tensor of one rank.

in the trace      [branch…, time, batch…]       branch and batch axes only where a node has them
for a credit      [time, branch…, batch…]       1s where it has not
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from scg.credit import Credit, Downstream
from scg.errors import GraphError
from scg.evaluation.record import Record
from scg.surrogate.weight_product import marginal, reached_from_outside


class CreditView:
    """The costs downstream of one node in a credit's form, and conversions of blocks to that form and back."""

    def __init__(self, trace: Record, name: str, costs: Iterable[str]) -> None:
        self.trace, self.name, self.axes = trace, name, trace.axes
        self.timed = trace.structure.nodes[name].in_sequence
        found, names = [], []
        for cost in costs:
            window = trace.structure.window(name, cost, live=True)
            if window is not None:
                found.append((self._cost(cost), window.lo, window.hi))
                names.append(cost)
        if not found:
            raise GraphError(f"node {name!r}: it has a credit, but no cost is downstream of it")
        self.names = tuple(names)
        self.width = max(cost.ndim for cost, _, _ in found)
        self.costs = tuple((self.forth(cost), lo, hi) for cost, lo, hi in found)

    def downstream(self) -> Downstream:
        first, weight = self.trace.first, self.trace.weight(self.name)
        own, rank = weight.factor if weight.score is None else weight.score, self.trace.plan.ranks[self.name]
        return Downstream(
            self.name,
            self.costs,
            None if first is None or not self.timed else self.forth(first),
            self.timed,
            self.trace.plan.batch_rank,
            rank,
            None
            if weight.factor is None or f"{self.name}.log_prob" not in self.trace.given
            else self.forth(weight.factor.detach()),
            self._seen,
            () if own is None else tuple(own.shape[own.ndim - rank :]),
            self.names,
        )

    def answer(self, credit: Credit) -> Tensor:
        """What the credit returns, a tensor of the costs' rank."""
        result = credit(self.downstream())
        if (
            isinstance(result, Tensor)
            and not result.is_complex()
            and result.ndim >= self.axes.rank - (not self.timed and self.axes.time)
        ):
            return result
        found = f"{result.dtype} of shape {tuple(result.shape)}" if isinstance(result, Tensor) else f"a {type(result).__name__}"
        raise GraphError(
            f"node {self.name!r}: its credit {credit!r} returned {found}; a credit returns real numbers shaped like the costs that "
            f"it sees, {tuple(self.costs[0][0].shape)}"
        )

    def _cost(self, cost: str) -> Tensor:
        trace, value, time = self.trace, marginal(self.trace, cost, self.name), self.axes.time_dim
        if self.axes.plate:  # a cost has reduced the plate
            value = value.squeeze(self.axes.plate_dim)
            time += 1
        if not self.axes.time:
            return value
        assert trace.steps is not None
        inside, constant = trace.structure.nodes[cost].in_sequence, value.shape[time] != trace.steps
        shape = list(value.shape)
        shape[time] = trace.steps
        if inside and not self.timed:  # the whole sequence lies downstream of what comes before it
            part = next(i.parts[0][0] for i in trace.structure.influences(cost) if i.node == self.name)
            reached = reached_from_outside(trace, part, inside=True)
            if reached is not None:
                return torch.where(reached, value, 0.0).sum(time, keepdim=True)
            return value.sum(time, keepdim=True) * (trace.steps if constant else 1)
        if inside:
            return value.expand(shape) if constant else value
        if self.timed:  # what comes after it is charged to its last step
            shape[time] -= 1
            return torch.cat([value.new_zeros(()).expand(shape), value], time)
        return value

    def _seen(self, name: str) -> Tensor:
        value = self.trace.batch_value(name).detach()
        if name in self.trace.structure.nodes:
            value = marginal(self.trace, name, self.name)
        return self.forth(value)

    def forth(self, x: Tensor) -> Tensor:
        """A block in a credit's form."""
        if not self.timed:
            return x.squeeze(self.axes.time_dim) if self.axes.time else x
        width = max(getattr(self, "width", 0), x.ndim)
        return x.reshape((*[1] * (width - x.ndim), *x.shape)).movedim(width - self.axes.rank, 0)

    def back(self, x: Tensor) -> Tensor:
        """A credit as a block, without the axes that it only had for its rank."""
        if not self.timed:
            return self.axes.block(x) if not self.axes.time else x.unsqueeze(x.ndim - self.axes.batch - self.axes.plate)
        x = x.movedim(0, x.ndim - self.axes.rank)
        while x.ndim > self.axes.rank and x.shape[0] == 1:
            x = x.squeeze(0)
        return x
