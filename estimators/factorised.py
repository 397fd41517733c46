"""Shared by the estimators that treat the components of a joint sample separately.

A branch has one weight, which depends on the parameters of every component. With coefficients γ_d that are known once the
sample is drawn,

    z = Σ_d γ_d (θ_d − sg θ_d)          is zero, and  ∇z = Σ_d γ_d ∇θ_d

so that z · f(x) adds Σ_d γ_d f(x) ∇θ_d to the gradient and nothing to the value.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, OneHotCategorical

from scg.distributions import is_exactly, kind


def unbound(distribution: Distribution) -> tuple[Distribution, int]:
    """The distribution of one component, and how many trailing axes Independent binds into one sample."""
    bound = 0
    while isinstance(distribution, Independent) and is_exactly(distribution, Independent):
        bound += distribution.reinterpreted_batch_ndims
        distribution = distribution.base_dist
    return distribution, bound


def components(distribution: Distribution) -> int:
    """How many components one sample has."""
    base, bound = unbound(distribution)
    return base.batch_shape[len(base.batch_shape) - bound :].numel()


def support_size(distribution: Distribution) -> int | None:
    """How many joint values a finite support has; None where it has none to enumerate."""
    base, _ = unbound(distribution)
    if not base.has_enumerate_support:
        return None
    return category_count(base) ** components(distribution)


def category_count(base: Distribution) -> int:
    """How many values one component has; of one-hot vectors without making them, for all together are K² numbers."""
    if isinstance(base, OneHotCategorical):
        return base.event_shape[-1]
    return base.enumerate_support(expand=False).shape[0]


def zero(theta: Tensor) -> Tensor:
    """`θ − sg θ`: zero, with the gradient of θ."""
    return theta - theta.detach()


def bound_sum(x: Tensor, bound: int) -> Tensor:
    """The sum over the last `bound` axes."""
    return x.sum(tuple(range(-bound, 0))) if bound else x


def substituted(x: Tensor, other: Tensor, bound: int) -> Tensor:
    """D copies of `x [*batch, *event]`, the d-th with its component d taken from `other`: `[D, *batch, *event]`."""
    batch, event = x.shape[: x.ndim - bound], x.shape[x.ndim - bound :]
    count = event.numel()
    own = torch.eye(count, dtype=torch.bool, device=x.device).view(count, *[1] * len(batch), *event)
    return torch.where(own, other, x)


def one_each(z: Tensor, bound: int) -> Tensor:
    """Components' weights `[*batch, *event]` as branches `[D, *batch]`."""
    batch = z.shape[: z.ndim - bound]
    return z.reshape(*batch, -1).movedim(-1, 0)


def only(estimator: str, distribution: Distribution, kinds: tuple[type[Distribution], ...], instead: str) -> str | None:
    """The refusal of distributions other than `kinds` (and Independent ones of them), and of subclasses with another law."""
    base, _ = unbound(distribution)
    if is_exactly(base, *kinds):
        return None
    names = ", ".join(k.__name__ for k in kinds)
    what = kind(distribution)
    if isinstance(base, kinds):
        what += f", a subclass with a law of its own (its sample, log_prob, … are not those of {names})"
    return f"{estimator} is for {names} (also inside Independent), and this is {what}.\nUse {instead}."
