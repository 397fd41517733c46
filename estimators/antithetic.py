"""Antithetic pairs: every sample has a mirror image, which errs to the other side.

    x = F⁻¹(u),  x' = F⁻¹(1 − u)           where the distribution has an inverse distribution function
    x = μ + ε,   x' = μ − ε                where it is symmetric about μ

x' has the law of x, so each branch alone is a sample: ∇E[f(x)] = E[½ f(x) ∇log p(x) + ½ f(x') ∇log p(x')] for the
score function, and the same with ∇_x f ∇_θ x for the pathwise gradient. Unbiased for any f, to any order; better than
independent samples where f is near monotone (pathwise: where f' is). The pair is dependent, so its costs must not be
each other's baseline: that is biased, and its remedy is DisARM. Hammersley & Morton (1956).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch import distributions as D
from torch.distributions import Distribution, TransformedDistribution

from scg.distributions import is_exactly, kind, log_density, moving_support
from scg.estimator import Branches, Estimator, Pathwise
from scg.estimators.inverse_cdf import from_uniform, has_inverse, noise_shape, open_uniform, pushes, tensor_of

_AROUND_LOC = (D.Normal, D.Laplace, D.Cauchy, D.StudentT, D.MultivariateNormal, D.LowRankMultivariateNormal)


@dataclass(frozen=True)
class Antithetic(Estimator):
    """The score function at n/2 antithetic pairs. `samples` is n, even."""

    samples: int = 2

    def __post_init__(self) -> None:
        _even("Antithetic", self.samples)

    def branch(self, distribution: Distribution) -> Branches:
        with torch.no_grad():
            values = pairs(distribution, self.samples // 2).detach()  # no_grad leaves forward-mode tangents
        log_prob = log_density(distribution, values)
        return Branches(values, self.samples, score=log_prob - log_prob.detach())

    def refuses(self, distribution: Distribution) -> str | None:
        return moving_support(distribution) or _unpaired("Antithetic", distribution, f"ScoreFunction(samples={self.samples})")


@dataclass(frozen=True)
class AntitheticPathwise(Pathwise):
    """The pathwise gradient at n/2 antithetic pairs. `samples` is n, even."""

    samples: int = 2

    def __post_init__(self) -> None:
        _even("AntitheticPathwise", self.samples)

    def branch(self, distribution: Distribution) -> Branches:
        return Branches(pairs(distribution, self.samples // 2), self.samples)

    def refuses(self, distribution: Distribution) -> str | None:
        refusal = super().refuses(distribution)
        return refusal or _unpaired("AntitheticPathwise", distribution, f"Pathwise(samples={self.samples})")


def pairs(distribution: Distribution, count: int) -> Tensor:
    """`count` samples, then their mirror images: `[2·count, *batch, *event]`, differentiable where the sampler is."""
    if isinstance(distribution, D.Independent):
        return pairs(distribution.base_dist, count)
    centre = _centre(distribution)
    if centre is not None:
        x = distribution.rsample(torch.Size((count,)))
        return torch.cat([x, 2 * centre - x])
    if _pushed(distribution):
        value = pairs(distribution.base_dist, count)
        for transform in distribution.transforms:
            value = transform(value)  # type: ignore[assignment]
        return value
    u = open_uniform((count, *distribution.batch_shape, *noise_shape(distribution)), tensor_of(distribution))
    return from_uniform(distribution, torch.cat([u, 1 - u]))


def _centre(distribution: Any) -> Tensor | None:
    """What the distribution is symmetric about."""
    if is_exactly(distribution, D.Uniform):
        return (distribution.low + distribution.high) / 2
    return distribution.loc if is_exactly(distribution, *_AROUND_LOC) else None


def _pushed(distribution: Distribution) -> TypeGuard[TransformedDistribution]:
    """Transforms of a base's pair; not where they would fold it (|x| of HalfNormal), which an icdf of its own tells."""
    return (
        isinstance(distribution, TransformedDistribution)
        and type(distribution).icdf is TransformedDistribution.icdf
        and pushes(distribution)
    )


def _pairable(distribution: Any) -> bool:
    if is_exactly(distribution, D.Independent) or _pushed(distribution):
        return _pairable(distribution.base_dist)
    return _centre(distribution) is not None or has_inverse(distribution)


def _unpaired(estimator: str, distribution: Distribution, instead: str) -> str | None:
    if _pairable(distribution):
        return None
    return (
        f"{estimator} needs a distribution that is symmetric or has an inverse cdf, and {kind(distribution)} is neither.\n"
        f"Use {instead}."
    )


def _even(estimator: str, samples: int) -> None:
    if not isinstance(samples, int) or samples < 2 or samples % 2:
        raise ValueError(f"{estimator}(samples={samples!r}): samples come in pairs, so it is an even integer, at least 2")
