"""Quadrature over the noise of relaxations: points for `open_uniform`, with their probabilities, smooth piece by piece.

A piece [a, b] is a + (b − a) σ(y), with the trapezoid rule over y: it converges exponentially, endpoint powers included.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import scg
from scg.estimators import relaxation

Points = tuple[Tensor, Tensor]


def interval(a: float | Tensor, b: float | Tensor, step: float = 0.1, width: float = 33.0) -> Points:
    y = torch.arange(-width, width + step / 2, step)
    return a + (b - a) * torch.sigmoid(y), (b - a) * step * torch.sigmoid(y) * torch.sigmoid(-y)


def bits(p: Tensor) -> Points:
    """u of one bit of probability p: it changes at 1 − p."""
    p = p.detach()
    low, high = interval(torch.zeros(()), 1 - p), interval(1 - p, torch.ones(()))
    return torch.cat([low[0], high[0]]), torch.cat([low[1], high[1]])


def races(p: Tensor, step: float = 0.7, width: float = 21.0) -> Iterator[Points]:
    """u `[Q, K]` of K categories, winner by winner: T_b = E_b, T_i = E_b + E_i/p_i, u_k = exp(−p_k T_k)."""
    p, count = p.detach(), p.shape[-1]
    uniform, weight = interval(torch.zeros(()), torch.ones(()), step, width)
    grids = torch.meshgrid(*[uniform] * count, indexing="ij")
    exponential = -torch.log(torch.stack([g.flatten() for g in grids], -1))
    probability = torch.stack([g.flatten() for g in torch.meshgrid(*[weight] * count, indexing="ij")]).prod(0)
    for b in range(count):
        arrival = exponential[:, b : b + 1]
        times = arrival + torch.where(torch.arange(count) == b, 0.0, exponential / p)
        yield torch.exp(-p * times), p[b] * probability


def recite(monkeypatch: pytest.MonkeyPatch, *noise: Tensor) -> None:
    """Have the relaxations' uniform numbers be these, call by call."""
    calls = iter(noise)
    monkeypatch.setattr(relaxation, "open_uniform", lambda shape, like: next(calls).expand(shape))


def estimate(branches: scg.Branches, f: Callable[[Tensor], Tensor]) -> Tensor:
    """Σᵢ wᵢ f(xᵢ) + k − sg k, for each batch element."""
    cost = f(branches.values)
    if branches.n is None:
        weight = branches.weights if branches.score is None else branches.score.exp()
        total = cost if weight is None else weight * cost
    elif branches.weights is not None:
        total = (branches.weights * cost).sum(0)
    else:
        total = (cost if branches.score is None else branches.score.exp() * cost).mean(0)
    return total if branches.control is None else total + branches.control - branches.control.detach()
