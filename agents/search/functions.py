"""Test functions of black-box optimisers, to be minimised: `x [*batch, d] → f [*batch]`, the minimum 0.

    sphere        Σ xⱼ²                                        at 0
    ellipsoid     Σ 10^(6 j/(d−1)) xⱼ²                         at 0, condition 10⁶
    rosenbrock    Σ 100 (xⱼ² − xⱼ₊₁)² + (1 − xⱼ)²              at 1, a curved valley
    rastrigin     10 d + Σ xⱼ² − 10 cos 2π xⱼ                  at 0, a local minimum at every integer point

Hansen & Kern (2004), "Evaluating the CMA evolution strategy on multimodal test functions".
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sphere(x: Tensor) -> Tensor:
    return x.square().sum(-1)


def ellipsoid(x: Tensor) -> Tensor:
    exponents = torch.arange(x.shape[-1], dtype=x.dtype) * (6 / max(x.shape[-1] - 1, 1))
    return (10**exponents * x.square()).sum(-1)


def rosenbrock(x: Tensor) -> Tensor:
    here, after = x[..., :-1], x[..., 1:]
    return (100 * (here.square() - after).square() + (1 - here).square()).sum(-1)


def rastrigin(x: Tensor) -> Tensor:
    return 10 * x.shape[-1] + (x.square() - 10 * torch.cos(2 * math.pi * x)).sum(-1)
