"""Statistics over seeds, against sums over all outcomes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from scg.agents.training.reliability import improvement, interval, iqm, mean, optimality_gap, profile, resampled

SCORES = np.array([[0.0, 1.0], [0.5, 1.5], [1.0, -1.0], [0.25, 4.0]])  # [runs, tasks]


def test_the_interquartile_mean_is_that_of_the_middle_half() -> None:
    middle = sorted(SCORES.flatten())[2:-2]
    assert iqm(SCORES) == pytest.approx(sum(middle) / 4)
    spoilt = SCORES.copy()
    spoilt[3, 1] = 1e9
    assert iqm(spoilt) == iqm(SCORES) and mean(spoilt) > 1e8  # one lucky run of eight moves the mean alone


def test_gap_and_profile_count_what_they_say() -> None:
    assert optimality_gap(SCORES) == pytest.approx((1 + 0.5 + 0 + 0.75 + 0 + 0 + 2 + 0) / 8)
    assert profile([-2.0, 0.25, 1.0, 9.0])(SCORES).tolist() == [1.0, (2 / 4 + 3 / 4) / 2, (0 + 2 / 4) / 2, 0.0]


def test_improvement_is_a_mean_over_all_pairs() -> None:
    others = np.array([[0.5, 1.0], [0.0, 2.0]])
    by_hand = 0.0
    for task in range(2):
        pairs = list(itertools.product(SCORES[:, task], others[:, task]))
        by_hand += sum(1.0 if x > y else 0.5 if x == y else 0.0 for x, y in pairs) / len(pairs) / 2
    assert improvement(SCORES, others) == pytest.approx(by_hand)
    assert improvement(SCORES, SCORES) == pytest.approx(0.5)
    assert improvement(SCORES + 10, others) == 1.0


def test_the_bootstrap_has_the_moments_of_all_resamples() -> None:
    """Each task by itself: enumerated over all 3³ draws of the runs, the tasks' means are independent."""
    scores = np.array([[0.0, 3.0], [1.0, 5.0], [5.0, -1.0]])
    every = np.array(list(itertools.product(range(3), repeat=3)))
    variance = sum(scores[every, task].mean(1).var() for task in range(2)) / 4
    assert resampled(scores, 7, np.random.default_rng(0)).shape == (7, 3, 2)
    draws = mean(resampled(scores, 200_000, np.random.default_rng(0)))
    assert draws.mean() == pytest.approx(scores.mean(), abs=5 * np.sqrt(variance / 200_000))
    assert draws.var() == pytest.approx(variance, rel=0.02)  # standard error about 0.003
    # A bootstrap that draws whole rows would have the covariance of the tasks in it.
    rows = scores[every].mean((1, 2)).var()
    assert abs(rows - variance) > 0.3 * variance


def test_intervals_cover_what_they_should() -> None:
    """95 % intervals of the mean of twenty normal runs; the percentile bootstrap is known to cover a little less."""
    generator = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        lower, upper = interval(mean, generator.normal(size=(20, 1)), resamples=400, seed=trial)
        hits += bool(lower <= 0.0 <= upper)
    assert 0.87 <= hits / 200 <= 0.98
    narrow = interval(mean, generator.normal(size=(20, 1)), confidence=0.5)
    wide = interval(mean, generator.normal(size=(20, 1)), confidence=0.99)
    assert wide[1] - wide[0] > narrow[1] - narrow[0]


def test_an_interval_of_two_samples_resamples_both() -> None:
    lower, upper = interval(improvement, SCORES, SCORES)
    assert lower < 0.5 < upper
