"""Enumeration: the expectation over a finite support, as the sum it is.

    E[f(x)] = Σ_{v ∈ support} p(v; θ) f(v)

No sampling noise, exact to any order; the cost is one evaluation of what follows for each value.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.distributions import Distribution, Independent

from scg.distributions import kind, log_density
from scg.estimator import Branches, Estimator


@dataclass(frozen=True)
class Enumeration(Estimator):
    """Every value of a finite support as a branch, weighted with its probability. At most `budget` branches."""

    budget: int = 4096

    def branch(self, distribution: Distribution) -> Branches:
        values = support(distribution)
        return Branches(values, values.shape[0], weights=log_density(distribution, values).exp())

    def refuses(self, distribution: Distribution) -> str | None:
        base, width = distribution, 1
        while isinstance(base, Independent):
            width *= base.base_dist.batch_shape[-base.reinterpreted_batch_ndims :].numel()
            base = base.base_dist
        if not base.has_enumerate_support:
            return (
                f"Enumeration needs a finite support, and {kind(distribution)} has none to enumerate.\n"
                "Use ScoreFunction(), LeaveOneOut(samples=4), or Pathwise() where it reparameterises."
            )
        size = base.enumerate_support(expand=False).shape[0] ** width
        if size > self.budget:
            return (
                f"Enumeration would take {size} branches, the budget is {self.budget}.\n"
                "Use LeaveOneOut(samples=4), or raise Enumeration(budget=…)."
            )
        return None


def support(distribution: Distribution) -> torch.Tensor:
    """All values `[n, *batch, *event]`, the joint ones where Independent binds several variables into one sample."""
    if not isinstance(distribution, Independent):
        return distribution.enumerate_support()
    base = distribution.base_dist
    single = support(base)  # [m, *batch, *bound, *event]
    m, count = single.shape[0], distribution.reinterpreted_batch_ndims
    bound = base.batch_shape[-count:]
    choices = torch.cartesian_prod(*[torch.arange(m, device=single.device)] * bound.numel()).reshape(-1, *bound)
    rest = base.batch_shape[: len(base.batch_shape) - count]
    index = choices.reshape(-1, *[1] * len(rest), *bound, *[1] * len(base.event_shape))
    return single.gather(0, index.expand(-1, *single.shape[1:]))
