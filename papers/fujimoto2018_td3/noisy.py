"""Targets made of noisy estimates, exactly: errors of finite support, and every combination of them.

    Q₁(a) = Q(a) + e₁(a),  Q₂(a) = Q(a) + e₂(a)        eᵢ = √ρ z + √(1 − ρ) zᵢ,  each z three-valued, mean 0, variance 1

    single    Q₁(a₁)              a₁ = argmax Q₁                  Q-learning's
    double    Q₂(a₁)                                              Double Q-learning's
    clipped   min(Q₁(a₁), Q₂(a₁))                                 TD3's

ρ is how much of their errors two critics share that learned from one replay buffer. Ties are broken evenly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from scg.testing.tabular import Process

SINGLE, DOUBLE, CLIPPED = "single", "double", "clipped"
KINDS = (SINGLE, DOUBLE, CLIPPED)
NODES = torch.tensor([-(3.0**0.5), 0.0, 3.0**0.5], dtype=torch.float64)
CHANCES = torch.tensor([1 / 6, 2 / 3, 1 / 6], dtype=torch.float64)
TIE = 1e-9


@dataclass(frozen=True)
class Errors:
    """Those of two critics at `actions` actions, of standard deviation `scale` and correlation `rho`."""

    actions: int
    rho: float = 0.0
    scale: float = 1.0

    @cached_property
    def support(self) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities `[combination]`, and e₁, e₂ `[combination, action]`."""
        size = 3 * self.actions
        z = torch.cartesian_prod(*[NODES] * size).unflatten(-1, (3, self.actions))
        p = torch.cartesian_prod(*[CHANCES] * size).prod(-1)
        first, second = (self.rho**0.5 * z[:, 0] + (1 - self.rho) ** 0.5 * z[:, i] for i in (1, 2))
        return p, self.scale * first, self.scale * second

    def targets(self, q: Tensor) -> dict[str, Tensor]:
        """The mean of each kind of target at true values `q [*batch, action]`."""
        p, first, second = self.support
        q1, q2 = q.unsqueeze(-2) + first, q.unsqueeze(-2) + second
        best = (q1 >= q1.amax(-1, keepdim=True) - TIE).double()
        best = best / best.sum(-1, keepdim=True)
        kinds = {SINGLE: q1, DOUBLE: q2, CLIPPED: torch.minimum(q1, q2)}
        return {kind: (best * values).sum(-1) @ p for kind, values in kinds.items()}


def fixed_point(process: Process, errors: Errors | None, kind: str, rounds: int = 400) -> Tensor:
    """Q = R + γ P target(Q): where an iteration ends whose every estimate has new errors; without any, Q*."""
    q = torch.zeros_like(process.reward)
    for _ in range(rounds):
        v = q.amax(-1) if errors is None else errors.targets(q)[kind]
        q = process.reward + process.gamma * torch.einsum("...sax,...x->...sa", process.transition, v)
    return q


def stacked(processes: list[Process]) -> Process:
    """Several of one size, on a first axis."""
    transition, reward, start = (
        torch.stack(part) for part in zip(*((p.transition, p.reward, p.start) for p in processes), strict=True)
    )
    return Process(transition, reward, start, processes[0].gamma)


def uniform_maximum(actions: int) -> float:
    """E max of as many independent U(−1, 1), by Gauss–Legendre: exact up to 120 of them."""
    x, w = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(60))
    return float((w * x * actions * ((x + 1) / 2) ** (actions - 1) / 2).sum())


def learned(process: Process, kind: str, sweeps: int, runs: int, noise: float, generator: torch.Generator) -> dict[int, Tensor]:
    """Tabular learning from sampled transitions and noisy rewards: max_a Q₁ − V* `[runs, state]` at some sweeps.

    Each sweep samples every pair once and updates one of two tables, by a coin: supplement A. Rates 1/(1 + n)^0.8.
    """
    best = fixed_point(process, None, SINGLE).amax(-1)
    s, a = process.reward.shape
    cumulated = process.transition.cumsum(-1)
    q1, q2 = (torch.zeros(runs, s, a, dtype=torch.float64) for _ in range(2))
    count1, count2 = torch.zeros_like(q1), torch.zeros_like(q1)
    found, each = {}, torch.arange(runs)[:, None, None]
    marks = {10**k for k in range(1, 9)} | {sweeps}
    for sweep in range(1, sweeps + 1):
        u = torch.rand(runs, s, a, 1, generator=generator, dtype=torch.float64)
        following = (u > cumulated).sum(-1).clamp(max=s - 1)
        reward = process.reward + noise * torch.randn(runs, s, a, generator=generator, dtype=torch.float64)
        coin = torch.rand(runs, s, a, generator=generator) < 0.5
        targets = []
        for mine, other in ((q1, q2), (q2, q1)):
            chosen = mine.argmax(-1)
            own, its = (q.gather(-1, chosen.unsqueeze(-1)).squeeze(-1) for q in (mine, other))
            v = {SINGLE: own, DOUBLE: its, CLIPPED: torch.minimum(own, its)}[kind]
            targets.append(reward + process.gamma * v[each, following])
        if kind == SINGLE:  # one table, updated always
            coin = torch.ones_like(coin)
        for q, count, target, due in ((q1, count1, targets[0], coin), (q2, count2, targets[1], ~coin)):
            count += due
            q += due * (target - q) / (1 + count) ** 0.8
        if sweep in marks:
            found[sweep] = q1.amax(-1) - best
    return found
