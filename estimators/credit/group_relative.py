"""Group-relative advantages: an element's cost-to-go against the mean of its group, its own included; GRPO divides by their spread.

    K_b = (G_b − mean_j G_j) / (std_j G_j + ε)          standardise=True: GRPO (Shao et al. 2024)
    K_b =  G_b − mean_j G_j                             standardise=False: Dr. GRPO (Liu et al. 2025)

A group is the batch along `axis`, the answers to one prompt in `[prompt, answer]`, all drawn independently.

    mean gradient, standardise=False      (1 − 1/n) ∇E[G]: its own cost in the baseline scales the gradient, n the group's size
    standardise=True                      no gradient of E[G]: a prompt counts by 1/std, most where its answers agree most. For a
                                          score of 0 or 1 with mean p and large n it is ∇ 2 arcsin √p, for prompts one by one;
                                          groups that agree throughout have K = 0

`BatchLeaveOneOut` is the unbiased one. With a group of one prompt, standardising changes the length of the mean gradient only
as far as std and the score are uncorrelated; over several prompts it changes its direction.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from scg.credit import Credit, Downstream
from scg.errors import GraphError


@dataclass(frozen=True)
class GroupRelative(Credit):
    """`K_b`. Elements along `axis`, counted from the right, are a group."""

    standardise: bool = True
    discount: float = 1.0
    axis: int = -1
    epsilon: float = 1e-4

    def __post_init__(self) -> None:
        if self.axis >= 0:
            raise ValueError(f"GroupRelative(axis={self.axis}): batch axes are counted from the right, -1 is the last")

    def __call__(self, downstream: Downstream) -> Tensor:
        cost_to_go = downstream.cost_to_go(self.discount)
        own = downstream.sizes[self.axis] if -self.axis <= len(downstream.sizes) else 1
        count = cost_to_go.shape[self.axis] if -self.axis <= downstream.batch_rank else 1
        if own < 2 or count < 2:
            raise GraphError(
                f"node {downstream.node!r}: {self!r} compares at least 2 elements of the batch, each with a sample of its own; on "
                f"that axis the costs have {count}, and the node has {own}"
            )
        centred = cost_to_go - cost_to_go.mean(self.axis, keepdim=True)
        if not self.standardise:
            return centred
        return centred / (cost_to_go.std(self.axis, keepdim=True) + self.epsilon)
