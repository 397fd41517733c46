"""Ratios of a recording: how much likelier the policy makes what another one did.

    ρ_t = π(a_t|s_t) / μ(a_t|s_t)

A replay with `given["action.log_prob"]` = log μ weighs the node with ρ_t itself, and without it nothing was recorded
under another policy: ρ_t = 1. What becomes of the *later* steps' ratios, and of the product of the *earlier* ones, is
up to the credit:

    EarlierRatios(credit):   Π_{k < t} ρ_k · credit_t        within the episode

With the node's own ρ_t that is per-decision importance sampling of the score: with credits of mean Q the gradient is
that of π's objective, not only at the states that μ visits (Degris et al. 2012). Its variance grows with time.
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
    """`credit`, weighed with the ratios of the episode's earlier steps. A block is to begin with its episodes."""

    def __call__(self, downstream: Downstream) -> Tensor:
        credit = self.credit(downstream)
        if not downstream.in_sequence:
            return credit
        rho = ratio(downstream)
        start = None if downstream.first is None else starts(downstream.first.expand(rho.shape))
        return window_product(rho, 1, INFINITE, start, -rho.ndim) * credit
