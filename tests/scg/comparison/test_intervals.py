"""Intervals cover what they say, as often as they say: measured on draws whose moments are known."""

import numpy as np
import pytest
import torch

import scg
from scg.comparison.bias import bias
from scg.comparison.measurement import Measurement
from scg.comparison.parameters import Parameters
from scg.comparison.reference import Reference
from scg.comparison.statistics import Interval, Resampled, percentile, ratio, resampled

REPEATS, ROUNDS = 400, 200
LAWS = {"normal": torch.randn, "bits": lambda *shape: (torch.rand(*shape) < 0.3).double(), "uniform": torch.rand}
VARIANCE = {"normal": 1.0, "bits": 0.21, "uniform": 1 / 12}


def increments(draws):
    """The squared steps of `Moments.with_draw`, of many series at once: `[repeats, rounds]` → `[repeats, rounds − 1]`."""
    n = torch.arange(1, draws.shape[1] + 1)
    means = draws.cumsum(1) / n
    return (draws[:, 1:] - means[:, :-1]).square() * ((n[1:] - 1) / n[1:])


def covered(truth, intervals):
    return sum(i.low <= truth <= i.high for i in intervals) / len(intervals)


def columns(draws, seed=0):
    """Bootstrap replicates of the variances of many series `[repeats, rounds]`, as if they were parameters of one choice."""
    (found,) = resampled([increments(draws).numpy().T], [np.ones(draws.shape[1] - 1)], seed)
    return found.variance_value[1:], found.variance[1:]


@pytest.mark.parametrize("law", LAWS)
def test_intervals_of_the_variance_cover_it(law):
    """Nominal 95 %, 400 repeats of 200 draws: between 91 and 98.5 % are covered. Binomial noise alone leaves this with
    probability 1e-3; intervals of 0.6 times the width are told from these."""
    intervals = [percentile(float(v), b, 0.95) for v, b in zip(*columns(LAWS[law](REPEATS, ROUNDS)), strict=True)]
    assert 0.91 <= covered(VARIANCE[law], intervals) <= 0.985
    short = [Interval(i.value, i.value + 0.6 * (i.low - i.value), i.value + 0.6 * (i.high - i.value)) for i in intervals]
    assert covered(VARIANCE[law], short) < 0.91


def test_intervals_of_a_ratio_cover_it_and_pairing_makes_them_narrow():
    """Two choices whose draws have correlation 0.9: the true ratio of variances is 4. Bounds as above."""
    common = torch.randn(REPEATS, ROUNDS)
    other = 2 * (0.9 * common + 0.19**0.5 * torch.randn(REPEATS, ROUNDS))
    under, paired, apart = columns(common), columns(other), columns(other, seed=1)
    found = {
        name: [
            ratio(o, u, float(ov / uv), 0.95) for ov, o, uv, u in zip(*over, *under, strict=True)
        ]
        for name, over in (("paired", paired), ("apart", apart))
    }  # fmt: skip
    assert 0.91 <= covered(4.0, found["paired"]) <= 0.985
    width = {name: np.mean([np.log(i.high / i.low) for i in kept]) for name, kept in found.items()}
    assert width["paired"] < 0.7 * width["apart"]


def test_a_drift_of_the_machine_cancels_in_a_ratio_of_times():
    """Both times double halfway: each median is anywhere, their ratio is 2 to within a jitter of 10 %."""
    rng = np.random.default_rng(0)
    drift = np.where(np.arange(ROUNDS) < ROUNDS / 2, 1.0, 2.0)
    steps = np.ones((ROUNDS, 1))
    slow, quick = resampled(
        [steps, steps], [2 * drift * rng.uniform(0.95, 1.05, ROUNDS), drift * rng.uniform(0.95, 1.05, ROUNDS)], 0
    )
    alone = percentile(quick.time_value, quick.time, 0.95)
    together = ratio(slow.time, quick.time, slow.time_value / quick.time_value, 0.95)
    assert alone.high / alone.low > 1.7  # 2, less what the jitter takes at either end
    assert together.low < 2.0 < together.high and together.high / together.low < 1.3


