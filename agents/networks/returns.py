"""What a critic of discrete actions learns of returns: their mean, quantiles, or probabilities on a grid.

    Expected       one atom, the mean
    Quantiles      z_1 … z_M, at levels (2m − 1) / 2M      y = reward + discount · z'       quantile regression (`quantiles.py`)
    Categorical    logits of p on v_1 < … < v_N            m_i = Σ_j p'_j · max(0, 1 − |clip(reward + discount · v_j) − v_i| / Δ)
                                                           −Σ_i m_i log p_i, least where p = m

Of several heads (MultiDiscrete), the target is their mean: of quantiles level by level, of probabilities as a mixture.

Bellemare, Dabney & Munos (2017), "A distributional perspective on reinforcement learning" (C51); Dabney et al. (2018) (QR-DQN).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from scg.agents.networks.quantiles import quantile_loss


class Returns(Protocol):
    """Reads values from atoms `[..., atoms]`, whose number it says."""

    @property
    def atoms(self) -> int: ...

    def mean(self, atoms: Tensor) -> Tensor: ...

    def numpy_mean(self, atoms: np.ndarray) -> np.ndarray: ...


class Distribution(Returns, Protocol):
    """And learns a distribution: `backup` makes the target `[*batch, n]`, `loss` is a head's, `target_mean` the target's mean."""

    def backup(self, reward: Tensor, discount: Tensor, ahead: Tensor) -> Tensor: ...

    def loss(self, atoms: Tensor, target: Tensor) -> Tensor: ...

    def target_mean(self, target: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Expected:
    """The mean alone."""

    atoms: int = 1

    def mean(self, atoms: Tensor) -> Tensor:
        return atoms.squeeze(-1)

    def numpy_mean(self, atoms: np.ndarray) -> np.ndarray:
        return atoms[..., 0]


@dataclass(frozen=True)
class Quantiles:
    """Quantiles at the levels (2m − 1) / 2M."""

    atoms: int = 51

    def mean(self, atoms: Tensor) -> Tensor:
        return atoms.mean(-1)

    def numpy_mean(self, atoms: np.ndarray) -> np.ndarray:
        return atoms.mean(-1)

    def backup(self, reward: Tensor, discount: Tensor, ahead: Tensor) -> Tensor:
        """`ahead [*batch, dims, atoms]`"""
        return reward.unsqueeze(-1) + discount.unsqueeze(-1) * ahead.mean(-2)

    def loss(self, atoms: Tensor, target: Tensor) -> Tensor:
        return quantile_loss(atoms, target)

    def target_mean(self, target: Tensor) -> Tensor:
        return target.mean(-1)


@dataclass(frozen=True)
class Categorical:
    """Probabilities of `atoms` returns, evenly from `low` to `high`."""

    low: float
    high: float
    atoms: int = 51

    def support(self, like: Tensor) -> Tensor:
        return torch.linspace(self.low, self.high, self.atoms, dtype=like.dtype, device=like.device)

    def mean(self, atoms: Tensor) -> Tensor:
        return (atoms.softmax(-1) * self.support(atoms)).sum(-1)

    def numpy_mean(self, atoms: np.ndarray) -> np.ndarray:
        odds = np.exp(atoms - atoms.max(-1, keepdims=True))
        return (odds * np.linspace(self.low, self.high, self.atoms, dtype=atoms.dtype)).sum(-1) / odds.sum(-1)

    def backup(self, reward: Tensor, discount: Tensor, ahead: Tensor) -> Tensor:
        """`ahead [*batch, dims, atoms]`, logits; the target's probabilities `[*batch, atoms]`."""
        v = self.support(reward)
        moved = (reward.unsqueeze(-1) + discount.unsqueeze(-1) * v).clamp(self.low, self.high)  # [*batch, j]
        step = (self.high - self.low) / (self.atoms - 1)
        share = (1 - (moved.unsqueeze(-1) - v).abs() / step).clamp_min(0)  # [*batch, j, i]
        return (ahead.softmax(-1).mean(-2).unsqueeze(-1) * share).sum(-2)

    def loss(self, atoms: Tensor, target: Tensor) -> Tensor:
        return -(target * atoms.log_softmax(-1)).sum(-1)

    def target_mean(self, target: Tensor) -> Tensor:
        return (target * self.support(target)).sum(-1)
