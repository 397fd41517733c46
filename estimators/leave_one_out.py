"""Leave-one-out: each sample's baseline is the mean cost of the others.

    ∇ E[f(x)] = E[ 1/n Σᵢ (f(xᵢ) − mean_{j≠i} f(xⱼ)) ∇ log p(xᵢ; θ) ]

As weights, with zᵢ = exp(log p(xᵢ) − sg log p(xᵢ)) − 1:   wᵢ = (1 + zᵢ − Σ_{j≠i} zⱼ/(n−1)) / n.
Needs n ≥ 2 independent samples and a differentiable log-density. Unbiased for any f, to any order.
Kool, van Hoof & Welling (2019), "Buy 4 REINFORCE samples, get a baseline for free!"; Mnih & Rezende (2016).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from scg.checks.untouched import transformed
from scg.distributions import log_density, moving_support, sample
from scg.estimator import Branches, Estimator, at_least
from scg.identity import Words


@dataclass(frozen=True)
class LeaveOneOut(Estimator):
    """REINFORCE with n samples that are each other's baseline (RLOO)."""

    samples: int = 2

    def __post_init__(self) -> None:
        at_least("LeaveOneOut", self.samples, 2)

    def branch(self, distribution: Distribution) -> Branches:
        values = sample(distribution, torch.Size((self.samples,)))
        return Branches(values, self.samples, weights=leave_one_out(log_density(distribution, values)))

    def identity(self, words: Words) -> Iterable[str]:
        others = f"{words.fraction(1, self.samples - 1)} {words.sum(words.unequal('j', 'i'))} {words.f('j')}"
        own = words.bracket(words.less(words.f("i"), others))
        yield f"{words.left} = {words.fraction(1, self.samples)} {words.sum('i')} {words.score('i')} {own}"

    def refuses(self, distribution: Distribution) -> str | None:
        return moving_support(distribution)


def leave_one_out(log_prob: Tensor) -> Tensor:
    """The weights of n samples from their log-probabilities `[n, batch…]`."""
    n = log_prob.shape[0]
    z = torch.expm1(log_prob - log_prob.detach())
    # The same, rearranged: zᵢ less the mean of the others is n/(n−1) (zᵢ − z̄).
    if z.ndim > 2 or n > SMALL or torch.compiler.is_compiling() or not _multiplies(z):
        return torch.add(z.new_full((), 1 / n), z - z.mean(0), alpha=1 / (n - 1))
    uniform, centre = _centring(n, z.dtype, z.device)
    return torch.addmv(uniform, centre, z) if z.ndim == 1 else torch.addmm(uniform, centre, z)


SMALL = 16  # up to so many samples, a matrix product is one operation forwards and one backwards in place of seven


def _multiplies(z: Tensor) -> bool:
    """Whether a product with `z` is one operation that rounds as sums do, and constants may be kept beside it.

    Backwards the product is with the costs. In fewer digits than theirs (float16, autocast, a GPU's TF32, `fp32_precision`) a
    level that all samples share would not cancel, and differences smaller than its rounding would be lost.
    """
    return (
        type(z) is Tensor  # no tensor of another mode (fake ones, a tracer's)
        and z.is_cpu
        and (z.dtype == torch.float64 or (z.dtype == torch.float32 and _in_full()))
        and not transformed()  # nor of a transform, which it must not outlive
    )


def _in_full() -> bool:
    """Whether products of float32 numbers are to be of float32 precision here."""
    matmul: Any = getattr(torch.backends.mkldnn, "matmul", None)
    exact = getattr(matmul, "fp32_precision", "ieee") in ("none", "ieee")
    return exact and not torch.is_autocast_enabled("cpu")


@cache
@torch.inference_mode(False)
def _centring(n: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """1/n, and the matrix (I − 11ᵀ/n)/(n − 1)."""
    return torch.full((), 1 / n, dtype=dtype, device=device), (torch.eye(n, dtype=dtype, device=device) - 1 / n) / (n - 1)
