"""Clipped ratios: how a weight meets its credit so that one update stays near the recording policy.

    K = max( r A,  clip(r, 1 − ε, 1 + ε′) A ),      r = π(a)/μ(a)           gradient="clip": PPO
    K = sg clip(r, 1 − ε, 1 + ε′) A · r / sg r                              gradient="score": CISPO, truncated importance sampling

in cost units, where the pessimistic choice is the maximum. At r = 1 both have the score function's gradient; away from it they
are biased on purpose, and their mean gradients, at the states that μ visits, are

    "clip"     E_μ[ r A ∇log π  where r is not beyond the clip on the side to which A pushes it ]
    "score"    E_μ[ clip(r) A ∇log π ]

settings                                          known as
Clipped(ε)                                        PPO's clip (Schulman et al. 2017)
Clipped(ε, high=ε′)                               DAPO's clip-higher, ε′ > ε (Yu et al. 2025)
Clipped(ε, ratio="sequence", alive="alive")       GSPO (Zheng et al. 2025): r is the geometric mean of an answer's ratios
Clipped(1.0, high=ε′, gradient="score")           CISPO (MiniMax 2025), with ε = 1 no lower bound
Clipped(1.0, high=c − 1, gradient="score")        truncated importance sampling, min(r, c) held constant (Ionides 2008)

With ratio="sequence" every step of an answer has the ratio  (Π_t r_t)^{1/n},  n the number of steps at which the node `alive`
is true. It is no likelihood ratio of anything: its mean gradient is right at r = 1 alone, whatever the clip. What multiplies
it, an answer's length in particular, is the credit's matter (`credit.Aggregated`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from scg.distributions import moving_support
from scg.estimator import Branches, Estimator, ScoreFunction
from scg.identity import Words


@dataclass(frozen=True)
class Clipped(Estimator):
    """The score function, with the clipped ratio as the way it meets a credit. `clip` is ε, `high` ε′ (default: ε)."""

    unbiased = False
    clip: float = 0.2
    allow_bias: bool = True
    high: float | None = None
    ratio: Literal["step", "sequence"] = "step"
    alive: str | None = None
    gradient: Literal["clip", "score"] = "clip"

    def __post_init__(self) -> None:
        if not self.clip > 0:
            raise ValueError(f"Clipped(clip={self.clip}): ε must be positive")
        if self.high is not None and not self.high > 0:
            raise ValueError(f"Clipped(high={self.high}): ε′ must be positive")
        for name, known in (("ratio", ("step", "sequence")), ("gradient", ("clip", "score"))):
            if getattr(self, name) not in known:
                raise ValueError(f"Clipped({name}={getattr(self, name)!r}): one of {', '.join(map(repr, known))}")
        if (self.alive is not None) != (self.ratio == "sequence"):
            raise ValueError(
                "Clipped(ratio='sequence') takes alive=, the node that is true at the steps of an answer; other ratios do not"
            )

    def branch(self, distribution: Distribution) -> Branches:
        return ScoreFunction().branch(distribution)

    def refuses(self, distribution: Distribution) -> str | None:
        return moving_support(distribution)

    def pooled(self, weight: Tensor, time: int | None, value: Callable[[str], Tensor]) -> Tensor:
        if self.ratio == "step" or time is None:
            return weight
        alive = value(self.alive or "").to(weight.dtype)
        count = alive.sum(time, keepdim=True).clamp_min(1.0)
        return ((weight.log() * alive).sum(time, keepdim=True) / count).exp().expand_as(weight)

    def identity(self, words: Words) -> Iterable[str]:
        score, ratio = words.score(), words.fraction(words.probability(), words.recorded())
        r, credit = words.ratio(), words.credit
        if self.ratio == "sequence":
            step = "t'"
            each = words.at(step)
            steps = words.bracket(f"{words.product(step)} {words.fraction(each.probability(), each.recorded())}")
            r, ratio = words.ratio(of_all=True), words.root(steps, "n")
            score = words.bracket(f"{words.fraction(1, 'n')} {words.sum(step)} {each.score()}")
        clipped = words.clip(r, 1 - self.clip, 1 + (self.clip if self.high is None else self.high))
        if self.gradient == "score":
            yield f"{words.left} = {clipped} {score} {credit}"
        else:
            yield f"{words.left} = {words.where(f'{r} {score} {credit}', words.at_least(f'{r} {credit}', f'{clipped} {credit}'))}"
        yield f"{r} = {ratio}"

    def combine(self, weight: Tensor, credit: Tensor) -> Tensor:
        clipped = weight.clamp(1 - self.clip, 1 + (self.clip if self.high is None else self.high))
        if self.gradient == "score":
            return clipped.detach() * credit * weight / weight.detach()
        return torch.maximum(weight * credit, clipped * credit)
