"""A base class for estimators that wrap another one and delegate everything that they do not override.

The inner estimator's properties (`unbiased`, `allow_bias`, `order`), requirements (`refuses`, `moves`, `weighs`), treatment of
recorded values and credits, and parameters are those of the wrapper, unless it overrides them. So checks that ask whether a
path moves, and `trace.variance`, which trains what an estimator learns, work on wrapped estimators.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.distributions import Distribution

from scg.estimator import Branches, Estimator


class Wrapping(Estimator, nn.Module):
    """A subclass overrides what it changes, `branch` or `branch_below`, and calls `self.estimator`.

    It is a module with the inner estimator as its child where that is one, so what is learned inside is found.
    """

    estimator: Estimator

    def __init__(self, estimator: Estimator) -> None:
        if not isinstance(estimator, Estimator):
            raise TypeError(f"{type(self).__name__}({estimator!r}): what it wraps is an estimator")
        nn.Module.__init__(self)
        self.estimator = estimator

    @property
    def unbiased(self) -> bool:  # type: ignore[override]
        return self.estimator.unbiased

    @property
    def allow_bias(self) -> bool:  # type: ignore[override]
        return self.estimator.allow_bias

    @property
    def moves(self) -> bool:  # type: ignore[override]
        return self.estimator.moves

    @property
    def weighs(self) -> bool:  # type: ignore[override]
        return self.estimator.weighs

    def branch(self, distribution: Distribution) -> Branches:
        return self.estimator.branch(distribution)

    def branch_below(self, distribution: Distribution, axes: int) -> Branches:
        return self.estimator.branch_below(distribution, axes)

    def given(self, distribution: Distribution, value: Tensor, log_prob: Tensor | None = None) -> Branches:
        return self.estimator.given(distribution, value, log_prob)

    def pooled(self, weight: Tensor, time: int | None, value: Callable[[str], Tensor]) -> Tensor:
        return self.estimator.pooled(weight, time, value)

    def combine(self, weight: Tensor, credit: Tensor) -> Tensor:
        return self.estimator.combine(weight, credit)

    def order(self, distribution: Distribution) -> float:
        return self.estimator.order(distribution)

    def refuses(self, distribution: Distribution) -> str | None:
        return self.estimator.refuses(distribution)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.estimator!r})"
