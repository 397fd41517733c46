"""The weight of one node's branches, in the form that its estimator gave it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(slots=True)
class Weight:
    """The weight of one node: exp(score)/n, or `factor`, which sums over the branches. Neither: 1/n."""

    score: Tensor | None
    factor: Tensor | None
    n: int | None
    axis: int
    in_sequence: bool
    on_plate: bool = False
    control: Tensor | None = None

    def over(self, change: Callable[[Tensor], Tensor]) -> Weight:
        score = None if self.score is None else change(self.score)
        factor = None if self.factor is None else change(self.factor)
        control = None if self.control is None else change(self.control)
        if score is self.score and factor is self.factor and control is self.control:
            return self
        return Weight(score, factor, self.n, self.axis, self.in_sequence, self.on_plate, control)


def joint(weight: Weight, dim: int) -> Weight:
    """The weight of all samples on a plate together, as what follows the plate sees it."""
    score = None if weight.score is None else weight.score.sum(dim, keepdim=True)
    factor = None if weight.factor is None else weight.factor.prod(dim, keepdim=True)
    return Weight(score, factor, weight.n, weight.axis, weight.in_sequence)


def along_time(steps: Sequence[Weight], change: Callable[[list[Tensor]], Tensor]) -> Weight:
    """One weight from those of all steps, each a tensor by `change`.

    An estimator may leave out a weight at steps where nothing is differentiated: it is 1/n there, its score and control are 0.
    """
    n = steps[0].n

    def joined(parts: list[Tensor | None], absent: float) -> Tensor | None:
        like = next((x for x in parts if x is not None), None)
        return None if like is None else change([like.new_full((), absent) if x is None else x for x in parts])

    return Weight(
        joined([w.score for w in steps], 0.0),
        joined([w.factor for w in steps], 1.0 / (n or 1)),
        n,
        steps[0].axis,
        steps[0].in_sequence,
        steps[0].on_plate,
        joined([w.control for w in steps], 0.0),
    )
