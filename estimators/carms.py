"""CARMS: n categorical samples that avoid each other, each pair's dependence divided out.

For any n samples whose pairs have marginals p and P(x, x') > 0 at every x ≠ x', with R = p(x) p(x') / P(x, x'),

    ∇E[f(x)] = E[ 1/(n(n−1)) Σ_{i<j} R_ij (f(x_i) − f(x_j)) (∇log p(x_i) − ∇log p(x_j)) ]

component by component for a joint sample: pairs of equal values drop out, so R is not needed there. R = 1 is leave-one-out.
Here the samples break sticks: in ascending order of probability, category k is taken, if none before it was, with
probability π_k = p_k / Σ_{l≥k} p_l, by jointly antithetic events of which two happen together with probability Φ_k:

    R(x, x') = Π_{l<k} (1 − π_l)² / (1 − 2π_l + Φ_l) · π_k (1 − π_k) / (π_k − Φ_k),      k the earlier one of the two

In that order π is at most ½ but for the last category, and no pair is impossible. As weights: 1/n + z_i with
∇z_i = 1/(n(n−1)) Σ_j R_ij (∇log p(x_i) − ∇log p(x_j)). Two categories are ARMS. Unbiased for any f; first order.
Dimitriev & Zhou (2021), "CARMS: categorical-antithetic-REINFORCE multi-sample gradient estimator".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, OneHotCategorical
from torch.nn.functional import one_hot

from scg.distributions import log_odds, unseen
from scg.estimator import Branches, Estimator, at_least
from scg.estimators.arms import debiased, rare_events
from scg.estimators.factorised import bound_sum, only, unbound, zero
from scg.estimators.inverse_cdf import tensor_of, wide_dtype


@dataclass(frozen=True)
class CARMS(Estimator):
    """n jointly antithetic samples of independent categories."""

    samples: int = 4

    def __post_init__(self) -> None:
        at_least("CARMS", self.samples, 2)

    def branch(self, distribution: Distribution) -> Branches:
        n = self.samples
        categories, bound = unbound(distribution)
        logits, dtype = log_odds(categories), tensor_of(categories).dtype
        ascending, order = logits.detach().to(wide_dtype(logits)).sort(-1)
        log_pi = sticks(ascending)
        place = broken(rare_events(n, log_pi))
        x = order.expand(n, *order.shape).gather(-1, place.unsqueeze(-1)).squeeze(-1)
        log_p = zero(logits.expand(n, *logits.shape).gather(-1, x.unsqueeze(-1)).squeeze(-1))
        earlier = torch.minimum(place, place.unsqueeze(1))  # [n, n, *batch, *event]
        r = ratio(n, log_pi).expand(n, n, *log_pi.shape).gather(-1, earlier.unsqueeze(-1)).squeeze(-1)
        z = (r.to(log_p.dtype) * (log_p.unsqueeze(1) - log_p)).sum(1) / (n * (n - 1))
        values = one_hot(x, logits.shape[-1]).to(dtype) if isinstance(categories, OneHotCategorical) else x
        return Branches(values, n, weights=(1 / n + bound_sum(z, bound)).to(dtype))

    def order(self, distribution: Distribution) -> float:
        return 1

    def refuses(self, distribution: Distribution) -> str | None:
        instead = f"ARMS(samples={self.samples}) for bits, LeaveOneOut(samples={self.samples}) for the rest"
        return only("CARMS", distribution, (Categorical, OneHotCategorical), instead) or unseen(distribution)


def sticks(ascending: Tensor) -> Tensor:
    """log π_k from log-probabilities in ascending order."""
    ascending = ascending.clamp_min(torch.finfo(ascending.dtype).min / 4)  # stands for −∞, whose differences would be undefined
    return ascending - ascending.flip(-1).logcumsumexp(-1).flip(-1)


def broken(events: Tensor) -> Tensor:
    """Where the first event happens, `[…, K]` to `[…]`; the last one does for certain."""
    last = torch.ones_like(events[..., :1])
    return torch.cat([events[..., :-1], last], -1).to(torch.uint8).argmax(-1)


def ratio(n: int, log_pi: Tensor) -> Tensor:
    """R by the earlier place of a pair, `[…, K]`; 0 for the last, where both are equal."""
    none, log_pi = torch.zeros_like(log_pi[..., :1]), log_pi[..., :-1]
    pi = log_pi.exp()
    neither = 1 - 2 * pi + (2 * (log_pi / (n - 1)).exp() - 1).clamp_min(0) ** (n - 1)
    passed = torch.cat([none, torch.cumsum(2 * torch.log1p(-pi) - neither.log(), -1)], -1)  # both samples, by all before k
    return torch.cat([passed[..., :-1].exp() * debiased(n, log_pi), none], -1)
