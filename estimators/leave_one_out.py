"""Leave-one-out: each sample's baseline is the mean cost of the others.

    ∇ E[f(x)] = E[ 1/n Σᵢ (f(xᵢ) − mean_{j≠i} f(xⱼ)) ∇ log p(xᵢ; θ) ]

As weights, with zᵢ = exp(log p(xᵢ) − sg log p(xᵢ)) − 1:   wᵢ = (1 + zᵢ − Σ_{j≠i} zⱼ/(n−1)) / n.
Needs n ≥ 2 independent samples and a differentiable log-density. Unbiased for any f, to any order.
Kool, van Hoof & Welling (2019), "Buy 4 REINFORCE samples, get a baseline for free!"; Mnih & Rezende (2016).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import Distribution

from scg.distributions import log_density, moving_support
from scg.estimator import Branches, Estimator, at_least
from scg.laws import sample

if TYPE_CHECKING:
    from scg.derivation.identity import Words


@dataclass(frozen=True)
class LeaveOneOut(Estimator):
    """REINFORCE with n samples that are each other's baseline (RLOO)."""

    samples: int = 2

    def __post_init__(self) -> None:
        at_least("LeaveOneOut", self.samples, 2)

    def branch(self, distribution: Distribution) -> Branches:
        values = sample(distribution, torch.Size((self.samples,)))
        return Branches(values, self.samples, weights=leave_one_out(log_density(distribution, values)))

    def identity(self, words: Words) -> Iterable[str]:
        others = f"{words.fraction(1, self.samples - 1)} {words.sum(words.unequal('j', 'i'))} {words.f('j')}"
        own = words.bracket(words.less(words.f("i"), others))
        yield f"{words.left} = {words.fraction(1, self.samples)} {words.sum('i')} {words.score('i')} {own}"

    def refuses(self, distribution: Distribution) -> str | None:
        return moving_support(distribution)


def leave_one_out(log_prob: Tensor) -> Tensor:
    """The weights of n samples from their log-probabilities `[n, batch…]`."""
    n = log_prob.shape[0]
    z = torch.expm1(log_prob - log_prob.detach())
    # The same, rearranged: zᵢ less the mean of the others is n/(n−1) (zᵢ − z̄).
    return torch.add(z.new_full((), 1 / n), z - z.mean(0), alpha=1 / (n - 1))
