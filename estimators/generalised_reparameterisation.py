"""Generalised reparameterisation (G-REP): a standardised sample, with a score term for the noise that still depends on θ.

    x = T(ε; θ),   ε ~ q_ε(·; θ),   log q_ε(ε; θ) = log p(T(ε; θ); θ) + log |∂_ε T(ε; θ)|

    ∇E[f(x)] = E[ ∂_x f(x) ∂_θ T(ε; θ) ]  +  E[ f(x) ∇_θ log q_ε(ε; θ) ]
               the values' gradient           the correction: the score of the noise, which still depends on θ

    distribution       T(ε; θ)                       m                    s²
    Gamma(α, β)        exp(m + s ε)                  ψ(α) − log β         ψ′(α)                 ψ = digamma
    Beta(α, β)         1/(1 + exp(−m − s ε))         ψ(α) − ψ(β)          ψ′(α) + ψ′(β)
    LogNormal(μ, σ)    exp(m + s ε)                  μ                    σ²        ε is free of θ, and no score is left

m and s are the mean and standard deviation of log x (of its logit), so that ε has mean 0 and variance 1 whatever θ: only
its shape still depends on α and β. Also inside Independent. Needs f differentiable. Unbiased, and to any order. Torch's own
gradients of Gamma and Beta samples (Pathwise) are of first order, and usually have less variance.
Ruiz, Titsias & Blei (2016), "The generalized reparameterization gradient".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch import distributions as D
from torch.distributions import Distribution

from scg.distributions import density_order, log_density, sample
from scg.estimator import Branches, Estimator, at_least, draw
from scg.estimators.factorised import bound_sum, only, unbound, zero


@dataclass(frozen=True)
class GeneralisedReparameterisation(Estimator):
    """Pathwise through the standardised sample, and the score of what the standardisation leaves."""

    samples: int = 1

    moves = True

    def __post_init__(self) -> None:
        at_least("GeneralisedReparameterisation", self.samples, 1)

    def branch(self, distribution: Distribution) -> Branches:
        values, n = draw(partial(sample, distribution), self.samples)
        again, log_prob = standardised(distribution, values)
        return Branches(again, n, score=zero(log_prob))

    def given(self, distribution: Distribution, value: Tensor, log_prob: Tensor | None = None) -> Branches:
        """The ε behind a recorded value; with μ's log-probability its weight is π/μ, whose gradient is that of ε's score."""
        again, own = standardised(distribution, value.detach())
        if log_prob is None:
            return Branches(again, score=zero(own))
        return Branches(again, weights=((distribution.log_prob(value) - log_prob).detach() + zero(own)).exp())

    def order(self, distribution: Distribution) -> float:
        return density_order(distribution)

    def refuses(self, distribution: Distribution) -> str | None:
        return only(
            "GeneralisedReparameterisation",
            distribution,
            tuple(MAPS),
            "Pathwise() where it reparameterises, else LeaveOneOut(samples=2)",
        )


@dataclass(frozen=True)
class Map:
    """`x = push(m + s ε)`: its inverse `pull`, log |push′(y)|, and m, s of a distribution."""

    push: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor], Tensor]
    log_slope: Callable[[Tensor], Tensor]
    moments: Callable[[Any], tuple[Tensor, Tensor]]


def standardised(distribution: Distribution, x: Tensor) -> tuple[Tensor, Tensor]:
    """`x = T(ε; θ)` of an ε that is held fixed, and `log q_ε(ε; θ)` for the sample, both moving with θ."""
    base, bound = unbound(distribution)
    rule = next(rule for kind, rule in MAPS.items() if isinstance(base, kind))
    mean, scale = rule.moments(base)
    noise = (rule.pull(x) - mean).detach() / scale.detach()
    y = mean + scale * noise
    again = x + zero(rule.push(y))  # to the bit the sample that was drawn
    log_prob = log_density(base, again) + rule.log_slope(y) + scale.log()
    return again, bound_sum(log_prob, bound)


def _log_gamma(base: Any) -> tuple[Tensor, Tensor]:
    return torch.digamma(base.concentration) - base.rate.log(), torch.polygamma(1, base.concentration).sqrt()


def _logit_beta(base: Any) -> tuple[Tensor, Tensor]:
    a, b = base.concentration1, base.concentration0
    return torch.digamma(a) - torch.digamma(b), (torch.polygamma(1, a) + torch.polygamma(1, b)).sqrt()


def _logistic_slope(y: Tensor) -> Tensor:
    return torch.nn.functional.logsigmoid(y) + torch.nn.functional.logsigmoid(-y)


MAPS: dict[type[Distribution], Map] = {
    D.Gamma: Map(torch.exp, torch.log, lambda y: y, _log_gamma),
    D.Beta: Map(torch.sigmoid, torch.logit, _logistic_slope, _logit_beta),
    D.LogNormal: Map(torch.exp, torch.log, lambda y: y, lambda base: (base.loc, base.scale)),
}
