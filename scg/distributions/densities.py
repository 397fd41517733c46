"""log p of a sample: what of torch's bookkeeping is left out, and what must not be kept.

log_density            without validating one's own sample
unclamped_log_prob     of any value, with the gradient that torch's clamp of `probs` removes (`probabilities.py`)
remember               evaluated once for the estimator and for every cost that takes the node's `dist`
forget                 drops a sample's inverse that a transform kept from where no gradient was taken
unused                 a copy that has not been asked anything
"""

from __future__ import annotations

import copy
import weakref
from typing import Any

import torch
from torch import Tensor
from torch import distributions as D
from torch.distributions import Distribution

from scg.distributions.probabilities import log_mass
from scg.tree import tensors, transforms


def log_density(distribution: Distribution, values: Tensor) -> Tensor:
    """`distribution.log_prob(values)` of values just drawn from it: that they lie in its support need not be checked."""
    if torch.compiler.is_compiling():
        return unclamped_log_prob(distribution, values)
    forget(distribution)
    own = log_mass(distribution, values, drawn=True)
    if own is not None:
        return own
    validated = []
    layer: Any = distribution
    while layer is not None:
        if layer._validate_args:
            validated.append((layer, layer.__dict__.get("_validate_args")))
            layer._validate_args = False
        layer = layer.__dict__.get("base_dist")
    try:
        return distribution.log_prob(values)
    finally:
        for layer, flag in validated:
            if flag is None:
                del layer._validate_args
            else:
                layer._validate_args = flag


def unclamped_log_prob(distribution: Distribution, values: Tensor) -> Tensor:
    """`distribution.log_prob(values)`, with the gradient that torch's clamp of `probs` would remove."""
    unclamped = log_mass(distribution, values)
    return distribution.log_prob(values) if unclamped is None else unclamped


def forget(distribution: Distribution) -> None:
    """Drop the value that a caching transform inverted, where its parameters have a gradient.

    `sample` keeps x and y = T(x; θ) without one, and asked about y the transform would give x back as if θ did not matter.
    """
    while isinstance(distribution, (D.Independent, D.TransformedDistribution)):
        if isinstance(distribution, D.TransformedDistribution):
            for transform in transforms(distribution):
                if transform._cache_size and any(t.requires_grad for t in tensors(transform)):
                    transform._cached_x_y = None, None
        distribution = distribution.base_dist


def remember(distribution: Any) -> None:
    """Let a distribution that other nodes ask for keep its log-density at the last value it was asked about.

    The estimator takes it at the sample, and a cost that is given the sample and its `dist` takes it again. What was
    taken under no_grad has no gradient, and what was taken with one must not enter a block without: both are kept apart.
    """
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled() or not isinstance(distribution, Distribution):
        return  # a tensor of inference mode counts no versions
    compute, itself = type(distribution).log_prob, weakref.ref(distribution)  # no cycle: tensors must die with the trace
    kept: dict[bool, Any] = {}

    def remembered(value: Tensor) -> Tensor:
        taken = torch.is_grad_enabled()
        last = kept.get(taken)
        if last is not None and value is last[0] and value._version == last[1]:
            return last[2]
        result = compute(itself(), value)  # type: ignore[arg-type]
        kept[taken] = value, value._version, result
        return result

    distribution.log_prob = remembered  # type: ignore[method-assign]


def unused(distribution: Distribution) -> Distribution:
    """A copy of it and of the distributions that it is made of: what torch keeps of one that is asked, it keeps of the copy."""
    twin = copy.copy(distribution)
    parts = {key: unused(value) for key, value in vars(distribution).items() if isinstance(value, Distribution)}
    twin.__dict__ = {key: value for key, value in {**vars(distribution), **parts}.items() if key != "log_prob"}
    return twin
