"""Is a mean gradient off its reference by more than chance allows?

    T = (ḡ − reference)/s.e.        g(T) = T + γ(T²/3 + 1/6)/√n + γ²T³/(27 n)        Hall (1992), γ the draws' skewness

An entry counts as biased where |g(T)| exceeds Student's quantile at false_alarm / (entries · choices). Two guards for what
a normal mean does not cover: entries of which one draw makes up most of the variance decide nothing; and what the
reference itself may be off is taken from the bias first. An entry that varies no more than rounding is held to its
standard error without that correction; without any variance it is biased where it differs at all.

What n draws have not seen is in no interval: outcomes that are together less probable than λ/n, λ = −log(tail), may all be
missing. An exact reference knows how much of the gradient lies in such outcomes; that much more an entry must be off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scg.comparison.measurement import Measurement
from scg.comparison.reference import Reference
from scg.comparison.statistics import quantile
from scg.testing.sequential import corrected

DOMINANT = 1 / 3  # of the sum of squares: one draw's share that makes an interval incredible


@dataclass(frozen=True)
class Bias:
    """By flat entry: the bias, the half width of its interval, whether it is beyond chance; and the worst entry."""

    value: Tensor
    half_width: Tensor
    rejected: Tensor
    worst: int

    @property
    def biased(self) -> bool:
        return bool(self.rejected.any())


def bias(meter: Measurement, reference: Reference, tail: float, confidence: float, room: Tensor | None = None) -> Bias:
    """`tail`: the probability at which one entry of an unbiased estimate may be called biased. `room`: what it may be off
    besides."""
    moments = meter.moments
    value = moments.mean - reference.value
    se = (moments.se.square() + reference.se.square()).sqrt()
    slack = reference.error + meter.rounding + (0.0 if room is None else room)
    beyond = value.sign() * (value.abs() - slack).clamp_min(0.0)
    n = moments.count
    critical = quantile(tail, n)
    still = se <= meter.rounding
    t = torch.where(still, 0.0, beyond / se.clamp_min(1e-300)).clamp(-1e6, 1e6)
    skewness = moments.skewness * (moments.se / se.clamp_min(1e-300)) ** 3
    hall = corrected(t, skewness / n**0.5)
    dominated = moments.peak > DOMINANT * moments.squares
    # Both must exceed: the correction guards against skewness, and is not to find what the plain mean does not.
    rejected = torch.where(still, beyond.abs() > critical * se, ~dominated & (torch.minimum(hall.abs(), t.abs()) > critical))
    if bool(rejected.any()) and reference.unseen is not None and room is None:
        missed = reference.unseen(min(1.0, -math.log(tail) / n))
        rejected = rejected & bias(meter, reference, tail, confidence, missed).rejected
        slack = slack + missed
    score = value.abs() / (critical * se + slack).clamp_min(1e-300)
    return Bias(value, quantile(1 - confidence, n) * se + slack, rejected, int(score.argmax()))
