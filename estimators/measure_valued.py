"""Measure-valued derivatives: the derivative of a density is a difference of two densities.

    ∂_θ p(x; θ) = c (p⁺(x) − p⁻(x)),      ∂_θ E_p[f] = c (E_{p⁺}[f] − E_{p⁻}[f])

    distribution         θ              c              p⁺                              p⁻
    Bernoulli(θ)         θ              1              1                               0
    Categorical(θ)       logit k        θ_k(1 − θ_k)   k                               x given x ≠ k
    Poisson(θ)           θ              1              1 + x                           x
    Normal(μ, σ)         μ              1/(σ√2π)       μ + σ·Rayleigh                  μ − σ·Rayleigh
                         σ              1/σ            μ + σ·Maxwell (two-sided)       x
    Exponential(θ)       θ              1/θ            x                               x + Exponential(θ)
    Gamma(α, θ)          θ              α/θ            x                               x + Exponential(θ)
    Weibull(θ, k)        θ              k/θ            θ (e + e')^{1/k}                x = θ e^{1/k}

with x ~ p and e, e' ~ Exponential(1) (Rayleigh: Weibull of concentration 2). `coupled`: both measures share their noise,
as written, and where one of them is p itself it is the primal sample; else all are independent. Only parameters that
require a gradient (or have a forward-mode tangent) are differentiated. D components of a joint sample are differentiated one by one, the others left at
the primal sample.

As branches: the primal sample with weight 1, and plus and minus with weights ±z, z zero-valued with gradient c ∇θ: 1 + 2D
evaluations for one parameter, 1 + D where one measure is the primal sample, 1 + 2DK for K categories (for one
categorical variable Enumeration takes K). Unbiased for any f; first order, but any order for one bit or one category (E is linear in
its probabilities). Memory is linear in the number of branches, which the budget bounds. Pflug (1989); Heidergott & Vázquez-Abad (2000); Mohamed et al. (2020), section 6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributions as D
from torch.distributions import Distribution

from scg.distributions import kind, moves, sample
from scg.estimator import Branches, Estimator
from scg.estimators.factorised import bound_sum, components, one_each, only, substituted, unbound, zero
from scg.estimators.inverse_cdf import exponential as noise
from scg.estimators.inverse_cdf import wide_dtype


@dataclass(frozen=True)
class Signed:
    """z (p⁺ − p⁻): a zero-valued z with gradient c ∇θ, and a sample of each measure; None stands for the primal one."""

    z: Tensor
    plus: Tensor | None
    minus: Tensor | None


@dataclass(frozen=True)
class MeasureValued(Estimator):
    """Signed pairs of samples for each parameter and component; at most `budget` branches."""

    coupled: bool = True
    budget: int = 4096

    def branch(self, distribution: Distribution) -> Branches:
        base, bound = unbound(distribution)
        primal, derivatives = _RULES[_rule(base)].derive(base, self.coupled)
        if not derivatives:
            return Branches(primal)
        values, weights = [primal.unsqueeze(0)], []
        own = torch.ones((), dtype=derivatives[0].z.dtype, device=primal.device)
        for signed in derivatives:
            for measured, z in ((signed.plus, signed.z), (signed.minus, -signed.z)):
                if measured is None:
                    own = own + bound_sum(z, bound)
                else:
                    values.append(substituted(primal, measured, bound))
                    weights.append(one_each(z, bound))
        both = torch.cat([own.expand(weights[0].shape[1:]).unsqueeze(0), *weights])
        return Branches(torch.cat(values), both.shape[0], both)

    def order(self, distribution: Distribution) -> float:
        linear = isinstance(unbound(distribution)[0], (D.Bernoulli, D.Categorical)) and components(distribution) == 1
        return math.inf if linear else 1

    def refuses(self, distribution: Distribution) -> str | None:
        refusal = only("MeasureValued", distribution, tuple(_RULES), "ScoreFunction() or LeaveOneOut(samples=2)")
        if refusal is not None:
            return refusal
        base, _ = unbound(distribution)
        rule = _RULES[_rule(base)]
        for name in rule.fixed:
            if moves(getattr(base, name)):
                return (
                    f"MeasureValued knows no simple pair of measures for the {name} of {kind(base)}, which requires a gradient.\n"
                    f"Detach it, or use LeaveOneOut(samples=2), or Pathwise() where f is differentiable."
                )
        size = 1 + rule.pairs(base, self.coupled) * components(distribution)
        if size > self.budget:
            return (
                f"MeasureValued would take {size} branches, the budget is {self.budget}: it differentiates each component alone.\n"
                "Use LeaveOneOut(samples=2), or raise MeasureValued(budget=…)."
            )
        return None


# -- noise ---------------------------------------------------------------------------------------------------


def uniform(like: Tensor) -> Tensor:
    return torch.rand_like(like)


def exponential(like: Tensor) -> Tensor:
    return torch.empty_like(like).exponential_()


def rayleigh(like: Tensor) -> Tensor:
    """Density w exp(−w²/2)."""
    return (2 * torch.empty_like(like).exponential_()).sqrt()


def maxwell(like: Tensor) -> Tensor:
    """Two-sided, density m² exp(−m²/2) / √2π. Maxwell × U(0, 1) is N(0, 1)."""
    side = torch.randint(2, like.shape, device=like.device).to(like.dtype) * 2 - 1
    return side * torch.randn((3, *like.shape), dtype=like.dtype, device=like.device).norm(dim=0)


def others(probs: Tensor, shared: bool) -> Tensor:
    """For each category k a sample that is not k: `[K, *batch]` from `probs [*batch, K]`, all from the same noise if `shared`.

    The first of exponential clocks with rates p that is not k. Noise for all k at once would be K² numbers.
    """
    count = probs.shape[-1]
    rates = probs.to(wide_dtype(probs))
    if shared:
        first, second = (
            (noise(probs.shape, probs) / rates).topk(min(2, count), -1, largest=False).indices[..., [0, -1]].unbind(-1)
        )
        k = torch.arange(count, device=probs.device).view(count, *[1] * first.ndim)
        return torch.where(first == k, second, first)
    each = [
        (noise(probs.shape, probs) / rates).select_scatter(rates[..., k] + math.inf, -1, k).argmin(-1) for k in range(count)
    ]
    return torch.stack(each)


# -- the table -------------------------------------------------------------------------------------------------


def _bernoulli(base: Any, coupled: bool) -> tuple[Tensor, list[Signed]]:
    x = sample(base)
    return x, [Signed(zero(base.probs), torch.ones_like(x), torch.zeros_like(x))] if moves(base.probs) else []


def _categorical(base: Any, coupled: bool) -> tuple[Tensor, list[Signed]]:
    x, probs = sample(base), base.probs
    if not moves(probs):
        return x, []
    # ∇ logit_k = ∇θ_k / θ_k, so c ∇ logit_k is (1 − θ_k) ∇θ_k, which is finite at θ_k = 0.
    z = ((1 - probs.detach()) * zero(probs)).movedim(-1, 0)
    derivatives = []
    for k, (own, other) in enumerate(zip(z, others(probs.detach(), coupled), strict=True)):
        derivatives.append(Signed(own, torch.full_like(x, k), torch.where(x == k, other, x) if coupled else other))
    return x, derivatives


def _poisson(base: Any, coupled: bool) -> tuple[Tensor, list[Signed]]:
    x = sample(base)
    if not moves(base.rate):
        return x, []
    z = zero(base.rate)
    return x, [Signed(z, x + 1, None) if coupled else Signed(z, sample(base) + 1, sample(base))]


def _normal(base: Any, coupled: bool) -> tuple[Tensor, list[Signed]]:
    mu, sigma = base.loc.detach(), base.scale.detach()
    m = maxwell(sigma)
    x, derivatives = mu + sigma * m * uniform(sigma), []
    if moves(base.loc):
        up = rayleigh(sigma)
        down = up if coupled else rayleigh(sigma)
        derivatives.append(Signed(zero(base.loc) / (sigma * math.sqrt(2 * math.pi)), mu + sigma * up, mu - sigma * down))
    if moves(base.scale):
        z = zero(base.scale) / sigma
        derivatives.append(Signed(z, mu + sigma * m, None) if coupled else Signed(z, mu + sigma * maxwell(sigma), sample(base)))
    return x, derivatives


def _exponential(base: Any, coupled: bool) -> tuple[Tensor, list[Signed]]:
    x, rate = sample(base), base.rate.detach()
    if not moves(base.rate):
        return x, []
    plus = None if coupled else sample(base)
    return x, [Signed(zero(base.rate) / rate, plus, (x if coupled else sample(base)) + exponential(rate) / rate)]


def _gamma(base: Any, coupled: bool) -> tuple[Tensor, list[Signed]]:
    x, rate = sample(base), base.rate.detach()
    if not moves(base.rate):
        return x, []
    z = base.concentration * zero(base.rate) / rate
    plus = None if coupled else sample(base)
    return x, [Signed(z, plus, (x if coupled else sample(base)) + exponential(rate) / rate)]


def _weibull(base: Any, coupled: bool) -> tuple[Tensor, list[Signed]]:
    scale, k = base.scale.detach(), base.concentration.detach()
    e = exponential(scale)
    x = scale * e.pow(1 / k)
    if not moves(base.scale):
        return x, []
    plus = scale * ((e if coupled else exponential(scale)) + exponential(scale)).pow(1 / k)
    return x, [Signed(zero(base.scale) * k / scale, plus, None if coupled else scale * exponential(scale).pow(1 / k))]


@dataclass(frozen=True)
class Rule:
    """`derive` draws the primal sample and the signed pairs; `pairs` counts the branches that a component adds; `fixed`
    parameters have no rule."""

    derive: Callable[[Any, bool], tuple[Tensor, list[Signed]]]
    pairs: Callable[[Any, bool], int]
    fixed: tuple[str, ...] = ()


def _two(base: Any, coupled: bool) -> int:
    return 2


def _one_if_coupled(base: Any, coupled: bool) -> int:
    return 1 if coupled else 2


_RULES: dict[type[Distribution], Rule] = {
    D.Bernoulli: Rule(_bernoulli, _two),
    D.Categorical: Rule(_categorical, lambda base, coupled: 2 * base.probs.shape[-1]),
    D.Poisson: Rule(_poisson, _one_if_coupled),
    D.Normal: Rule(_normal, lambda base, coupled: 2 * moves(base.loc) + (2 - coupled) * moves(base.scale)),
    D.Exponential: Rule(_exponential, _one_if_coupled),
    D.Gamma: Rule(_gamma, _one_if_coupled, fixed=("concentration",)),
    D.Weibull: Rule(_weibull, _one_if_coupled, fixed=("concentration",)),
}


def _rule(base: Distribution) -> type[Distribution]:
    return next(k for k in _RULES if isinstance(base, k))
