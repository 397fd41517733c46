"""A sample moved along its path: the noise that made it under one distribution, pushed through another of the same kind.

    x' = g(ε; θ'),  ε with x = g(ε; θ)

What a pathwise sample becomes when parameters are shifted, without any autograd.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch import distributions as D
from torch.distributions import Distribution


def carried(source: Distribution, target: Distribution, value: Tensor, at_source: AbstractContextManager[Any]) -> Tensor:
    """ValueError where the noise cannot be inferred. `at_source`: a context in which `source` holds its own parameters."""
    with at_source:
        noise = _noise(source, value)
    return _sample(target, noise)


def _noise(d: Distribution, value: Tensor) -> Tensor:
    if isinstance(d, D.Independent):
        return _noise(d.base_dist, value)
    if isinstance(d, (D.Normal, D.Laplace, D.Cauchy)) or type(d) is D.Gumbel:
        return (value - d.loc) / d.scale
    if isinstance(d, D.Uniform):
        return (value - d.low) / (d.high - d.low)
    if isinstance(d, D.Exponential):
        return value * d.rate
    if isinstance(d, D.MultivariateNormal):
        return torch.linalg.solve_triangular(d.scale_tril, (value - d.loc).unsqueeze(-1), upper=False).squeeze(-1)
    if isinstance(d, D.TransformedDistribution):
        for transform in reversed(d.transforms):
            value = transform._inverse(value)
        return _noise(d.base_dist, value)
    raise ValueError(f"the noise behind a {type(d).__name__} sample cannot be inferred")


def _sample(d: Distribution, noise: Tensor) -> Tensor:
    if isinstance(d, D.Independent):
        return _sample(d.base_dist, noise)
    if isinstance(d, (D.Normal, D.Laplace, D.Cauchy)) or type(d) is D.Gumbel:
        return d.loc + d.scale * noise
    if isinstance(d, D.Uniform):
        return d.low + (d.high - d.low) * noise
    if isinstance(d, D.Exponential):
        return noise / d.rate
    if isinstance(d, D.MultivariateNormal):
        return d.loc + (d.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
    assert isinstance(d, D.TransformedDistribution)
    value = _sample(d.base_dist, noise)
    for transform in d.transforms:
        value = transform(value)  # type: ignore[assignment]
    return value


__all__ = ["carried"]
