"""Smoothed perturbation analysis: a discrete sample jumps to a neighbour with an infinitesimal probability.

    x = F⁻¹(u; θ).  When θ moves, mass flows across each step of F: from k to k+1 at the rate −∂_θ F(k), so

    ∂_θ E[f(x)] = E[ w(x) (f(x+1) − f(x)) ],      w(k) = −∂_θ F(k) / p(k)

    distribution      w(k) for θ                      ρ(k) = p(k+1)/p(k)
    Binomial(n, θ)    (n − k)/(1 − θ)                 (n − k)/(k + 1) · θ/(1 − θ)        Bernoulli: n = 1
    Poisson(θ)        1                               θ/(k + 1)
    Geometric(θ)      −(k + 1)/θ                      1 − θ
    Categorical(θ)    −∂F(k)/θ_k, in index order      θ_{k+1}/θ_k

Across the step between k and k+1 the flow may be charged to samples at k (`side="above"`: they look one up), at k+1
("below": w(k)/ρ(k) times f(k+1) − f(k) at x = k+1), or to both in proportion to their mass ("both": w(k)/(1 + ρ(k)) at
either; for one bit that is 1, and no variance is left). D components jump one at a time.

As branches: the sample, and its neighbours with zero-valued weights whose gradient is w ∇θ: 1 + D evaluations, 1 + 2D for
"both". Unbiased for any f; first order, but any order for one bit or one category. Gong & Ho (1987); Arya et al. (2022),
"Automatic differentiation of programs with discrete randomness", with the smoothing of its section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch import distributions as D
from torch.distributions import Distribution

from scg.distributions import sample, unseen
from scg.estimator import Branches, Estimator
from scg.estimators.factorised import bound_sum, components, one_each, only, substituted, unbound, zero

_KINDS = (D.Bernoulli, D.Binomial, D.Geometric, D.Poisson, D.Categorical)


@dataclass(frozen=True)
class Perturbation(Estimator):
    """A sample and its neighbours in each component, weighted with the rates of jumping there; at most `budget` branches."""

    side: Literal["above", "below", "both"] = "above"
    budget: int = 4096

    def __post_init__(self) -> None:
        if self.side not in ("above", "below", "both"):
            raise ValueError(f"Perturbation(side={self.side!r}): the neighbour is 'above', 'below' or 'both'")

    def branch(self, distribution: Distribution) -> Branches:
        base, bound = unbound(distribution)
        x = sample(base)
        values, weights, own = [x.unsqueeze(0)], [], torch.ones((), dtype=_theta(base).dtype, device=x.device)
        for neighbour, z in self.jumps(base, x):
            values.append(substituted(x, neighbour, bound))
            weights.append(one_each(z, bound))
            own = own - bound_sum(z, bound)
        both = torch.cat([own.unsqueeze(0), *weights])
        return Branches(torch.cat(values), both.shape[0], both)

    def jumps(self, base: Distribution, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(neighbour, the zero-valued weight of the jump there) for each side."""
        found = []
        if self.side != "below":
            w, rho = rate(base, x)
            found.append((x + (x < _last(base)).to(x.dtype), w / (1 + rho) if self.side == "both" else w))
        if self.side != "above":
            below = x - (x > 0).to(x.dtype)
            w, rho = rate(base, below)
            back = -w / (1 + rho) if self.side == "both" else -w / rho
            found.append((below, torch.where(x > 0, back, torch.zeros_like(back))))
        return found

    def order(self, distribution: Distribution) -> float:
        linear = isinstance(unbound(distribution)[0], (D.Bernoulli, D.Categorical)) and components(distribution) == 1
        return math.inf if linear else 1

    def refuses(self, distribution: Distribution) -> str | None:
        refusal = only("Perturbation", distribution, _KINDS, "Pathwise() where it reparameterises, else LeaveOneOut(samples=2)")
        size = 1 + (2 if self.side == "both" else 1) * components(distribution)
        if refusal is None and size > self.budget:
            return (
                f"Perturbation would take {size} branches, the budget is {self.budget}: it moves each component alone.\n"
                "Use LeaveOneOut(samples=2), or raise Perturbation(budget=…)."
            )
        return refusal or unseen(distribution)


def rate(base: Any, k: Tensor) -> tuple[Tensor, Tensor]:
    """w(k), as a zero-valued tensor whose gradient it is, and ρ(k)."""
    theta = _theta(base).detach().clamp_min(torch.finfo(_theta(base).dtype).tiny)  # 0 only where no sample jumps
    miss = (1 - theta).clamp_min(torch.finfo(theta.dtype).eps / 2)
    if isinstance(base, (D.Bernoulli, D.Binomial)):
        n = base.total_count if isinstance(base, D.Binomial) else 1
        return (n - k) / miss * zero(base.probs), (n - k) / (k + 1) * theta / miss
    if isinstance(base, D.Poisson):
        return zero(base.rate) + torch.zeros_like(k), theta / (k + 1)
    if isinstance(base, D.Geometric):
        return -(k + 1) / theta * zero(base.probs), miss
    index = k.unsqueeze(-1)
    p = torch.nn.functional.pad(theta, (0, 1))  # beyond the last category lies nothing
    here, above = p.gather(-1, index).squeeze(-1), p.gather(-1, index + 1).squeeze(-1)
    flow = -zero(base.probs.cumsum(-1)).gather(-1, index).squeeze(-1)
    return torch.where(k < theta.shape[-1] - 1, flow / here, torch.zeros_like(flow)), above / here


def _theta(base: Any) -> Tensor:
    return base.rate if isinstance(base, D.Poisson) else base.probs


def _last(base: Any) -> Any:
    if isinstance(base, D.Categorical):
        return base.probs.shape[-1] - 1
    return base.total_count if isinstance(base, D.Binomial) else 1 if isinstance(base, D.Bernoulli) else math.inf
