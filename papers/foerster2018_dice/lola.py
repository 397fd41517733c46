"""LOLA-DiCE: each player differentiates through the gradient steps that it expects of the other.

    φ_0 = φ,   φ_{k+1} = φ_k − α ∇_φ L_other(θ, φ_k)        k < look-ahead, on fresh play of (θ, φ_k)
    θ ← Adam(θ, ∇_θ L_own(θ, φ_K(θ)), β)                    a second derivative of L_other is part of it

Without look-ahead it is naive learning. The players are symmetric, so both, all look-aheads and all seeds are rows of one
batch: a row that looks ahead less far makes its later steps with α = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scg.papers.foerster2018_dice.games import DISCOUNT, dilemma, discounts, expected_return, play, replay

BETA = 0.1
REMEMBERED = 0.7  # how much of its levels a baseline keeps at each update


Variant = tuple[int, float]
"""Steps of look-ahead, and their size α."""


@dataclass(frozen=True)
class Curves:
    """Joint average return per step, `[updates + 1, variants, seeds]`: (1 − γ)(V₁ + V₂)/2, exact for the policies."""

    variants: tuple[Variant, ...]
    returns: Tensor
    theta: Tensor  # [2, variants, seeds, 5]


def learn(
    variants: tuple[Variant, ...],
    seeds: int,
    updates: int,
    episodes: int,
    seed: int,
    say: Callable[[float], None] = lambda done: None,
) -> Curves:
    own_loss, others_loss = dilemma("own", baseline=True), dilemma("others", baseline=True)
    generator = torch.Generator().manual_seed(seed)
    rows = len(variants) * seeds
    depth, alpha = (torch.tensor(x).repeat_interleave(seeds).repeat(2).unsqueeze(-1) for x in zip(*variants, strict=True))
    # The same start for every variant, so that they can be compared seed by seed.
    start = 0.1 * torch.randn(2, 1, seeds, 5, generator=generator, dtype=torch.float64)
    theta = start.expand(2, len(variants), seeds, 5).reshape(2 * rows, 5).clone()
    # A baseline that starts at 0 would make the first gradients noisier than all later ones, and Adam remembers them.
    values = remembered(torch.zeros_like(theta), play(theta, swapped(theta), episodes, generator), keep=0.0)
    optimiser = torch.optim.Adam([theta], lr=BETA)
    curve = [joint_return(theta)]
    for update in range(updates):
        own = theta.clone().requires_grad_()  # Adam moves `theta` in place
        moved, others_values = swapped(theta).requires_grad_(), swapped(values)
        for k in range(int(depth.max())):
            loss = 2 * rows * replay(others_loss, play(own, moved, episodes, generator), own, moved, others_values)
            (slope,) = torch.autograd.grad(loss, moved, create_graph=True)
            moved = moved - alpha * (depth > k) * slope
        moves = play(own, moved, episodes, generator)
        (theta.grad,) = torch.autograd.grad(2 * rows * replay(own_loss, moves, own, moved, values), own)
        optimiser.step()
        values = remembered(values, moves)  # after the update: a baseline never sees the episodes that it is subtracted from
        curve.append(joint_return(theta))
        say((update + 1) / updates)
    shape = (len(variants), seeds)
    return Curves(variants, torch.stack(curve).reshape(-1, *shape), theta.reshape(2, *shape, 5))


def swapped(x: Tensor) -> Tensor:
    """Each row's opponent."""
    return x.reshape(2, -1, 5).flip(0).reshape(-1, 5).clone()


def joint_return(theta: Tensor) -> Tensor:
    first, second = theta.reshape(2, -1, 5)
    both = [torch.stack(expected_return(a, b, None)).mean() for a, b in zip(first, second, strict=True)]
    return (1 - DISCOUNT) * torch.stack(both)


def remembered(values: Tensor, moves: dict[str, Tensor], keep: float = REMEMBERED, horizon: int = 100) -> Tensor:
    """Mean discounted cost that followed each state, over the first steps, whose future is in the record."""
    a, o = moves["a"], moves["o"]
    scale = discounts(a.shape[0])
    cost = scale * torch.tensor([1.0, 3.0, 0.0, 2.0], dtype=a.dtype)[(2 * (1 - a) + 1 - o).long()]
    following = (cost.flip(0).cumsum(0).flip(0) / scale)[:horizon]
    state = torch.cat([torch.zeros_like(a[:1]).long(), 1 + (2 * (1 - a) + 1 - o).long()[:-1]])[:horizon]
    state, following = state.movedim(1, 0).flatten(1), following.movedim(1, 0).flatten(1)
    total = torch.zeros_like(values).scatter_add(1, state, following)
    visits = torch.zeros_like(values).scatter_add(1, state, torch.ones_like(following))
    return torch.where(visits > 0, keep * values + (1 - keep) * total / visits.clamp_min(1.0), values)
