"""Enumeration: the expectation over a finite support as an exact sum.

    E[f(x)] = Σ_{v ∈ support} p(v; θ) f(v)

No sampling noise, exact to any order; it takes one evaluation of the downstream nodes for each value. The gradient is right
at probabilities of 0 and 1 too. Memory: one value and one probability for each of at most `budget` branches, linear in their number
(a one-hot value is K numbers, so K² for K of those).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, OneHotCategorical

from scg.distributions import is_exactly, kind, log_density, mass
from scg.estimator import Branches, Estimator
from scg.estimators.factorised import support_size, unbound
from scg.identity import Words


@dataclass(frozen=True)
class Enumeration(Estimator):
    """Every value of a finite support as a branch, weighted with its probability. At most `budget` branches."""

    budget: int = 4096

    def branch(self, distribution: Distribution) -> Branches:
        values = support(distribution)
        return Branches(values, values.shape[0], weights=probabilities(distribution))

    def identity(self, words: Words) -> Iterable[str]:
        yield f"{words.left} = {words.sum(words.value())} {words.d(words.probability())} {words.f()}"

    def refuses(self, distribution: Distribution) -> str | None:
        size = support_size(distribution)
        if size is None:
            return (
                f"Enumeration needs a finite support, and {kind(distribution)} has none to enumerate.\n"
                "Use ScoreFunction(), LeaveOneOut(samples=4), or Pathwise() where it reparameterises."
            )
        if size > self.budget:
            return (
                f"Enumeration would take {size} branches, the budget is {self.budget}.\n"
                "Use LeaveOneOut(samples=4), or raise Enumeration(budget=…)."
            )
        return None


def probabilities(distribution: Distribution) -> Tensor:
    """p(v) of all values that `support` lists, `[n, *batch]`, with its gradient also where it is 0 or 1."""
    base, bound = unbound(distribution)
    if is_exactly(base, Categorical, OneHotCategorical):
        single = base.probs.movedim(-1, 0)  # type: ignore[attr-defined]
    else:
        values = base.enumerate_support()
        exact = mass(base, values)
        single = log_density(base, values).exp() if exact is None else exact
    if not bound:
        return single
    rest = single.shape[1 : single.ndim - bound]
    flat = single.reshape(single.shape[0], *rest, -1)  # [m, *batch, D]
    choices = _choices(single.shape[0], flat.shape[-1], flat)
    index = choices.reshape(len(choices), *[1] * len(rest), -1)
    return flat.gather(0, index.expand(-1, *flat.shape[1:])).prod(-1)


def _choices(m: int, count: int, like: Tensor) -> Tensor:
    """All joint values of `count` variables with m values each, as indices `[m^count, count]`."""
    return torch.cartesian_prod(*[torch.arange(m, device=like.device)] * count).reshape(-1, count)


def support(distribution: Distribution) -> torch.Tensor:
    """All values `[n, *batch, *event]`, the joint ones where Independent binds several variables into one sample."""
    if not isinstance(distribution, Independent):
        return distribution.enumerate_support()
    base, count = unbound(distribution)
    single = base.enumerate_support()  # [m, *batch, *bound, *event]
    bound = base.batch_shape[len(base.batch_shape) - count :]
    choices = _choices(single.shape[0], bound.numel(), single).reshape(-1, *bound)
    rest = base.batch_shape[: len(base.batch_shape) - count]
    index = choices.reshape(-1, *[1] * len(rest), *bound, *[1] * len(base.event_shape))
    return single.gather(0, index.expand(-1, *single.shape[1:]))
