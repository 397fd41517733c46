"""Few of the cases of `python -m scg.testing.rates`: no more false alarms and misses than chance allows, and some power."""

import pytest

from scg.testing.rates import FALSE_ALARM, cases, interval, measure, text, verdicts


def test_few_cases_keep_the_stated_rates():
    """20 runs of each kind: 4 wrong ones or more would happen with probability 4e-5 at the stated rate."""
    found = next(measure(1))
    for family in ("smooth", "jumping", "rare"):
        assert found[family, False].count("biased") < 4
        assert found[family, True].count("unbiased") < 4
    assert found["smooth", True].count("biased") == 20
    assert found["jumping", True].count("biased") == 20
    page = text(found, 1.0)
    assert "--cases 60" in page
    assert "| smooth | 0 of 20" in page


def test_a_twin_differs_in_its_estimator_alone():
    right, wrong = (next(cases("smooth", 1, biased)) for biased in (False, True))
    assert right.theta == wrong.theta
    assert set(verdicts(right, 2, 0)) == {"unbiased"}
    assert set(verdicts(wrong, 2, 0)) == {"biased"}


def test_intervals_are_those_of_clopper_and_pearson():
    assert interval(0, 2000) == (0.0, pytest.approx(1 - 0.025 ** (1 / 2000), rel=1e-6))
    assert interval(2000, 2000)[1] == 1.0
    stats = pytest.importorskip("scipy.stats")
    for k, n in ((3, 20), (7, 2000), (19, 20)):
        low, high = interval(k, n)
        assert low == pytest.approx(stats.beta.ppf(0.025, k, n - k + 1), rel=1e-6)
        assert high == pytest.approx(stats.beta.ppf(0.975, k + 1, n - k), rel=1e-6)
    assert 0 < FALSE_ALARM < 0.1
