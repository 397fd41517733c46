"""The families of the second attacker: torch's distribution, all its outcomes, and the estimators that suit it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch import distributions as D

F64 = torch.float64
HERMITE = [
    torch.tensor(x / s) for x, s in zip(np.polynomial.hermite_e.hermegauss(9), (1.0, math.sqrt(2 * math.pi)), strict=True)
]
LAGUERRE = [torch.tensor(x) for x in np.polynomial.laguerre.laggauss(12)]


def logits(a: Tensor) -> Tensor:
    return torch.stack([torch.zeros_like(a), a, 0.4 - 0.7 * a], -1)


def bits(a: Tensor) -> Tensor:
    return torch.stack([a, 0.5 - 0.8 * a], -1)


def scale(a: Tensor) -> Tensor:
    return 0.4 * torch.exp(0.3 * torch.sin(a))


def rate(a: Tensor) -> Tensor:
    return 2.5 * torch.exp(0.5 * torch.tanh(a))


def two(a: Tensor) -> list[tuple[Tensor, Tensor]]:
    p = torch.sigmoid(a)
    return [(torch.zeros_like(a), 1 - p), (torch.ones_like(a), p)]


def joint(a: Tensor) -> list[tuple[Tensor, Tensor]]:
    p, found = torch.sigmoid(bits(a)), []
    for code in range(4):
        x = torch.tensor([code // 2, code % 2], dtype=F64)
        found.append((x.expand(p.shape), (p * x + (1 - p) * (1 - x)).prod(-1)))
    return found


def three(a: Tensor) -> list[tuple[Tensor, Tensor]]:
    e = logits(a).exp()
    return [(torch.full_like(a, k), e[..., k] / e.sum(-1)) for k in range(3)]


def corners(a: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(torch.eye(3, dtype=F64)[k].expand(*a.shape, 3), p) for k, (_, p) in enumerate(three(a))]


def counts(a: Tensor) -> list[tuple[Tensor, Tensor]]:
    lam = rate(a) / 3
    return [(torch.full_like(a, k), torch.exp(-lam) * lam**k / math.factorial(k)) for k in range(14)]


def trials(a: Tensor) -> list[tuple[Tensor, Tensor]]:
    p = torch.sigmoid(a)
    return [(torch.full_like(a, k), math.comb(2, k) * p**k * (1 - p) ** (2 - k)) for k in range(3)]


@dataclass(frozen=True)
class Family:
    """torch's distribution, all outcomes with their probabilities, their number, and the estimators that suit it."""

    made: Callable[[Tensor], D.Distribution]
    outcomes: Callable[[Tensor], list[tuple[Tensor, Tensor]]]
    size: int
    estimators: str
    event: int = 0


EVERY = "ScoreFunction() LeaveOneOut(2) "
FINITE = EVERY + "Enumeration() UnorderedSet(2) SumAndSample(2) RELAX(SquashedSum()) Pruned(LeaveOneOut(2)) MeasureValued() "
BITS = (
    "Antithetic(2) ARM() DisARM() DisARM(2) ARMS() Perturbation() Perturbation(side='both') MuProp() DoubleControl() REBAR() "
    "Pruned(MeasureValued(),share=0.5) Pruned(DisARM(),share=0.5) Pruned(MuProp(),share=0.5) "
)
FAMILIES = {
    "bit": Family(
        lambda a: D.Bernoulli(logits=a), two, 2,
        FINITE + BITS + "ScoreFunction(3) QuasiRandom(2) CommonRandomNumbers(LeaveOneOut(2)) RELAX(SquashedSum(),2) MuProp(2)",
    ),
    "bits": Family(
        lambda a: D.Independent(D.Bernoulli(logits=bits(a)), 1), joint, 4, FINITE + BITS + "PrioritySampling(2) TopK(2)", 2
    ),
    "category": Family(
        lambda a: D.Categorical(logits=logits(a)), three, 3,
        FINITE + "PrioritySampling(2) TopK(1) CategoricalDisARM() ARSM() CARMS() Perturbation() Pruned(ARSM(),share=0.5)",
    ),
    "corner": Family(
        lambda a: D.OneHotCategorical(logits=logits(a)), corners, 3,
        FINITE.replace("MeasureValued() ", "") + "TopK(1) CategoricalDisARM() ARSM() CARMS() MuProp() DoubleControl() REBAR()", 3,
    ),
    "normal": Family(
        lambda a: D.Normal(a, scale(a)),
        lambda a: [(a + scale(a) * x, torch.full_like(a, float(w))) for x, w in zip(*HERMITE, strict=True)], 9,
        EVERY + "Pathwise() Pathwise(2) Antithetic(2) AntitheticPathwise(2) QuasiRandomPathwise(2) MeasureValued() Implicit() "
        "LAX(SquashedSum()) LAX(SquashedSum(),2) CommonRandomNumbersPathwise(2) Pruned(MeasureValued(),share=0.5)",
    ),
    "waiting": Family(
        lambda a: D.Exponential(rate(a)),
        lambda a: [(x / rate(a), torch.full_like(a, float(w))) for x, w in zip(*LAGUERRE, strict=True)], 12,
        EVERY + "Pathwise() Pathwise(2) MeasureValued() Implicit() LAX(SquashedSum())",
    ),
    "count": Family(
        lambda a: D.Poisson(rate(a) / 3), counts, 14, EVERY + "MeasureValued() Perturbation() MuProp() DoubleControl()"
    ),
    "trials": Family(
        lambda a: D.Binomial(2, logits=a), trials, 3, EVERY + "Enumeration() Perturbation() MuProp() DoubleControl() SumAndSample(2)"
    ),
}  # fmt: skip
SINGLE = ("ScoreFunction()", "Pathwise()", "RELAX(SquashedSum())", "LAX(SquashedSum())", "Implicit()")
JOINTLY = ("ScoreFunction()", "ScoreFunction(3)", "Pathwise()", "Pathwise(2)", "RELAX(SquashedSum())", "Antithetic(2)")
