"""A trace as a credit sees it: time first, every tensor of one rank.

in the trace      [branch…, time, batch…]       branch and batch axes only where a node has them
for a credit      [time, branch…, batch…]       1s where it has not
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scg.credit import Downstream
from scg.errors import GraphError
from scg.product import marginal

if TYPE_CHECKING:
    from scg.trace import Trace


class View:
    """The costs downstream of one node, and the way there and back."""

    def __init__(self, trace: Trace, name: str, costs: Iterable[str]) -> None:
        self.trace, self.name = trace, name
        self.timed = trace.structure.nodes[name].in_sequence
        self.rank = trace.plan.batch_rank + self.timed
        found = []
        for cost in costs:
            window = trace.structure.window(name, cost, live=True)
            if window is not None:
                found.append((self._cost(cost), window.lo, window.hi))
        if not found:
            raise GraphError(f"node {name!r}: it has a credit, but no cost is downstream of it")
        self.width = max(self.rank, *(cost.ndim for cost, _, _ in found))
        self.costs = tuple((self.forth(cost), lo, hi) for cost, lo, hi in found)

    def downstream(self) -> Downstream:
        first, weight = self.trace.first, self.trace.weight(self.name)
        return Downstream(
            self.name,
            self.costs,
            None if first is None or not self.timed else self.forth(first),
            self.timed,
            self.trace.plan.batch_rank,
            self.trace.plan.ranks[self.name],
            None
            if weight.factor is None or f"{self.name}.log_prob" not in self.trace.given
            else self.forth(weight.factor.detach()),
            lambda other: self.forth(self._seen(other)),
        )

    def _cost(self, cost: str) -> Tensor:
        trace, value = self.trace, marginal(self.trace, cost, self.name)
        inside = trace.structure.nodes[cost].in_sequence
        if inside and not self.timed:  # the whole sequence lies downstream of what comes before it
            return value.sum(-1 - trace.plan.batch_rank)
        if self.timed and not inside:  # what comes after it is charged to its last step
            assert trace.steps is not None
            value = trace.seen_from_inside(value)
            value = value.reshape((*[1] * (self.rank - value.ndim), *value.shape))
            before = torch.zeros_like(value).expand(
                (*value.shape[: value.ndim - self.rank], trace.steps - 1, *value.shape[value.ndim - self.rank + 1 :])
            )
            return torch.cat([before, value], value.ndim - self.rank)
        return value

    def _seen(self, name: str) -> Tensor:
        node = self.trace.structure.nodes.get(name)
        value = self.trace.batch_value(name).detach() if node is None else marginal(self.trace, name, self.name)
        outside = node is not None and not node.in_sequence
        return self.trace.seen_from_inside(value) if self.timed and outside else value

    def forth(self, x: Tensor) -> Tensor:
        """Into a credit's form."""
        if not self.timed:
            return x
        width = max(self.width, x.ndim)
        return x.reshape((*[1] * (width - x.ndim), *x.shape)).movedim(width - self.rank, 0)

    def back(self, x: Tensor) -> Tensor:
        """A credit, in the trace's form again, without the axes that it only had for its rank."""
        if not self.timed:
            return x
        x = x.movedim(0, x.ndim - self.rank)
        while x.ndim > self.rank and x.shape[0] == 1:
            x = x.squeeze(0)
        return x
