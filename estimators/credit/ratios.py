"""Importance ratios of a recording: the probability of an action under the policy over that under the recording policy.

    ρ_t = π(a_t|s_t) / μ(a_t|s_t)

A replay with `given["action.log_prob"]` = log μ multiplies the node's weight by ρ_t; without it the recording is on-policy
and ρ_t = 1. The credit chooses how to use the ratios of *later* steps and the product of those of *earlier* steps:

    EarlierRatios(credit):   Π_{k < t} ρ_k · credit_t        within the episode

With the node's own ρ_t this is per-decision importance sampling of the score. With a credit whose mean is Q the result is
the gradient of π's objective; without `EarlierRatios` states are weighted as μ visits them (Degris et al. 2012). The
variance grows with the number of steps.
Precup, Sutton & Singh (2000).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scg.credit import Downstream
from scg.estimators.credit.wrapped import Wrapped
from scg.scan import INFINITE, starts, window_product


def ratio(downstream: Downstream) -> Tensor:
    """`ρ_t`, shaped like the costs."""
    shape = torch.broadcast_shapes(*(cost.shape for cost, _, _ in downstream.costs))
    if downstream.ratio is None:
        return downstream.costs[0][0].new_ones(shape)
    return downstream.ratio.expand(shape)


@dataclass(frozen=True)
class EarlierRatios(Wrapped):
    """`credit` times the ratios of the episode's earlier steps. A block must begin with the start of its episodes."""

    def __call__(self, downstream: Downstream) -> Tensor:
        credit = self.credit(downstream)
        if not downstream.in_sequence:
            return credit
        rho = ratio(downstream)
        start = None if downstream.first is None else starts(downstream.first.expand(rho.shape))
        return window_product(rho, 1, INFINITE, start, -rho.ndim) * credit
