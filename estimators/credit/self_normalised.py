"""Self-normalised per-decision importance sampling: products of ratios over their mean in the batch.

    W_t = Π_{k ≤ t} ρ_k          within the episode, ρ = π/μ

    the score of step t is multiplied by   W_t / mean_b W_t · credit_t          mean over the batch, at each step

The node's weight contributes its own ρ_t; this credit contributes the other factors. Like W_t alone (`EarlierRatios`) it
corrects the distribution of states and actions, with less variance: the weights of each step have mean 1, so a single large
ratio cannot scale the whole update, and an unknown normalising constant of μ cancels. Biased by O(1/N) in a batch of N. A
block must begin with the start of its episodes. Precup, Sutton & Singh (2000), "weighted" importance sampling; Thomas (2015).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from scg.credit import Downstream
from scg.errors import GraphError
from scg.estimators.credit.ratios import ratio
from scg.estimators.credit.wrapped import Wrapped
from scg.scan import INFINITE, starts, window_product


@dataclass(frozen=True)
class SelfNormalisedRatios(Wrapped):
    """`credit` times the product of the ratios up to this step over its mean along the batch's axis `dim`."""

    dim: int = -1

    def __call__(self, downstream: Downstream) -> Tensor:
        credit, rho = self.credit(downstream), ratio(downstream)
        if not -downstream.batch_rank <= self.dim < 0 or rho.shape[self.dim] < 2:
            batch = tuple(rho.shape[rho.ndim - downstream.batch_rank :])
            raise GraphError(
                f"node {downstream.node!r}: {self!r} divides ratios by their mean over the batch, which has shape {batch}.\n"
                "Replay several episodes at once and let dim= be their axis, counted from the right; or use EarlierRatios."
            )
        earlier, so_far = rho.new_ones(()), rho
        if downstream.in_sequence:
            start = None if downstream.first is None else starts(downstream.first.expand(rho.shape))
            earlier = window_product(rho, 1, INFINITE, start, -rho.ndim)
            so_far = rho * earlier
        return earlier / so_far.mean(self.dim, keepdim=True) * credit
