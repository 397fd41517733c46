"""VIMCO: the credit of each sample of a plate is what it adds to a multi-sample bound.

    ∇E[L] = E[ Σ_k (L − L_{−k}) ∇log q(z_k) + ∇L ],        L = log 1/K Σ_j w_j

    L_{−k} is L with w_k replaced by a mean of the others, so it does not depend on z_k:
    geometric     ŵ_k = exp( 1/(K−1) Σ_{j≠k} log w_j )
    arithmetic    ŵ_k = 1/(K−1) Σ_{j≠k} w_j                L_{−k} is then the bound of the others alone

Needs K ≥ 2 independent samples on a plate, and w_k must be a function of z_k alone. Unbiased for any costs downstream of the
node, because L_{−k} acts as a baseline; it lowers the variance where the cost is −L. First order.
Mnih & Rezende (2016), "Variational inference for Monte Carlo objectives".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from scg.credit import Credit, Downstream
from scg.errors import GraphError
from scg.estimators.multi_sample import at_least, without_each


@dataclass(frozen=True)
class VIMCO(Credit):
    """The costs less −L_{−k}, for each sample of the node's plate. `log_weights` names the node log w, `[…, K, batch…]`."""

    log_weights: str = "log_weights"
    mean: Literal["geometric", "arithmetic"] = "geometric"

    def __post_init__(self) -> None:
        if self.mean not in ("geometric", "arithmetic"):
            raise ValueError(f"VIMCO(mean={self.mean!r}): the mean of the others' weights is 'geometric' or 'arithmetic'")

    def __call__(self, downstream: Downstream) -> Tensor:
        dim = -1 - downstream.batch_rank
        try:
            log_weights = downstream.value(self.log_weights)
            at_least(f"node {downstream.node!r}: {self!r}", 2, log_weights, dim)
        except (KeyError, ValueError) as error:
            missing = (
                f"{self!r} reads {self.log_weights!r}, which has no value here.\nDeclare a node log p − log q of that name."
            )
            raise GraphError(f"node {downstream.node!r}: {missing}" if isinstance(error, KeyError) else str(error)) from None
        return downstream.cost_to_go().unsqueeze(dim) + self.bound_without(log_weights, dim)

    def bound_without(self, log_weights: Tensor, dim: int) -> Tensor:
        """`L_{−k}`, shaped like the log-weights."""
        count = log_weights.shape[dim]
        others = without_each(log_weights, dim).logsumexp(dim - 1)
        if self.mean == "arithmetic":
            return others - math.log(count - 1)
        # log w_j = −∞ is a weight of 0: the sum leaves out its own term, for ∞ − ∞ is no number.
        replaced = without_each(log_weights, dim, instead=0.0).sum(dim - 1) / (count - 1)
        return torch.logaddexp(others, replaced) - math.log(count)
