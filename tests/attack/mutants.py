"""Faults to plant in `scg`: each is a way in which a surrogate was, or could be, silently wrong."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import torch

from scg.analysis.structure import Structure
from scg.estimator import ScoreFunction
from scg.estimators import leave_one_out
from scg.surrogate import weight_product as product
from scg.surrogate.weight_product import Product
from scg.trace import Trace

Fault = Callable[[], AbstractContextManager[Any]]


def weight_dropped() -> AbstractContextManager[Any]:
    """A cost is not weighed with its nearest ancestor."""
    influences = Structure.influences
    return mock.patch.object(Structure, "influences", lambda self, name: influences(self, name)[:-1])


def terminal_cost_times_branches() -> AbstractContextManager[Any]:
    """A cost after a sequence is summed over the branches of a node in it."""
    fold = Product.fold

    def wrong(self: Product, value: Any, name: str, scale: float = 1.0) -> Any:
        inside = [w.n for w in self.branched if w.in_sequence and w.n is not None]
        return fold(self, value, name, scale * inside[0] if inside and not self.in_sequence else scale)

    return mock.patch.object(Product, "fold", wrong)


def time_taken_for_batch() -> AbstractContextManager[Any]:
    """Where there are as many steps as batch elements, weights have them exchanged."""
    weight = Trace.weight

    def wrong(self: Trace, name: str, scope: int | None = None) -> Any:
        found = weight(self, name, scope)
        square = found.in_sequence and found.score is not None and found.score.ndim >= 2 and found.score.shape[-1] == self.steps
        return found.over(lambda x: x.transpose(-1, -2) if x.shape[-1] == x.shape[-2] else x) if square else found

    return mock.patch.object(Trace, "weight", wrong)


def detach_ignored_by_weights() -> AbstractContextManager[Any]:
    """A weight counts live over detached paths too."""
    return mock.patch.object(Structure, "_parts", lambda self, source, target, full, live: ((full, True),))


def episodes_ignored() -> AbstractContextManager[Any]:
    """Products of weights run on over the start of an episode."""
    return mock.patch.object(product, "starts", lambda first: torch.zeros_like(first.long()))


def window_short() -> AbstractContextManager[Any]:
    """The least lag is left out."""
    scan = product.window_sum
    return mock.patch.object(product, "window_sum", lambda x, lo, hi, *rest: scan(x, lo + (hi > lo), hi, *rest))


def biased_leave_one_out() -> AbstractContextManager[Any]:
    """A sample is in its own baseline."""

    def wrong(log_prob: Any) -> Any:
        n = log_prob.shape[0]
        z = torch.expm1(log_prob - log_prob.detach())
        return (1 + z - z.mean(0)) / n

    return mock.patch.object(leave_one_out, "leave_one_out", wrong)


def half_a_score() -> AbstractContextManager[Any]:
    """Joint samples are scored by half."""
    branch = ScoreFunction.branch

    def wrong(self: ScoreFunction, distribution: Any) -> Any:
        found = branch(self, distribution)
        return type(found)(found.values, found.n, score=found.score / 2) if distribution.event_shape else found

    return mock.patch.object(ScoreFunction, "branch", wrong)


MUTANTS: tuple[Fault, ...] = (
    weight_dropped,
    terminal_cost_times_branches,
    time_taken_for_batch,
    detach_ignored_by_weights,
    episodes_ignored,
    window_short,
    biased_leave_one_out,
    half_a_score,
)
