"""Implicit reparameterisation: the pathwise gradient of a sample, from the cdf and without its inverse.

    F(x; θ) = u held fixed       ⟹       dx/dθ = − ∂_θ F(x; θ) / p(x; θ)

    value   sg x − (F(sg x; θ) − sg F) / sg p         so that  ∇_θ E[f(x)] = E[f′(x) dx/dθ]

One-dimensional distributions with a cdf that autograd can differentiate: mixtures (MixtureSameFamily) of them, truncated
ones, also where the support moves with θ, and your own that define `cdf`, `log_prob` and `sample`; inside Independent too.
f is differentiable and does not jump; the support is an interval. Torch has such gradients of its own for Gamma, Beta and
Dirichlet: use Pathwise() there.

    von Mises     dx/dμ = 1,     dx/dκ = sgn(y) ∫_{|y|}^π e^{κ (cos t − cos y)} (cos t − A) dt,     y = x − μ,  A = I₁(κ)/I₀(κ)

by Gauss–Legendre quadrature of the tail; f is continuous on the circle, f(−π) = f(π), for samples wrap around there.
Unbiased, first order. Figurnov, Mohamed & Mnih (2018), "Implicit reparameterization gradients".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, VonMises

from scg.distributions import kind, log_density, parameters, sample
from scg.estimator import Branches, Pathwise, at_least, draw
from scg.estimators.factorised import unbound, zero


@dataclass(frozen=True)
class Implicit(Pathwise):
    """Pathwise gradients of one-dimensional distributions that have a cdf and no `rsample`."""

    smooth: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        at_least("Implicit", self.samples, 1)

    def branch(self, distribution: Distribution) -> Branches:
        values, n = draw(partial(sample, distribution), self.samples)
        return Branches(implicit(unbound(distribution)[0], values.detach()), n)

    def given(self, distribution: Distribution, value: Tensor, log_prob: Tensor | None = None) -> Branches:
        """F(x; θ) at the recorded x is the noise that made it."""
        again = implicit(unbound(distribution)[0], value.detach())
        if log_prob is None:
            return Branches(again)
        return Branches(again, weights=(distribution.log_prob(value) - log_prob).detach().exp())

    def order(self, distribution: Distribution) -> float:
        return 1

    def refuses(self, distribution: Distribution) -> str | None:
        base, _ = unbound(distribution)
        if isinstance(base, VonMises):
            return None
        if isinstance(base, Independent) or base.event_shape or base.support.is_discrete:  # type: ignore[union-attr]
            return (
                f"Implicit is for one-dimensional continuous distributions, and this is {kind(distribution)} with event shape "
                f"{list(base.event_shape)}.\nUse ScoreFunction(), or Pathwise() where it reparameterises."
            )
        trouble = _without_cdf(base)
        if trouble is None:
            return None
        return f"Implicit needs a cdf that autograd can differentiate, and that of {kind(base)} {trouble}.\n" + (
            "Use Pathwise()." if base.has_rsample else "Define its cdf, or use ScoreFunction()."
        )


def implicit(base: Distribution, x: Tensor) -> Tensor:
    """`x`, moving with the parameters of `base` as its quantile does."""
    if isinstance(base, VonMises):
        kappa: Tensor = base.concentration
        return x + zero(base.loc) + von_mises_slope(x - base.loc.detach(), kappa.detach()) * zero(kappa)
    return x - zero(base.cdf(x)) / log_density(base, x).detach().exp()


def von_mises_slope(y: Tensor, kappa: Tensor) -> Tensor:
    """dx/dκ at y = x − μ. Ten standard deviations of the tail count: the rest weighs less than e⁻⁵⁰ of what is kept."""
    y = torch.remainder(y + math.pi, 2 * math.pi) - math.pi
    nodes, weights = (torch.as_tensor(v, dtype=y.dtype, device=y.device) for v in _legendre(64))
    near = y.abs()
    length = torch.minimum(math.pi - near, 10 / kappa.sqrt()).unsqueeze(-1)
    t = near.unsqueeze(-1) + length * nodes
    k = kappa.unsqueeze(-1)
    a = (torch.special.i1e(kappa) / torch.special.i0e(kappa)).unsqueeze(-1)
    # cos t − cos y as a product, and cos t − A as (cos t − 1) + (1 − A): nothing cancels where κ is large
    fall = -2 * torch.sin((t + near.unsqueeze(-1)) / 2) * torch.sin((t - near.unsqueeze(-1)) / 2)
    tail = (weights * torch.exp(k * fall) * (torch.cos(t) - a)).sum(-1) * length.squeeze(-1)
    return torch.sign(y) * tail


@lru_cache
def _legendre(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1]."""
    x, w = np.polynomial.legendre.leggauss(count)
    return (x + 1) / 2, w / 2


def _without_cdf(base: Distribution) -> str | None:
    """What is wrong with the cdf; None where autograd differentiates it."""
    moving = [p for p in parameters(base) if p.requires_grad]
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            x = base.sample()
            level = base.cdf(x)
            if moving and not level.requires_grad:
                return "does not move with its parameters"
            if moving:
                torch.autograd.grad(level.sum(), moving, allow_unused=True, retain_graph=True)
    except NotImplementedError as error:  # torch says so of a missing cdf, and of a missing derivative
        return "has no derivative for all of its parameters" if "derivative" in str(error) else "is missing"
    return None
