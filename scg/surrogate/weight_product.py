"""The product of weights, and the fold: what a target's ancestors do to its value.

weigh    Π_{x ∈ anc(target)} w_x        along time the window of lags at which x influences the target, within its episode
fold     Σ over branches, mean over the batch, sum over time
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor

from scg.analysis.structure import Influence, Window
from scg.errors import GraphError
from scg.evaluation.axes import grown
from scg.evaluation.record import Record, broadcastable
from scg.evaluation.weight import Weight, joint
from scg.scan import INFINITE, starts, window_product, window_sum
from scg.surrogate.score_sums import ScoreSums


class Product:
    """`Π w_x` over the ancestors of one target, kept factored: scores are summed, other weights multiplied."""

    def __init__(self, trace: Record, scope: int | None, target: str) -> None:
        self.trace, self.scope, self.target, self.axes = trace, scope, target, trace.axes
        self.in_sequence = trace.structure.nodes[target].in_sequence
        self.on_plate = target in trace.structure.on_plate
        self.scores: dict[tuple[bool, int, float], Tensor] = {}
        self.factor: Tensor | None = None
        self.branched: list[Weight] = []

    def ancestors(self, sums: ScoreSums) -> None:
        """All ancestors, credited ones without their gradient: sums of scores are shared, other weights come one by one."""
        structure = self.trace.structure
        # torch.compile finds common sums itself, and cannot trace integers of more than 64 bits.
        if not structure.shares_sums or torch.compiler.is_compiling():
            for influence in structure.influences(self.target):
                self.add(influence, live=structure.nodes[influence.node].credit is None)
            return
        others = 0
        for group in structure.groups(self.target):
            sums.look(group.members)
            others |= group.members & sums.others
            plain = group.members & sums.scored & ~sums.others & ~sums.credited if group.live else 0
            for in_sequence, nodes in ((True, plain & sums.inside), (False, plain & ~sums.inside)):
                if nodes:
                    self.scores[in_sequence, group.window.lo, group.window.hi] = sums.of(nodes, jointly=not self.on_plate)
        if others:
            for influence in structure.influences(self.target):
                if others >> structure.index[influence.node] & 1:
                    self.add(influence, live=structure.nodes[influence.node].credit is None)

    def own(self, weight: Weight) -> None:
        """The target's own branch axis counts in the fold; its weight is in the folded value already."""
        if weight.n is not None:
            self.branched.append(weight)

    def add(self, influence: Influence, live: bool) -> None:
        weight = self.trace.weight(influence.node, self.scope)
        if weight.on_plate and not self.on_plate:
            weight = joint(weight, self.axes.plate_dim)
        if weight.n is not None:
            self.branched.append(weight)
        for window, gradient in influence.parts:
            if weight.score is not None and live and gradient:  # detached, it is 1
                key = (weight.in_sequence, window.lo, window.hi)
                self.scores[key] = weight.score if key not in self.scores else self.scores[key] + weight.score
            if weight.factor is not None:
                factor = weight.factor if live and gradient else weight.factor.detach()
                fill = 1.0 if weight.n is None else 1.0 / weight.n
                part = self._along(factor, weight.in_sequence, window.lo, window.hi, window_product, fill)
                self.factor = part if self.factor is None else self.factor * part

    def _along(
        self, x: Tensor, in_sequence: bool, lo: int, hi: float, scan: Callable[..., Tensor], fill: float = 0.0
    ) -> Tensor:
        """A weight, seen from the target: its window along time, or the same at every step that it reaches, `fill` elsewhere."""
        if not in_sequence:
            reached = reached_from_outside(self.trace, Window(lo, hi), self.in_sequence)
            return x if reached is None else torch.where(reached, x, x.new_full((), fill))
        if lo != 0 or hi != 0:
            first = self.trace.first
            x = scan(x, lo, hi, None if first is None else starts(first), self.axes.time_dim)
        return x if self.in_sequence else self.axes.final(x)

    def fold(self, value: Tensor, name: str, scale: float = 1.0) -> Tensor:
        """Weigh the block `value`, then reduce: branches by their weights, the batch by its mean, time by its sum, times `scale`."""
        weight = self.factor
        if self.scores:
            log: Tensor | None = None
            for (in_sequence, lo, hi), score in self.scores.items():
                part = self._along(score, in_sequence, lo, hi, window_sum)
                log = part if log is None else log + part
            assert log is not None
            weight = log.exp() if weight is None else weight * log.exp()
        if weight is not None and not torch.compiler.is_compiling() and not _fits(value.shape, weight.shape):
            _refuse_broadcast(name, value.shape[max(0, value.ndim - self.axes.batch) :], weight, self.axes.batch)
        total = value if weight is None else value * weight
        if total.ndim == 0:
            return total if scale == 1.0 else total * scale
        axes = self.axes
        if weight is not None and total.shape != value.shape:
            own, weighed = value.shape[max(0, value.ndim - axes.batch) :], total.shape[max(0, total.ndim - axes.batch) :]
            grown = len(weighed) - len(own)
            if weighed[grown:] != own or weighed[:grown].numel() != 1:
                _refuse_broadcast(name, own, weight, axes.batch)
        count = total.shape[max(0, total.ndim - axes.batch) :].numel()
        if self.in_sequence and total.shape[axes.time_dim] != self.trace.steps:  # the same at every step
            assert self.trace.steps is not None
            scale *= self.trace.steps
        for branched in self.branched:  # uniform weights average over their axis where the value has it
            dim = total.ndim + axes.slot_dim(branched.axis)
            if branched.factor is None and dim >= 0:
                count *= total.shape[dim]
        if scale == 1.0 and count == total.numel() > 0:  # one operation
            return total.mean()
        scale /= max(count, 1)
        return total.sum() if scale == 1.0 else total.sum() * scale

    def average(self, value: Tensor) -> Tensor:
        """The block `value` with its branch axes reduced by their weights, and kept with size 1."""
        value = value if self.factor is None else value * self.factor
        for branched in self.branched:
            dim = value.ndim + self.axes.slot_dim(branched.axis)
            if dim >= 0:
                value = value.mean(dim, keepdim=True) if branched.factor is None else value.sum(dim, keepdim=True)
        return value


