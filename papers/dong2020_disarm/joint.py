"""Exact variances for D independent bits and any cost, as sums over what an estimator can see.

ARM's uniform u falls, bit by bit, into one of three intervals, with m = max(σ(θ), σ(−θ)) and b, b̃ constant on each:

    u         [0, 1 − m)    [1 − m, m]      (m, 1]
    b, b̃      0, 1          equal           1, 0
    u − ½     −m/2          0               m/2             its mean there, which is DisARM's coefficient
              (1−m)²/12     (2m−1)²/12      (1−m)²/12       its variance there, which DisARM is rid of

so both second moments are sums over 3^D regions; those of samples that are independent, over 4^D pairs of values.
`costs` has one axis of size 2 for each bit. Variances are traces, for two evaluations of the cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Exact:
    """Traces of the variance of one estimate made from two evaluations."""

    score: float
    leave_one_out: float
    arm: float
    disarm: float


def gradient(theta: Tensor, costs: Tensor) -> Tensor:
    """∇ E[f(b)], by differentiating the sum over values."""
    theta = theta.detach().requires_grad_()
    bits = grid(2, len(theta))
    p = torch.sigmoid(theta)
    probability = torch.where(bits == 1, p, 1 - p).prod(-1)
    return torch.autograd.grad((probability * costs.flatten()).sum(), theta)[0]


def variances(theta: Tensor, costs: Tensor) -> Exact:
    p = torch.sigmoid(theta)
    square = gradient(theta, costs).square().sum()
    arm, disarm = (x - square for x in antithetic(theta, costs))
    bits = grid(2, len(theta))
    probability = torch.where(bits == 1, p, 1 - p).prod(-1)
    f, scores = costs.flatten(), bits - p
    score = ((probability * f**2 * scores.square().sum(-1)).sum() - square) / 2
    both = probability[:, None] * probability
    half = (f[:, None] - f) / 2
    difference = (bits[:, None] - bits).square().sum(-1)
    return Exact(score.item(), ((both * half**2 * difference).sum() - square).item(), arm.item(), disarm.item())


def antithetic(theta: Tensor, costs: Tensor) -> tuple[Tensor, Tensor]:
    """E‖g‖² of ARM and of DisARM."""
    m = torch.sigmoid(theta.abs())
    likelier = (theta > 0).to(theta.dtype)
    chance = torch.stack([1 - m, 2 * m - 1, 1 - m])
    mean = torch.stack([-m / 2, torch.zeros_like(m), m / 2])
    noise = torch.stack([1 - m, 2 * m - 1, 1 - m]) ** 2 / 12
    b = torch.stack([torch.zeros_like(m), likelier, torch.ones_like(m)])
    b_tilde = b.flip(0)
    region, bit = grid(3, len(theta)).long(), torch.arange(len(theta))
    probability = chance[region, bit].prod(-1)
    gap = at(costs, b[region, bit]) - at(costs, b_tilde[region, bit])
    known = mean[region, bit].square().sum(-1)
    weight = probability * gap**2
    return (weight * (known + noise[region, bit].sum(-1))).sum(), (weight * known).sum()


def at(costs: Tensor, bits: Tensor) -> Tensor:
    """f of `bits [n, D]`."""
    return costs[tuple(bits.long().unbind(-1))]


def grid(levels: int, bits: int) -> Tensor:
    """All of {0, …, levels − 1}^D, `[levels^D, D]`, the last bit fastest."""
    return torch.cartesian_prod(*[torch.arange(levels, dtype=torch.float64)] * bits).reshape(-1, bits)
