"""Returns as distributions: quantiles of several critics, and the regression that finds them.

    critics(obs, action) → z [*batch, critics, M]             z_m the quantile at τ_m = (2m − 1) / 2M
    ρ(u) = |τ − 1(u < 0)| · huber(u),  u = y − z              its mean over samples y is least at the (Huber) quantile z

Dabney, Rowland, Bellemare & Munos (2018), "Distributional reinforcement learning with quantile regression".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from scg.agents.networks.critics import QCritics
from scg.agents.networks.encoder import Encoder


class QuantileCritics(QCritics):
    """`count` critics of `quantiles` quantiles each, `[*batch, count, quantiles]`."""

    def __init__(
        self, encoder: Encoder, dim: int, hidden: Sequence[int], count: int, quantiles: int, generator: Generator | None = None
    ) -> None:
        super().__init__(encoder, dim, hidden, count, generator, quantiles)
        self.quantiles = quantiles

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        out, batch = self.outputs(obs, action)
        return out.transpose(0, 1).reshape(*batch, self.count, self.quantiles)


def levels(z: Tensor) -> Tensor:
    """τ_1 … τ_M of quantiles `z [..., M]`."""
    count = z.shape[-1]
    return (torch.arange(count, dtype=z.dtype, device=z.device) + 0.5) / count


def quantile_loss(z: Tensor, y: Tensor) -> Tensor:
    """ρ, the mean over samples `y [..., samples]` and over quantiles `z [..., M]`; `[...]`."""
    error = y.unsqueeze(-2) - z.unsqueeze(-1)  # [..., M, samples]
    size = error.abs()
    huber = torch.where(size < 1, error.square() / 2, size - 0.5)
    share = (levels(z).unsqueeze(-1) - (error.detach() < 0).to(z.dtype)).abs()
    return (share * huber).mean((-2, -1))
