"""Whose law a distribution has: one of torch's, or its own.

is_exactly            whether it is one of torch's own kinds, or only inherits from one
torch_kind, own_law   the class of torch whose law it has; whether a part of it has a law of its own
inmost, kind          the distribution inside every Independent, and its name
components            the distributions that one is made of
parameters            the tensors that it was made from

A formula for Normal is wrong for a subclass of Normal that overrides `sample` or `log_prob`. `isinstance` does not tell the two
apart; what draws, or differentiates, by a formula asks `is_exactly`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch import distributions as D
from torch.distributions import Distribution

from scg.tree import tensors

_LAW = (
    "sample", "rsample", "log_prob", "cdf", "icdf", "support", "enumerate_support", "mean", "probs", "logits", "rate", "loc", "scale",
)  # fmt: skip


def is_exactly(distribution: Distribution, *kinds: type[Distribution]) -> bool:
    """Whether the law is that of one of torch's `kinds`: its own class, or a subclass that overrides nothing that defines it.

    A subclass with a constructor or methods of its own is still its kind; one with a `sample`, `log_prob`, `icdf`, … of its
    own is not, nor is an instance whose `sample` was replaced. What draws, or differentiates, by a formula for Normal asks
    this, and not `isinstance`.
    """
    if "sample" in vars(distribution) or "rsample" in vars(distribution):
        return False
    classes = type(distribution).__mro__
    return any(k in classes and not _redefined(k, classes[: classes.index(k)]) for k in kinds)


def _redefined(kind: type[Distribution], subclasses: tuple[type, ...]) -> bool:
    skipped = set() if kind.has_rsample else {"rsample"}  # straight-through of a discrete kind: drawn as ever
    if kind.mean is Distribution.mean:
        skipped.add("mean")  # torch has none
    return any(name in vars(subclass) for subclass in subclasses for name in _LAW if name not in skipped)


def torch_kind(distribution: Distribution) -> type[Distribution] | None:
    """The class of torch whose law a distribution has; None where it has a law of its own."""
    nearest = next(k for k in type(distribution).__mro__ if k.__module__.partition(".")[0] == "torch")
    return nearest if nearest is not Distribution and is_exactly(distribution, nearest) else None


def own_law(distribution: Distribution) -> bool:
    """Whether a part of a distribution has a law that is not torch's, of which only its methods tell."""
    return torch_kind(distribution) is None or any(own_law(part) for part in components(distribution))


def inmost(distribution: Distribution) -> Distribution:
    """The distribution inside every Independent."""
    while isinstance(distribution, D.Independent):
        distribution = distribution.base_dist
    return distribution


def kind(distribution: Distribution) -> str:
    """The name of a distribution, looking through Independent."""
    return type(inmost(distribution)).__name__


def unwrapped(distribution: Distribution) -> tuple[Any, int]:
    """The distribution inside every `Independent`, but none inside a subclass of it, and how many batch axes they count as event axes."""
    bound = 0
    while type(distribution) is D.Independent:
        bound += distribution.reinterpreted_batch_ndims
        distribution = distribution.base_dist
    return distribution, bound


def components(distribution: Distribution) -> Iterator[Distribution]:
    """The distributions that one is made of."""
    for value in vars(distribution).values():
        for part in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(part, Distribution):
                yield part


def parameters(distribution: Distribution) -> list[Tensor]:
    """The tensors that a distribution was made from; asked before it is used, for some cache others later."""
    return tensors(distribution)
