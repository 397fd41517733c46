"""A user's losses in plain PyTorch, and an estimator. `halved` takes a mean where a sum belongs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution

import scg
from scg.distributions import log_density

theta = torch.tensor([0.3, -0.4], dtype=torch.float64, requires_grad=True)
COST = torch.tensor([1.0, 2.0], dtype=torch.float64)


def value() -> Tensor:
    """The objective, exactly: E[Σ c b]."""
    return (COST * theta.sigmoid()).sum()


def loss() -> Tensor:
    drawn = Bernoulli(logits=theta.expand(64, 2))
    b = drawn.sample()
    return (drawn.log_prob(b) * (COST * b)).sum(-1).mean()


def halved() -> Tensor:
    drawn = Bernoulli(logits=theta.expand(64, 2))
    b = drawn.sample()
    return (drawn.log_prob(b) * (COST * b)).mean()


loss.objective = halved.objective = value  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Mine(scg.Estimator):
    """The likelihood ratio, written once more."""

    def branch(self, distribution: Distribution) -> scg.Branches:
        x = distribution.sample()
        log_p = log_density(distribution, x)
        return scg.Branches(x, score=log_p - log_p.detach())
