"""Samplers replaced by every tuple of samples that they could draw, along the batch; and moments over those."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

import scg
from tests.estimators.integral import weights


def samples(monkeypatch: pytest.MonkeyPatch, distribution: Distribution, support: Tensor, n: int) -> Tensor:
    """Have this kind's `sample` give all n-tuples of `support [S, *event]`, `[n, Sⁿ, *event]`; returns their probabilities."""
    index = torch.tensor(list(itertools.product(range(len(support)), repeat=n))).T
    drawn = support[index]
    monkeypatch.setattr(type(distribution), "sample", lambda self, shape=None: drawn.clone())
    return distribution.log_prob(support).exp().detach()[index].prod(0)


def bits(count: int) -> Tensor:
    """Every value of that many bits."""
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=count)))


def expectation(distribution: Distribution, support: Tensor, f) -> Tensor:
    """E[f(x)], live."""
    return (distribution.log_prob(support).exp() * f(support)).sum()


def gradients(branches: scg.Branches, f, rows: Tensor) -> Tensor:
    """The gradient of each draw, where each has its own row of parameters."""
    return torch.autograd.grad((weights(branches) * f(branches.values)).sum(), rows)[0]


def variance(gradient: Tensor, probability: Tensor) -> float:
    """Of one draw, summed over parameters."""
    mean = probability @ gradient
    return float(probability @ (gradient - mean).square().sum(-1))
