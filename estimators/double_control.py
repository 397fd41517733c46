"""Double control variates: leave-one-out, and a Taylor expansion of f at each sample's peers against what it leaves.

    b_k(x) = α ḡ_kᵀ (x − μ),   ḡ_k = mean_{j≠k} ∇f(x_j)       f's slope, estimated by the others

    ∇E[f(x)] = E[ 1/n Σ_k ( f(x_k) − b_k(x_k) − mean_{j≠k} (f(x_j) − b_j(x_j)) ) ∇log p(x_k) + α/n Σ_k ∇f(x_k)ᵀ ∇μ ]

The first b is the global control variate, whose mean gradient is the last term; the second, local one is a better
baseline and has mean zero. Both are linear in the slopes ∇f(x_i), so that all of it is a path through the samples:

    values  x_i + δ_i,   ∇δ_i = α (∇μ − mean_{k≠i} u_k),   u_k = n/(n−1) (x_k − μ) (∇log p(x_k) − mean_j ∇log p(x_j))

with leave-one-out's weights: each sample moves as the mean does, less the others' unbiased estimate of that. δ is
zero-valued, so f is evaluated at the n hard samples alone. Unbiased for any α and whatever slopes f has there; without
any this is leave-one-out. First order. A linear f leaves no variance at α = 1; where the slopes say little of what a flip
does, as those of (b − ½)² at 0 and 1, the best α is near 0.
Titsias & Shi (2022), "Double control variates for gradient estimation in discrete latent variable models".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from scg.distributions import log_density, sample
from scg.estimator import Branches, Estimator, at_least
from scg.estimators.factorised import zero
from scg.estimators.leave_one_out import leave_one_out
from scg.estimators.muprop import numeric, over_event


@dataclass(frozen=True)
class DoubleControl(Estimator):
    """Double control variates of a fixed strength α; 0 is leave-one-out."""

    samples: int = 2
    alpha: float = 1.0

    def __post_init__(self) -> None:
        at_least("DoubleControl", self.samples, 2)
        _finite("DoubleControl", self.alpha)

    def branch(self, distribution: Distribution) -> Branches:
        return double_control(distribution, self.samples, self.alpha)

    def order(self, distribution: Distribution) -> float:
        return 1

    def refuses(self, distribution: Distribution) -> str | None:
        return numeric("DoubleControl", distribution)


class LearnedDoubleControl(Estimator, nn.Module):
    """Double control variates whose α is a parameter, learned by descending `trace.variance(wrt=…)`. It starts as given."""

    def __init__(self, samples: int = 2, alpha: float = 1.0) -> None:
        at_least("LearnedDoubleControl", samples, 2)
        _finite("LearnedDoubleControl", alpha)
        nn.Module.__init__(self)
        self.alpha = nn.Parameter(torch.tensor(float(alpha)))
        self.samples = samples

    def branch(self, distribution: Distribution) -> Branches:
        return double_control(distribution, self.samples, self.alpha)

    def order(self, distribution: Distribution) -> float:
        return 1

    def refuses(self, distribution: Distribution) -> str | None:
        return numeric("LearnedDoubleControl", distribution)

    def extra_repr(self) -> str:
        return f"samples={self.samples}, alpha={self.alpha.item():.3g}"


def double_control(distribution: Distribution, n: int, alpha: float | Tensor) -> Branches:
    """n samples that move with θ, leave-one-out's weights."""
    x = sample(distribution, torch.Size((n,)))
    log_prob, mean = log_density(distribution, x), distribution.mean
    score = zero(log_prob)
    u = n / (n - 1) * (x - mean.detach()) * over_event(score - score.mean(0), distribution)
    delta = alpha * (zero(mean) - (u.sum(0) - u) / (n - 1))
    return Branches(x + delta, n, weights=leave_one_out(log_prob))


def _finite(estimator: str, alpha: object) -> None:
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise ValueError(f"{estimator}(alpha={alpha!r}): the control variates' strength is a finite number")
