"""Intervals: paired bootstrap over rounds, and Student's for a mean.

A round draws every choice once, on the same seed. The bootstrap resamples rounds, the same ones for every choice, so that
what moves all choices together (a hard draw, a busy machine) cancels in their ratios (Efron & Tibshirani 1993, ch. 8, 13).

    V  mean of the squared deviations      t  median of the times      W = V · t        E = V · evaluations

The median is of rounds, since what a scheduler adds to a time has one sign and a long tail. Percentile intervals of a
variance are short where draws have long tails: at 95 %, 200 normal draws give 94 %, as many exponential ones 89 %, and 1000
of them 93 %.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

RESAMPLES = 1000
BLOCKS = 2048  # rounds beyond this are grouped, to bound the resampling's memory


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its confidence interval."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Interval:
        return Interval(self.value * factor, self.low * factor, self.high * factor)

    @property
    def plausible(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


class Resampled:
    """Bootstrap replicates of one choice's variance and time: `variance [1 + parameters, B]` (the total first), `time [B]`."""

    def __init__(self, deviations: np.ndarray, seconds: np.ndarray, counts: np.ndarray) -> None:
        blocks = counts.shape[1]
        total = np.concatenate([deviations.sum(1, keepdims=True), deviations], 1)  # [rounds, 1 + parameters]
        self.variance_value = total.mean(0)
        self.time_value = float(np.median(seconds))
        starts = np.linspace(0, len(total), blocks, endpoint=False).astype(int)
        sizes = np.diff(starts, append=len(total)).astype(float)
        self.variance = (counts @ np.add.reduceat(total, starts) / (counts @ sizes)[:, None]).T
        times = seconds if blocks == len(seconds) else np.array([np.median(part) for part in np.split(seconds, starts[1:])])
        self.time = _medians(times, counts)


def resampled(deviations: list[np.ndarray], seconds: list[np.ndarray], seed: int) -> list[Resampled]:
    """Replicates of all choices on the same resampled rounds. `deviations`: `[rounds, parameters]` each, of equal length."""
    rounds = min(len(d) for d in deviations)
    blocks = min(rounds, BLOCKS)
    drawn = np.random.default_rng(seed).integers(blocks, size=(RESAMPLES, blocks)) + blocks * np.arange(RESAMPLES)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=RESAMPLES * blocks).reshape(RESAMPLES, blocks).astype(float)
    return [Resampled(d[:rounds], s[:rounds], counts) for d, s in zip(deviations, seconds, strict=True)]


def _medians(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The median of each resample, `[B]`, from how often it holds each value."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(counts[:, order], 1) >= counts.sum(1, keepdims=True) / 2
    return values[order][reached.argmax(1)]


def percentile(value: float, replicates: np.ndarray, confidence: float) -> Interval:
    """The central share of the replicates."""
    low, high = np.quantile(replicates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, min(float(low), value), max(float(high), value))


def ratio(over: np.ndarray, under: np.ndarray, value: float, confidence: float) -> Interval:
    """Percentile interval of a ratio of paired replicates; 0/0 is 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where((over == 0) & (under == 0), 1.0, over / under)
    if not np.isfinite(found).all():
        return Interval(value, float(np.min(found)), np.inf)
    return percentile(value, found, confidence)


def quantile(tail: float, count: int) -> float:
    """Student's: exceeded by |T| with probability `tail`, at `count` draws."""
    return float(student.ppf(1 - tail / 2, max(count - 1, 1)))
