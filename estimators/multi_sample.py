"""Multi-sample bounds: costs that are not linear in the K samples of a plate.

    w_k = p(x, z_k) / q(z_k|x)
    L_K = log 1/K Σ_k w_k                             E[L_K] ≤ E[L_{K+1}] ≤ log p(x)            Burda et al. (2016)
    J_K = K L_K − (K − 1)/K Σ_k L_{K−1}^{(−k)}        no bound, but a bias of order 1/K²        Nowozin (2018)

`negative_bound` and `negative_jackknife` are −L_K and −J_K, as costs:

    graph.stochastic(…, name="z", plate=K)
    graph.deterministic(log_weight, parents=["z", dist("z"), "x"])                           # [K, batch…]
    graph.cost(lambda log_weight: negative_bound(log_weight), name="bound")                  # [batch…]

`dim` is the plate's axis: left of the batch, −2 for a batch of one axis. For a discrete z use the score
function with `credit.VIMCO`; for a pathwise z the plain gradient for the model's parameters, and `dreg` for those of q.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def negative_bound(log_weights: Tensor, dim: int = -2) -> Tensor:
    """`−log 1/K Σ_k w_k`, from `[…, K, batch…]` to `[…, batch…]`."""
    return math.log(at_least("negative_bound", 1, log_weights, dim)) - log_weights.logsumexp(dim)


def negative_jackknife(log_weights: Tensor, dim: int = -2) -> Tensor:
    """`−J_K`, from `[…, K, batch…]` to `[…, batch…]`; K ≥ 2."""
    count = at_least("negative_jackknife", 2, log_weights, dim)
    without = without_each(log_weights, dim).logsumexp(dim - 1 if dim < 0 else dim) - math.log(count - 1)
    return count * negative_bound(log_weights, dim) + (count - 1) * without.mean(dim)


def without_each(log_weights: Tensor, dim: int = -2, instead: float = -math.inf) -> Tensor:
    """K copies of the log-weights, `[…, K, K, batch…]`: in the k-th (the right one of the two axes) w_k is left out."""
    dim = dim % log_weights.ndim
    own = torch.eye(log_weights.shape[dim], dtype=torch.bool, device=log_weights.device)
    own = own.reshape(*own.shape, *[1] * (log_weights.ndim - dim - 1))
    return log_weights.unsqueeze(dim + 1).masked_fill(own, instead)


def at_least(what: str, least: int, log_weights: Tensor, dim: int) -> int:
    """K, which is to be `least` or more."""
    count = log_weights.shape[dim] if -log_weights.ndim <= dim < log_weights.ndim else 0
    if count < least:
        raise ValueError(
            f"{what}: log_weights has shape {tuple(log_weights.shape)}, with no axis {dim} of K ≥ {least} samples.\n"
            "Draw them on a plate=K, and let dim= be its axis, left of the batch."
        )
    return count
