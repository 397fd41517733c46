"""Samples of a distribution, where torch's own are not what an estimator needs.

sample            without a derivative of either mode
rsample           with the gradient of a ContinuousBernoulli sample near p = 1/2, which torch cuts
quantile          F⁻¹ of ContinuousBernoulli
has_rsample       whether `rsample` is the differentiable sampler that its flag says
reparameterise    a recorded value as a function of θ again, with the noise inferred from it
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import distributions as D
from torch.autograd import forward_ad
from torch.distributions import Distribution

from scg.distributions.laws import is_exactly, kind, torch_kind, unwrapped
from scg.errors import GraphError


def sample(distribution: Distribution, sample_shape: torch.Size = torch.Size()) -> Tensor:
    """`distribution.sample` without a derivative of either mode: `torch.no_grad`, inside, lets forward-mode tangents through."""
    if forward_ad._current_level < 0 or torch.compiler.is_compiling():
        base, _ = unwrapped(distribution)
        if type(base) is D.Bernoulli and _torchs_own(base) and _torchs_own(distribution):
            return _bits(base, sample_shape)
        return distribution.sample(sample_shape)
    return _forward(distribution, lambda: distribution.sample(sample_shape)).detach()


_SAMPLES = frozenset({D.Bernoulli.sample, D.Independent.sample})


def _torchs_own(distribution: Distribution) -> bool:
    """Whether nobody replaced its `sample`, of the object or of its class."""
    return "sample" not in vars(distribution) and type(distribution).sample in _SAMPLES


def _bits(base: Any, sample_shape: torch.Size) -> Tensor:
    """`Bernoulli.sample`, with the same random numbers, without a graph of probabilities that nobody differentiates."""
    own = vars(base)
    p = own["probs"].detach() if "probs" in own else own["logits"].detach().sigmoid()
    return torch.bernoulli(p.expand(sample_shape + p.shape) if sample_shape else p)


def _forward(distribution: Distribution, draw: Callable[[], Tensor]) -> Tensor:
    """A draw in forward mode, or an error that says that torch has none for this distribution."""
    try:
        return draw()
    except RuntimeError as error:
        if "functorch" not in str(error) and "forward AD" not in str(error):
            raise
        raise GraphError(
            f"forward-mode derivatives (torch.func.jvp): torch has none of a {type(distribution).__name__} sample.\n"
            "Use reverse mode (backward, torch.autograd.grad), or another distribution."
        ) from error


def has_rsample(distribution: Distribution) -> bool:
    """Whether `rsample` gives reparameterised samples. The flag says less of some of torch's own, and more of others."""
    if isinstance(distribution, (D.Independent, D.TransformedDistribution)):
        return has_rsample(distribution.base_dist)
    if isinstance(distribution, D.relaxed_bernoulli.LogitRelaxedBernoulli):
        return True  # torch defines its `rsample`, and forgot the flag
    return distribution.has_rsample and not isinstance(distribution, D.OneHotCategoricalStraightThrough)


def rsample(distribution: Distribution, sample_shape: torch.Size = torch.Size()) -> Tensor:
    """`distribution.rsample`, with the gradient of a continuous Bernoulli sample near p = 1/2 as well."""
    if isinstance(distribution, D.Independent):
        return rsample(distribution.base_dist, sample_shape)
    if type(distribution) is D.TransformedDistribution and _continuous_bits(distribution):
        value = rsample(distribution.base_dist, sample_shape)
        for transform in distribution.transforms:
            value = transform(value)  # type: ignore[assignment]
        return value
    if not _continuous_bits(distribution):
        if torch.compiler.is_compiling() or forward_ad._current_level < 0:
            return distribution.rsample(sample_shape)
        return _forward(distribution, lambda: distribution.rsample(sample_shape))
    like = distribution.probs  # type: ignore[attr-defined]
    u = torch.rand(distribution._extended_shape(sample_shape), dtype=like.dtype, device=like.device)
    return quantile(distribution, u)


def quantile(distribution: Any, u: Tensor) -> Tensor:
    """F⁻¹(u) of ContinuousBernoulli: log(1 + u (e^λ − 1))/λ with λ the logit, whose limit at λ = 0 torch replaces by u.

    That is the cumulant generating function of one bit of probability u, divided by λ: near 0 its cumulants give it.
    """
    logit = distribution.logits
    near = logit.detach().abs() < 0.02
    small, large = torch.where(near, logit, 0.0), torch.where(near, 1.0, logit)
    v = u * (1 - u)
    series = u + v * small * (
        1 / 2 + small * ((1 - 2 * u) / 6 + small * ((1 - 6 * v) / 24 + small * (1 - 2 * u) * (1 - 12 * v) / 120))
    )
    # log(1 + u (e^λ − 1)) as λ + log(u + (1 − u) e^−λ) where λ > 0: nothing overflows
    down = torch.where(large > 0, u, 1 - u) + torch.where(large > 0, 1 - u, u) * (-large.abs()).exp()
    return torch.where(near, series, (large.clamp_min(0) + down.log()) / large)


def _continuous_bits(distribution: Distribution) -> bool:
    while isinstance(distribution, (D.Independent, D.TransformedDistribution)):
        distribution = distribution.base_dist
    return is_exactly(distribution, D.ContinuousBernoulli)


def reparameterise(distribution: Any, value: Tensor) -> Tensor:
    """`value` as the differentiable sample g(ε; θ), with ε inferred from it: x = μ + σ sg((x - μ)/σ) and its kin."""
    if is_exactly(distribution, D.Independent):
        return reparameterise(distribution.base_dist, value)
    if is_exactly(distribution, D.Normal, D.Laplace, D.Cauchy, D.Gumbel):
        return distribution.loc + distribution.scale * ((value - distribution.loc) / distribution.scale).detach()
    if is_exactly(distribution, D.Uniform):
        width = distribution.high - distribution.low
        return distribution.low + width * ((value - distribution.low) / width).detach()
    if is_exactly(distribution, D.Exponential):
        return (value * distribution.rate).detach() / distribution.rate
    if is_exactly(distribution, D.MultivariateNormal):
        tril = distribution.scale_tril
        centred = (value - distribution.loc).unsqueeze(-1)
        noise = torch.linalg.solve_triangular(tril, centred, upper=False).detach()
        return distribution.loc + (tril @ noise).squeeze(-1)
    if isinstance(distribution, D.TransformedDistribution) and torch_kind(distribution) is not None:
        for transform in reversed(distribution.transforms):
            value = transform._inverse(value)
        value = reparameterise(distribution.base_dist, value)
        for transform in distribution.transforms:
            value = transform(value)  # type: ignore[assignment]
        return value
    own = getattr(distribution, "reparameterised", None)  # what a distribution of one's own may offer
    if callable(own):
        return own(value)
    raise ValueError(
        f"a value was given at a pathwise node, and the noise behind a {kind(distribution)} sample cannot be inferred.\n"
        "Leave the node out of `given`, or use ScoreFunction() there."
    )