def _fits(a: torch.Size, b: torch.Size) -> bool:
    return a == b or broadcastable(a, b)


def _refuse_broadcast(name: str, batch: torch.Size, weight: Tensor, rank: int) -> NoReturn:
    raise GraphError(
        f"node {name!r}: its value has batch shape {tuple(batch)}, and the weights of its "
        f"stochastic ancestors have {tuple(weight.shape[max(0, weight.ndim - rank) :])}; broadcasting one up to the other "
        "mixes batch elements.\nReturn one cost per batch element, or wrap the ancestors' distributions in Independent(…, 1)."
    )


def reached_from_outside(trace: Record, window: Window, inside: bool) -> Tensor | None:
    """The steps at which a node outside the sequence reaches a target, a block; None for all.

    window   the steps since the start of an episode; a target after the sequence is reached as its last step is
    """
    if trace.steps is None or (window.lo == 0 and window.hi == INFINITE):
        return None
    steps = grown(torch.arange(trace.steps), trace.axes.plate + trace.axes.batch)
    since = steps if trace.first is None else steps.to(trace.first.device) - starts(trace.first)
    reached = (since >= window.lo) & (since <= window.hi)
    return reached if inside else reached[-1:]


def marginal(trace: Record, source: str, name: str) -> Tensor:
    """The value of `source`, detached, averaged over the branches of what does not come before node `name`, its own too."""
    value = trace.batch_value(source).detach()
    if not value.is_floating_point():
        value = value.to(torch.get_default_dtype())
    kept = {name, *(influence.node for influence in trace.structure.influences(name))}
    product = Product(trace, None, source)
    if trace.structure.nodes[source].kind == "stochastic" and source not in kept:
        own = trace.weight(source)
        product.own(own)
        product.factor = None if own.factor is None or own.n is None else own.factor.detach()
    for influence in trace.structure.influences(source):
        if influence.node not in kept and trace.weight(influence.node).n is not None:
            product.add(influence, live=False)
    return product.average(value) if product.branched else value
