"""ARMS: n negatively dependent samples of each bit, with a correction for the dependence of each pair.

    d ~ Dirichlet(1_n),  a_i = 1[d_i > 1 − r^{1/(n−1)}],   r = min(p, 1 − p)

marks each of n samples with the rarer value of the bit with probability r, negatively dependent: the chance that two
given samples both have it is P₁₁ = max(0, 2 r^{1/(n−1)} − 1)^{n−1} < r². With q = P(b_i ≠ b_j)/2 = r − P₁₁,

    ∇_θ E[f(b)] = E[ 1/(n−1) Σ_i (f(b_i) − f̄) b_i ] · p(1−p)/q,       f̄ = mean_j f(b_j)

for a logit θ, component by component for independent bits. n = 2 is DisARM; q = p(1−p) would be leave-one-out. As
weights: 1/n + z_i with ∇z_i = p(1−p)/q (b_i − b̄)/(n−1) ∇θ. Unbiased for any f; first order.
Dimitriev & Zhou (2021), "ARMS: antithetic-REINFORCE-multi-sample gradient for binary variables" (its Dirichlet copula).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution
from torch.nn.functional import logsigmoid

from scg.distributions import log_odds, unseen
from scg.estimator import Branches, Estimator, at_least
from scg.estimators.factorised import bound_sum, only, unbound, zero
from scg.estimators.inverse_cdf import exponential, tensor_of, wide_dtype


@dataclass(frozen=True)
class ARMS(Estimator):
    """n jointly antithetic samples of independent bits."""

    samples: int = 4

    def __post_init__(self) -> None:
        at_least("ARMS", self.samples, 2)

    def branch(self, distribution: Distribution) -> Branches:
        n = self.samples
        bits, bound = unbound(distribution)
        theta, dtype = log_odds(bits), tensor_of(bits).dtype
        log_r = logsigmoid(-theta.detach().to(wide_dtype(theta)).abs())
        rare = rare_events(n, log_r)
        b = torch.where(theta > 0, ~rare, rare).to(log_r.dtype)
        coefficient = (debiased(n, log_r) * (b - b.mean(0)) / (n - 1)).to(theta.dtype)
        z = bound_sum(coefficient * zero(theta), bound)
        return Branches(b.to(dtype), n, weights=(1 / n + z).to(dtype))

    def order(self, distribution: Distribution) -> float:
        return 1

    def refuses(self, distribution: Distribution) -> str | None:
        return only("ARMS", distribution, (Bernoulli,), f"LeaveOneOut(samples={self.samples})") or unseen(distribution)


def rare_events(n: int, log_r: Tensor) -> Tensor:
    """n events of probability r each, no two pairs of which happen together as often as r²: `[n, *shape]`."""
    e = exponential((n, *log_r.shape), log_r)
    total = e.sum(0)
    return (total - e) / total < (log_r / (n - 1)).exp()


def debiased(n: int, log_r: Tensor) -> Tensor:
    """p(1−p)/q, with r divided out of both so that nothing cancels where r is small."""
    both = (n - 1) * torch.log1p((2 * torch.expm1(log_r / (n - 1))).clamp_min(-1)) - log_r  # log P₁₁/r
    return -torch.expm1(log_r) / -torch.expm1(both)
