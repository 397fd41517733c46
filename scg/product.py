"""The product of weights, and the fold: what a target's ancestors do to its value.

weigh    Π_{x ∈ anc(target)} w_x        along time the window of lags at which x influences the target, within its episode
fold     Σ over branches, mean over the batch, sum (or mean) over time
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NoReturn

from torch import Tensor

from scg.analysis import Influence
from scg.errors import GraphError
from scg.scan import starts, window_product, window_sum
from scg.weight import Weight

if TYPE_CHECKING:
    from scg.trace import Trace


class Product:
    """`Π w_x` over the ancestors of one target, kept factored: scores are summed, other weights multiplied."""

    def __init__(self, trace: Trace, scope: int | None, target: str) -> None:
        self.trace, self.scope, self.target = trace, scope, target
        self.in_sequence = trace.structure.nodes[target].in_sequence
        self.on_plate = target in trace.structure.on_plate
        self.scores: dict[tuple[bool, int, float], Tensor] = {}
        self.factor: Tensor | None = None
        self.branched: list[Weight] = []

    def own(self, weight: Weight) -> None:
        """The target's own branch axis counts in the fold; its weight is in the folded value already."""
        if weight.n is not None:
            self.branched.append(weight)

    def add(self, influence: Influence, live: bool) -> None:
        weight = self.trace.weight(influence.node, self.scope)
        if weight.on_plate and not self.on_plate:
            weight = _joint(weight, -1 - self.trace.plan.batch_rank)
        if weight.n is not None:
            self.branched.append(weight)
        for window, gradient in influence.parts:
            if weight.score is not None and live and gradient:  # detached, it is 1
                key = (weight.in_sequence, window.lo, window.hi)
                self.scores[key] = weight.score if key not in self.scores else self.scores[key] + weight.score
            if weight.factor is not None:
                factor = weight.factor if live and gradient else weight.factor.detach()
                part = self._along(factor, weight.in_sequence, window.lo, window.hi, window_product)
                self.factor = part if self.factor is None else self.factor * part

    def _along(self, x: Tensor, in_sequence: bool, lo: int, hi: float, scan: Callable[..., Tensor]) -> Tensor:
        """A weight, seen from the target: its window along time, or the same at every step."""
        rank = self.trace.plan.batch_rank
        if not in_sequence:
            return self.trace.seen_from_inside(x) if self.in_sequence else x
        if lo != 0 or hi != 0:
            first = self.trace.first
            x = scan(x, lo, hi, None if first is None else starts(first), -(rank + 1))
        return x if self.in_sequence else x.select(-(rank + 1), -1)

    def fold(self, value: Tensor, reduce: Literal["sum", "mean"], name: str) -> Tensor:
        """Weigh `value`, then reduce: branches by their weights, the batch by its mean, time by sum or mean."""
        weight = self.factor
        if self.scores:
            log: Tensor | None = None
            for (in_sequence, lo, hi), score in self.scores.items():
                part = self._along(score, in_sequence, lo, hi, window_sum)
                log = part if log is None else log + part
            assert log is not None
            weight = log.exp() if weight is None else weight * log.exp()
        rank = self.trace.plan.batch_rank + self.in_sequence
        if name in self.trace.structure.reducing and value.ndim > rank:
            value = value.unsqueeze(value.ndim - rank)  # the cost has reduced the plate; axes beyond it keep their places
        total = value if weight is None else value * weight
        if total.ndim == 0:
            return total
        if weight is not None and total.shape != value.shape:
            mine, weighed = value.shape[max(0, value.ndim - rank) :], total.shape[max(0, total.ndim - rank) :]
            grown = len(weighed) - len(mine)
            if weighed[grown:] != mine or weighed[:grown].numel() != 1:
                _refuse_broadcast(name, value, weight, rank)
        batch = total.shape[max(0, total.ndim - rank) :]
        scale = (batch[1:] if self.in_sequence and reduce == "sum" else batch).numel()
        for branched in self.branched:  # uniform weights average over their axis where the value has it
            dim = total.ndim - self.inner() - 1 - branched.axis
            if branched.factor is None and dim >= 0:
                scale *= total.shape[dim]
        return total.sum() if scale == 1 else total.sum() / scale

    def average(self, value: Tensor) -> Tensor:
        """`value` with its branch axes reduced by their weights, and kept with size 1."""
        value = value if self.factor is None else value * self.factor
        for branched in self.branched:
            dim = value.ndim - self.inner() - 1 - branched.axis
            if dim >= 0:
                value = value.mean(dim, keepdim=True) if branched.factor is None else value.sum(dim, keepdim=True)
        return value

    def inner(self) -> int:
        """How many axes lie right of the branch axes: plate, time, batch."""
        timed = self.in_sequence or self.trace.evaluation.vectorised
        return self.trace.plan.batch_rank + timed + (self.trace.structure.plate is not None)


def _joint(weight: Weight, dim: int) -> Weight:
    """The weight of all samples on a plate together, as what follows the plate sees it."""
    score = None if weight.score is None else weight.score.sum(dim, keepdim=True)
    factor = None if weight.factor is None else weight.factor.prod(dim, keepdim=True)
    return Weight(score, factor, weight.n, weight.axis, weight.in_sequence)


def _refuse_broadcast(name: str, value: Tensor, weight: Tensor, rank: int) -> NoReturn:
    raise GraphError(
        f"node {name!r}: its value has batch shape {tuple(value.shape[max(0, value.ndim - rank) :])}, and the weights of its "
        f"stochastic ancestors have {tuple(weight.shape[max(0, weight.ndim - rank) :])}; broadcasting one up to the other "
        "mixes batch elements.\nReturn one cost per batch element, or wrap the ancestors' distributions in Independent(…, 1)."
    )


def marginal(trace: Trace, source: str, name: str) -> Tensor:
    """The value of `source`, detached, averaged over the branches of what does not come before node `name`."""
    value = trace.batch_value(source).detach()
    kept = {name, *(influence.node for influence in trace.structure.influences(name))}
    product = Product(trace, None, source)
    for influence in trace.structure.influences(source):
        if influence.node not in kept and trace.weight(influence.node).n is not None:
            product.add(influence, live=False)
    return product.average(value) if product.branched else value
