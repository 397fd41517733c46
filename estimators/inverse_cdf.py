"""Samples as functions of uniform numbers.

    x = F⁻¹(u; θ) ~ p(·; θ)      for u ~ U(0, 1)

One uniform number for each variable that the distribution binds. Where the support is continuous the map is
differentiable in θ, and its derivative is the pathwise one; where it is discrete it is a step function of u.
Transformed distributions push their base's sample through the transforms. Devroye (1986), chapter 2.

Uniform numbers are float64 whatever the dtype of the parameters, and are compared with probabilities in float64: bfloat16
has 128 numbers in [0.5, 1), of which none is above 0.997. Samples are returned in the parameters' dtype.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributions as D
from torch.distributions import Distribution, TransformedDistribution
from torch.nn.functional import one_hot

from scg.distributions import is_exactly, log_odds, parameters, quantile


def open_uniform(shape: torch.Size | tuple[int, ...], like: Tensor) -> Tensor:
    """u ~ U(0, 1) on the device of `like`, never 0 nor 1, with 1 − u exact and of the same law: the midpoints of 2⁵² cells."""
    wide = wide_dtype(like)
    cells = round(1 / torch.finfo(wide).eps)
    return torch.randint(cells, tuple(shape), device=like.device).to(wide).add_(0.5).div_(cells)


def wide_dtype(like: Tensor) -> torch.dtype:
    """The dtype of noise: float64, or float32 where the device has no other."""
    return torch.float32 if like.device.type == "mps" else torch.float64


def exponential(shape: torch.Size | tuple[int, ...], like: Tensor) -> Tensor:
    """Exponential noise of rate 1, as wide."""
    return torch.empty(tuple(shape), dtype=wide_dtype(like), device=like.device).exponential_()


def tensor_of(distribution: Distribution) -> Tensor:
    """A parameter, for its dtype and its device."""
    return next(p for p in parameters(distribution) if p.is_floating_point())


def has_inverse(distribution: Distribution) -> bool:
    """Whether `from_uniform` knows this distribution. A subclass that samples in its own way has no inverse that is known."""
    if is_exactly(distribution, *_BY_FORMULA) or _own_icdf(distribution):
        return True
    return pushes(distribution) and has_inverse(distribution.base_dist)  # type: ignore[attr-defined]


def noise_shape(distribution: Distribution) -> torch.Size:
    """The shape, after the batch's, of the uniform numbers that make one sample."""
    if isinstance(distribution, D.Independent):
        base = distribution.base_dist
        bound = base.batch_shape[len(base.batch_shape) - distribution.reinterpreted_batch_ndims :]
        return bound + noise_shape(base)
    if (
        isinstance(distribution, TransformedDistribution)
        and not is_exactly(distribution, D.Gumbel)
        and not _own_icdf(distribution)
    ):
        return noise_shape(distribution.base_dist)
    return distribution.event_shape if isinstance(distribution, D.MultivariateNormal) else torch.Size()


def from_uniform(distribution: Distribution, u: Tensor) -> Tensor:
    """F⁻¹(u): `u [*sample, *batch, *noise]` to `[*sample, *batch, *event]`, in the parameters' dtype."""
    value = _inverse(distribution, u)
    return value.to(tensor_of(distribution).dtype) if value.is_floating_point() else value


def _inverse(distribution: Any, u: Tensor) -> Tensor:
    """The same in the dtype of u, where nothing stands against it."""
    if isinstance(distribution, D.Independent):
        return _inverse(distribution.base_dist, u)
    if isinstance(distribution, D.Bernoulli):
        return (1 - u < log_odds(distribution).to(u.dtype).sigmoid()).to(u.dtype)
    if isinstance(distribution, D.Categorical):
        return _index(log_odds(distribution), u)
    if isinstance(distribution, D.OneHotCategorical):
        return one_hot(_index(log_odds(distribution), u), distribution.event_shape[-1]).to(u.dtype)
    if isinstance(distribution, D.Geometric):
        return (torch.log1p(-u) / torch.log1p(-distribution.probs.to(u.dtype))).floor()
    if isinstance(distribution, D.ContinuousBernoulli):
        return quantile(distribution, u)
    if isinstance(distribution, D.Gumbel):  # torch's own begins with a uniform number of the parameters' dtype
        return distribution.loc - distribution.scale * torch.log(-torch.log(u))
    if isinstance(distribution, D.Uniform):
        return _below(distribution.low + u * (distribution.high - distribution.low), distribution)
    if isinstance(distribution, D.MultivariateNormal):
        noise = torch.special.ndtri(u).to(distribution.loc.dtype)
        return distribution.loc + (distribution.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
    if isinstance(distribution, TransformedDistribution) and not _own_icdf(distribution):
        value = _inverse(distribution.base_dist, u)
        if any(t._cache_size or not type(t).__module__.startswith("torch.") for t in distribution.transforms):
            value = value.to(tensor_of(distribution).dtype)  # a cache holds what is returned; yours may want its own dtype
        for transform in distribution.transforms:
            value = transform(value)  # type: ignore[assignment]
        return value
    if _definer(distribution).__module__.startswith("torch."):
        return distribution.icdf(u)
    dtype = tensor_of(distribution).dtype
    return distribution.icdf(u.to(dtype).clamp(torch.finfo(dtype).eps / 2, 1 - torch.finfo(dtype).eps / 2))


def _below(value: Tensor, uniform: D.Uniform) -> Tensor:
    """A uniform sample that rounding to the parameters' dtype does not carry to `high`, where the density is 0."""
    gap = 2 * torch.finfo(uniform.high.dtype).eps * torch.maximum(uniform.low.abs(), uniform.high.abs()).detach()
    return torch.where(value.detach().to(uniform.high.dtype) < uniform.high, value, value - gap)


def _index(logits: Tensor, u: Tensor) -> Tensor:
    cumulative = logits.detach().to(u.dtype).softmax(-1).cumsum(-1)
    cumulative = cumulative / cumulative[..., -1:]  # so that rounding cannot reach a last category of probability 0
    return (cumulative[..., :-1] <= u.unsqueeze(-1)).sum(-1)


def _own_icdf(distribution: Distribution) -> bool:
    """An inverse that belongs to the sampler: no subclass below the class that defines it changes the law."""
    definer = _definer(distribution)
    return definer not in (Distribution, TransformedDistribution) and is_exactly(distribution, definer)


def _definer(distribution: Distribution) -> type[Distribution]:
    return next(c for c in type(distribution).__mro__ if "icdf" in vars(c))


def pushes(distribution: Distribution) -> bool:
    """Whether its sample is that of its base distribution, reshaped or transformed."""
    return isinstance(distribution, (D.Independent, TransformedDistribution)) and (
        is_exactly(distribution, D.Independent, TransformedDistribution) or type(distribution).__module__.startswith("torch.")
    )


_BY_FORMULA = (
    D.Bernoulli, D.Categorical, D.OneHotCategorical, D.Geometric, D.ContinuousBernoulli, D.Gumbel, D.Uniform,
    D.MultivariateNormal,
)  # fmt: skip
