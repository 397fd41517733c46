"""Leave-one-out, as somebody would write it who has read ARCHITECTURE.md."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

import scg
from scg.distributions import moving_support


@dataclass(frozen=True)
class Others(scg.Estimator):
    """Each sample's baseline is the mean cost of the others."""

    samples: int = 3

    def branch(self, distribution: Distribution) -> scg.Branches:
        x = distribution.sample(torch.Size((self.samples,)))
        log_prob = distribution.log_prob(x)
        z = torch.expm1(log_prob - log_prob.detach())  # value 0, gradient ∇log p
        others = (z.sum(0) - z) / (self.samples - 1)
        return scg.Branches(x, n=self.samples, weights=(1 + z - others) / self.samples)

    def refuses(self, distribution: Distribution) -> str | None:
        return moving_support(distribution)


class Shared(Others):
    """The same with its own cost in the baseline: biased by a factor (n − 1)/n."""

    def branch(self, distribution: Distribution) -> scg.Branches:
        branches = super().branch(distribution)
        weights: Tensor = branches.weights
        return scg.Branches(branches.values, n=branches.n, weights=1 / self.samples + (weights - 1 / self.samples) * 2 / 3)
