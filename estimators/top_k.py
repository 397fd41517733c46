"""Top k and a sampled remainder: the likely values are summed, the rest is sampled.

    E[f(x)] = Σ_{v ∈ C} p(v) f(v) + (1 − p(C)) E[f(x) | x ∉ C],      C the k most likely values

The first term has no sampling noise, and the second is a score function estimate scaled down by 1 − p(C). A value in C
weighs p(v), one of m remainder samples (1 − p(C))/m · p(x)/sg p(x): with p live, unbiased for any f to any order, for
every fixed C. That C changes with θ makes no boundary term, for the estimate is unbiased on either side.
Liu, Regier, Tripuraneni, Jordan & McAuliffe (2019), "Rao-Blackwellized stochastic gradients for discrete distributions".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from scg.distributions import kind, safe_log, unseen
from scg.estimator import Branches, Estimator
from scg.estimators.enumeration import probabilities, support
from scg.estimators.factorised import support_size
from scg.estimators.inverse_cdf import exponential


@dataclass(frozen=True)
class TopK(Estimator):
    """The k most likely values of a finite support of at most `budget` joint values, and `samples` of the others."""

    k: int = 2
    samples: int = 1
    budget: int = 4096

    def __post_init__(self) -> None:
        for name in ("k", "samples"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"TopK({name}={getattr(self, name)!r}): {name} is an integer, at least 1")

    def branch(self, distribution: Distribution) -> Branches:
        values = support(distribution)
        log_p = safe_log(probabilities(distribution))
        likely = log_p.detach().topk(self.k, 0).indices
        tail = log_p.detach().scatter(0, likely, -math.inf)
        rest = remainder(tail, self.samples)
        index = torch.cat([likely, rest])
        chosen = log_p.gather(0, index)
        live = chosen[self.k :]
        ratio = torch.where(live.detach() == -math.inf, torch.zeros_like(live), live - live.detach())
        weights = torch.cat([chosen[: self.k].exp(), ratio.exp() * tail.logsumexp(0).exp() / self.samples])
        event = values.shape[index.ndim :]
        index = index.view(*index.shape, *[1] * len(event)).expand(*index.shape, *event)
        return Branches(values.gather(0, index), self.k + self.samples, weights)

    def refuses(self, distribution: Distribution) -> str | None:
        size = support_size(distribution)
        if size is None:
            return f"TopK needs a finite support, and {kind(distribution)} has none to enumerate.\nUse LeaveOneOut(samples=4)."
        if size > self.budget:
            return (
                f"TopK would look at {size} values, the budget is {self.budget}.\n"
                "Use UnorderedSet(samples=4), which looks at no more than it draws, or raise TopK(budget=…)."
            )
        if size <= self.k:
            return (
                f"TopK(k={self.k}) leaves nothing to sample of a support of {size} values.\nUse Enumeration(), which is exact."
            )
        return unseen(distribution)


def remainder(tail: Tensor, samples: int) -> Tensor:
    """Indices `[samples, *batch]` of samples from the values with log-probabilities `tail [N, *batch]`, up to scale."""
    arrival = exponential((samples, *tail.shape), tail).log() - tail
    return arrival.argmin(1)
