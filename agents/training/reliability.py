"""Statistics of many runs: what a handful of seeds on several environments says, with intervals.

    scores [runs, tasks] of one algorithm, 0 and 1 the reference returns of each environment

    iqm               mean of the middle half of all runs of all tasks                    robust to a lost or lucky run
    optimality gap    mean of max(1 − score, 0)                                           what is missing to the reference
    profile(τ)        mean over tasks of the share of runs with score > τ
    P(X > Y)          mean over tasks of P(x > y) + ½ P(x = y)                            Mann & Whitney's U, over n m

    interval          percentiles of the statistic over resampled runs, each task by itself: a stratified bootstrap

Agarwal, Schwarzer, Castro, Courville & Bellemare (2021), "Deep reinforcement learning at the edge of the statistical precipice".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import trim_mean

Statistic = Callable[[np.ndarray], np.ndarray]
"""From scores `[…, runs, tasks]` to `[…]` or `[…, points]`."""


def iqm(scores: np.ndarray) -> np.ndarray:
    """The interquartile mean of all runs of all tasks, `[…]`."""
    return trim_mean(scores.reshape(*scores.shape[:-2], -1), 0.25, axis=-1)


def mean(scores: np.ndarray) -> np.ndarray:
    return scores.mean((-2, -1))


def optimality_gap(scores: np.ndarray) -> np.ndarray:
    return np.maximum(1.0 - scores, 0.0).mean((-2, -1))


def profile(taus: Sequence[float] | np.ndarray) -> Statistic:
    """The performance profile at the levels `taus`: `[…, taus]`."""
    levels = np.asarray(taus, float)

    def of(scores: np.ndarray) -> np.ndarray:
        return (scores[..., None] > levels).mean((-3, -2))  # every task has as many runs

    return of


def improvement(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The probability that a run of the ones scores more than a run of the others on a task drawn at random, `[…]`."""
    gaps = ones[..., :, None, :] - others[..., None, :, :]  # […, n, m, tasks]
    return (0.5 * (1.0 + np.sign(gaps))).mean((-3, -2, -1))


def resampled(scores: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """`[resamples, runs, tasks]`: the runs of each task drawn with replacement, independently of the other tasks."""
    runs, tasks = scores.shape
    chosen = generator.integers(runs, size=(resamples, runs, tasks))
    return np.take_along_axis(scores[None], chosen, 1)


def interval(
    statistic: Callable[..., np.ndarray], *scores: np.ndarray, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end for `statistic(*scores)`: percentiles over a stratified bootstrap of each `[runs, tasks]`."""
    generator = np.random.default_rng(seed)
    found = statistic(*(resampled(each, resamples, generator) for each in scores))
    tail = (1 - confidence) / 2
    lower, upper = np.quantile(found, [tail, 1 - tail], axis=0)
    return lower, upper
