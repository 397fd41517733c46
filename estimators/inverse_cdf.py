"""Samples as functions of uniform numbers.

    x = F⁻¹(u; θ) ~ p(·; θ)      for u ~ U(0, 1)

One uniform number for each variable that the distribution binds. Where the support is continuous the map is
differentiable in θ, and its derivative is the pathwise one; where it is discrete it is a step function of u.
Transformed distributions push their base's sample through the transforms. Devroye (1986), chapter 2.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as D
from torch.distributions import Distribution, TransformedDistribution
from torch.nn.functional import one_hot

from scg.distributions import parameters


def open_uniform(shape: torch.Size | tuple[int, ...], like: Tensor) -> Tensor:
    """u ~ U(0, 1), never 0 nor 1, with 1 − u exact and of the same law: the midpoints of 1/ε cells."""
    cells = round(1 / torch.finfo(like.dtype).eps)
    return torch.randint(cells, tuple(shape), device=like.device).to(like.dtype).add_(0.5).div_(cells)


def tensor_of(distribution: Distribution) -> Tensor:
    """A parameter, for its dtype and its device."""
    return next(p for p in parameters(distribution) if p.is_floating_point())


def has_inverse(distribution: Distribution) -> bool:
    """Whether `from_uniform` knows this distribution."""
    if isinstance(distribution, (D.Bernoulli, D.Categorical, D.OneHotCategorical, D.Geometric, D.MultivariateNormal)):
        return True
    if _own_icdf(distribution):
        return True
    return isinstance(distribution, (D.Independent, TransformedDistribution)) and has_inverse(distribution.base_dist)


def noise_shape(distribution: Distribution) -> torch.Size:
    """The shape, after the batch's, of the uniform numbers that make one sample."""
    if isinstance(distribution, D.Independent):
        base = distribution.base_dist
        bound = base.batch_shape[len(base.batch_shape) - distribution.reinterpreted_batch_ndims :]
        return bound + noise_shape(base)
    if isinstance(distribution, TransformedDistribution) and not _own_icdf(distribution):
        return noise_shape(distribution.base_dist)
    return distribution.event_shape if isinstance(distribution, D.MultivariateNormal) else torch.Size()


def from_uniform(distribution: Distribution, u: Tensor) -> Tensor:
    """F⁻¹(u): `u [*sample, *batch, *noise]` to `[*sample, *batch, *event]`."""
    if isinstance(distribution, D.Independent):
        return from_uniform(distribution.base_dist, u)
    if isinstance(distribution, D.Bernoulli):
        return (1 - u < distribution.probs).to(distribution.probs.dtype)
    if isinstance(distribution, D.Categorical):
        return _index(distribution.probs, u)
    if isinstance(distribution, D.OneHotCategorical):
        probs = distribution.probs
        return one_hot(_index(probs, u), probs.shape[-1]).to(probs.dtype)
    if isinstance(distribution, D.Geometric):
        return (torch.log1p(-u) / torch.log1p(-distribution.probs)).floor()
    if isinstance(distribution, D.MultivariateNormal):
        return distribution.loc + (distribution.scale_tril @ torch.special.ndtri(u).unsqueeze(-1)).squeeze(-1)
    if isinstance(distribution, TransformedDistribution) and not _own_icdf(distribution):
        value = from_uniform(distribution.base_dist, u)
        for transform in distribution.transforms:
            value = transform(value)  # type: ignore[assignment]
        return value
    return distribution.icdf(u)


def _index(probs: Tensor, u: Tensor) -> Tensor:
    cumulative = probs.cumsum(-1)
    cumulative = cumulative / cumulative[..., -1:]  # so that rounding cannot reach a last category of probability 0
    return (cumulative[..., :-1] <= u.unsqueeze(-1)).sum(-1)


def _own_icdf(distribution: Distribution) -> bool:
    return type(distribution).icdf not in (Distribution.icdf, TransformedDistribution.icdf)