def test_many_rounds_are_resampled_in_blocks_to_the_same_interval():
    steps = increments(torch.randn(1, 9001)).numpy()[0][:, None]
    (found,) = resampled([steps], [np.ones(9000)], seed=0)
    assert found.variance.shape == (2, 1000)
    interval = percentile(float(found.variance_value[0]), found.variance[0], 0.95)
    assert interval.low < 1.0 < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * (2 / 9000) ** 0.5, rel=0.15)


def test_resampled_medians_are_those_of_the_resamples():
    rng = np.random.default_rng(0)
    values, counts = rng.normal(size=31), rng.multinomial(31, np.full(31, 1 / 31), size=50).astype(float)
    found = Resampled(np.ones((31, 1)), values, counts).time
    for row, median in zip(counts.astype(int), found, strict=True):
        assert median == np.median(np.repeat(values, row))


# -- bias ------------------------------------------------------------------------------------------------------


def metered(draws):
    theta = torch.zeros(draws.shape[1], requires_grad=True)
    meter = Measurement("m", {}, scg.Graph(), Parameters(scg.Graph(), {"theta": theta}))
    for row in draws:
        meter.add(row, 1.0)
    return meter


def given(value):
    return Reference("given", value, torch.zeros_like(value), torch.zeros_like(value))


@pytest.mark.parametrize("law", ["normal", "exponential", "rare bits"])
def test_unbiased_draws_are_called_biased_as_rarely_as_stated(law):
    """Tail 0.01 for one of 2,000 entries that are each an experiment of 100 draws: at most 0.016 of them, which binomial noise
    exceeds with probability 5e-3 at a true rate of 0.01. Skewness is corrected for: without it, rare bits give 0.025."""
    draws = {
        "normal": lambda: torch.randn(100, 2000),
        "exponential": lambda: -torch.rand(100, 2000).log(),
        "rare bits": lambda: (torch.rand(100, 2000) < 0.1).double(),
    }[law]()
    truth = {"normal": 0.0, "exponential": 1.0, "rare bits": 0.1}[law]
    meter = metered(draws)
    rejected = rate(meter, truth)
    assert rejected <= 0.016
    assert rate(meter, truth + 0.6 * float(draws.std())) > 0.8  # and a bias of 0.6 of one draw's deviation is found


def rate(meter, truth):
    """The share of entries that are rejected, each at 0.01."""
    return float(bias(meter, given(torch.full((2000,), truth)), 0.01, 0.95).rejected.double().mean())


def test_an_entry_that_one_draw_dominates_decides_nothing():
    draws = torch.zeros(100, 1)
    draws[50] = 1e6
    draws += 1e-3 * torch.randn(100, 1)
    assert not bias(metered(draws), given(torch.tensor([-5e4])), 0.01, 0.95).biased


def test_constant_draws_off_the_reference_are_biased_beyond_rounding_only():
    draws = torch.full((20, 1), 0.25)
    assert bias(metered(draws), given(torch.tensor([0.2500001])), 1e-3, 0.95).biased
    assert not bias(metered(draws), given(torch.tensor([0.25 + 1e-16])), 1e-3, 0.95).biased
    vague = Reference("exact", torch.tensor([0.2500001]), torch.tensor([1e-6]), torch.zeros(1))
    assert not bias(metered(draws), vague, 1e-3, 0.95).biased


def test_entries_far_smaller_than_the_largest_are_held_to_their_own_standard_error():
    """float32's rounding of an entry near 1 is as large as the standard errors of entries near 5e-4."""
    torch.set_default_dtype(torch.float32)
    draws = torch.cat([5e-4 * torch.randn(400, 2000), 1.0 + torch.randn(400, 1)], 1).double()
    meter, truth = metered(draws), torch.zeros(2001, dtype=torch.float64)
    truth[-1] = 1.0
    assert meter.rounding > float(meter.moments.se[:-1].max())
    assert not bias(meter, given(truth), 1e-3 / 2001, 0.95).biased
    off = torch.where(torch.arange(2001) == 7, 8 * meter.rounding, 0.0)
    assert bias(meter, given(truth + off), 1e-3 / 2001, 0.95).biased
