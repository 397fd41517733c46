"""Batch leave-one-out: the mean cost-to-go of the other elements of the batch is the baseline.

    K_b = G_b − 1/(B − 1) Σ_{j ≠ b} G_j              G the cost-to-go, step by step of a sequence

The other elements are independent of x_b, so subtracting their mean leaves the mean gradient unchanged; including the
element's own cost would scale the gradient by (B − 1)/B. This is a credit and not a baseline, because a baseline is a node,
and a node's function must not mix batch elements.

The elements must be samples of one problem (the same prompt, the same start), and the node must have a sample *for each
element*: a sample that the batch shares influences all the costs.
Mnih & Rezende (2016); Kool, van Hoof & Welling (2019); Ahmadian et al. (2024). For fresh samples at one node there is
the estimator `LeaveOneOut(samples)`, which is right to any order; this one is first order.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from scg.credit import Credit, Downstream
from scg.errors import GraphError


@dataclass(frozen=True)
class BatchLeaveOneOut(Credit):
    """`K_b`. Elements along `axis`, counted from the right, are compared: of a batch `[prompt, answer]` the answers."""

    discount: float = 1.0
    axis: int = -1

    def __post_init__(self) -> None:
        if self.axis >= 0:
            raise ValueError(f"BatchLeaveOneOut(axis={self.axis}): batch axes are counted from the right, -1 is the last")

    def __call__(self, downstream: Downstream) -> Tensor:
        cost_to_go = downstream.cost_to_go(self.discount)
        if -self.axis > downstream.node_rank:
            raise GraphError(
                f"node {downstream.node!r}: {self!r} compares batch elements along an axis that the node's distribution does not "
                "have, so one sample influences them all, and the others' costs are its own. Use a baseline of another kind."
            )
        own = downstream.sizes[self.axis] if -self.axis <= len(downstream.sizes) else None
        count = cost_to_go.shape[self.axis]
        if own == 1 and count > 1:
            raise GraphError(
                f"node {downstream.node!r}: {self!r} compares {count} batch elements whose costs one sample influences, for the "
                f"node's batch has size 1 on that axis: the others' costs are its own, and nothing would be left of the gradient.\n"
                "Expand the distribution to a sample for each, or use a baseline of another kind."
            )
        if count < 2:
            raise GraphError(
                f"node {downstream.node!r}: {self!r} compares at least 2 batch elements; its costs have {count} on that axis"
            )
        mean = cost_to_go.mean(self.axis, keepdim=True)
        return (cost_to_go - mean) * (count / (count - 1))  # own less mean of the others, rearranged
