"""MuProp: a first-order Taylor expansion at the mean as control variate, whose own gradient is added back.

    x̄ = sg μ(θ),  μ = E[x]

    ∇E[f(x)] = E[ (f(x) − f(x̄) − f'(x̄)ᵀ(x − x̄)) ∇log p(x) ] + f'(x̄)ᵀ ∇μ

As branches:   values  x,  x̄ + δ,  x̄      weights  w,  1,  −w      with w = exp(log p(x) − sg log p(x)) and the
zero-valued δ whose gradient is ∇μ − (x − x̄) ∇w: f'(x̄) is never computed explicitly; autograd applies it to δ.

n ≥ 2 samples have leave-one-out's weights, so that the residuals f(x) − f'(x̄)ᵀ(x − x̄) are each other's baseline (the
paper's is learned; with one sample nothing centres the gap that the curvature of f leaves). They share the two evaluations
at the mean, which lies between the values of x: Bernoulli, OneHotCategorical, Binomial, Geometric and Poisson (also inside
Independent). Unbiased for every f that is finite at the mean; the variance is 0 for a linear f. First order.
Stochastic nodes downstream are sampled for each branch.
Gu, Levine, Sutskever & Mnih (2016), "MuProp: unbiased backpropagation for stochastic neural networks".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Binomial, Categorical, Distribution, Geometric, OneHotCategorical, Poisson

from scg.distributions import log_density, sample, unseen
from scg.estimator import Branches, Estimator, at_least
from scg.estimators.factorised import only, unbound, zero
from scg.estimators.leave_one_out import leave_one_out
from scg.estimators.relaxation import relaxable


@dataclass(frozen=True)
class MuProp(Estimator):
    """The score function with the mean-field Taylor expansion as its control variate."""

    samples: int = 1

    def __post_init__(self) -> None:
        at_least("MuProp", self.samples, 1)

    def branch(self, distribution: Distribution) -> Branches:
        n = self.samples
        x = sample(distribution, torch.Size((n,)))
        log_prob = log_density(distribution, x)
        w = torch.exp(zero(log_prob)) if n == 1 else leave_one_out(log_prob)
        mean = distribution.mean
        x_bar = mean.detach()
        delta = zero(mean) - ((x - x_bar) * over_event(zero(w), distribution)).sum(0)
        values = torch.cat([x, torch.stack([x_bar + delta, x_bar])])
        weights = torch.cat([w, torch.stack([torch.ones_like(w[0]), -w.sum(0)])])
        return Branches(values, n + 2, weights)

    def order(self, distribution: Distribution) -> float:
        return 1

    def refuses(self, distribution: Distribution) -> str | None:
        return numeric("MuProp", distribution)


def over_event(x: Tensor, distribution: Distribution) -> Tensor:
    """`[n, *batch]` with axes of size 1 for the event's."""
    return x.reshape(*x.shape, *[1] * len(distribution.event_shape))


def numeric(estimator: str, distribution: Distribution) -> str | None:
    """The refusal of what is not discrete, or whose samples are no numbers that a cost could be differentiated by."""
    if isinstance(unbound(distribution)[0], Categorical):
        return relaxable(estimator, distribution)
    kinds = (Bernoulli, OneHotCategorical, Binomial, Geometric, Poisson)
    return only(
        estimator, distribution, kinds, "Pathwise() where it reparameterises, LeaveOneOut(samples=2) for the rest"
    ) or unseen(distribution)
