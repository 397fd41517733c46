"""The sequential test keeps its promises: its error rate, its detectable bias, and silence where it cannot know."""

import math
from dataclasses import replace

import pytest
import torch

from scg.testing.oracle import Oracle
from scg.testing.parameters import Block
from scg.testing.sequential import FIRST, Moments, corrected, judge, student_quantile


def verdicts(draw, runs, *, bias=0.0, per_row=16, entries=1, false_alarm=0.05, detectable=0.1, max_draws=2**17, oracle=None):
    """Verdicts of many runs on a stream of mean-zero draws, around the exact value 1."""
    generator = torch.Generator().manual_seed(0)
    oracle = oracle or Oracle.certain("given", torch.ones(entries))
    block = Block(("theta",), (entries,), torch.arange(entries))

    def take(count):
        noise = draw((count, per_row, entries), generator).mean(1)
        return 1.0 + bias * torch.eye(entries)[0] + noise

    settings = {"false_alarm": false_alarm, "detectable": detectable, "floor": 0.0, "max_draws": max_draws, "epsilon": 2e-16}
    return [judge(take, per_row, oracle, [block], **settings) for _ in range(runs)]


def share(outcomes, verdict):
    return sum(o.verdict == verdict for o in outcomes) / len(outcomes)


def normal(shape, generator):
    return torch.randn(shape, generator=generator)


def skewed(shape, generator):
    return torch.empty(shape).exponential_(generator=generator) - 1


def heavy(shape, generator):
    """Student's t with 3 degrees of freedom: two moments, no third."""
    chi = torch.randn((3, *shape), generator=generator).square().mean(0)
    return torch.randn(shape, generator=generator) / chi.sqrt()


def lognormal(shape, generator):
    return (1.2 * torch.randn(shape, generator=generator)).exp() / math.exp(0.72) - 1


def rare(shape, generator):
    """99 in a 100 draws are the same."""
    return (torch.rand(shape, generator=generator) < 0.01).double() / 0.01 - 1


@pytest.mark.parametrize("draw", [normal, skewed, heavy, lognormal, rare], ids=lambda f: f.__name__)
def test_false_alarms_are_no_more_frequent_than_stated(draw):
    """400 runs at a stated rate of 5 %: 36 alarms or more would happen with probability 3e-4 at exactly that rate."""
    alarms = sum(o.verdict == "biased" for o in verdicts(draw, 400))
    assert alarms < 36


def test_a_bias_of_the_detectable_size_is_never_called_unbiased():
    outcomes = verdicts(normal, 400, bias=0.1)
    assert share(outcomes, "biased") > 0.95
    assert share(outcomes, "unbiased") < 0.09  # 5 % is stated; 36 of 400 would be a chance of 3e-4


def test_no_bias_is_soon_called_unbiased():
    outcomes = verdicts(normal, 200)
    assert share(outcomes, "unbiased") > 0.95
    assert max(o.draws for o in outcomes) <= 2**14


def test_a_small_bias_takes_more_draws_than_a_large_one():
    few = sorted(o.draws for o in verdicts(normal, 41, bias=0.8))[20]
    many = sorted(o.draws for o in verdicts(normal, 41, bias=0.1))[20]
    assert few == FIRST * 16
    assert many >= 4 * few


def test_many_entries_raise_no_more_alarms_than_one():
    assert sum(o.verdict == "biased" for o in verdicts(normal, 200, entries=30)) < 22
    assert share(verdicts(normal, 50, bias=0.2, entries=30), "biased") == 1.0


def test_a_biased_entry_is_named():
    outcome = verdicts(normal, 1, bias=0.5, entries=4)[0]
    assert outcome.verdicts[0] == "biased"
    assert outcome.worst(torch.arange(4), torch.ones(4)) == 0


def test_too_few_draws_leave_it_undecided():
    outcomes = verdicts(normal, 20, max_draws=2**9, detectable=0.01)
    assert share(outcomes, "undecided") > 0.8
    assert all(o.draws == 2**9 for o in outcomes)


def test_a_constant_is_equal_to_rounding_or_biased():
    exact = verdicts(lambda shape, _: torch.zeros(shape), 1)[0]
    assert (exact.verdict, exact.draws) == ("unbiased", FIRST * 16)
    off = verdicts(lambda shape, _: torch.zeros(shape), 1, bias=1e-6)[0]
    assert off.verdict == "biased"
    assert off.draws > FIRST * 16  # something rare might still come


def test_an_entry_that_one_observation_dominates_decides_nothing():
    """Nearly constant, and once something huge: neither the mean nor its error mean anything yet."""
    seen = []

    def jackpot(shape, generator):
        noise = 1e-3 * torch.randn(shape, generator=generator)
        if not seen:
            noise[0] = 1e3
            seen.append(True)
        return noise

    outcome = verdicts(jackpot, 1, bias=0.5, max_draws=2**13)[0]
    assert outcome.verdict == "undecided"


def test_a_draw_that_is_no_number_is_called_so():
    """Neither biased nor unbiased: nan is not a verdict on the mean. The other entries stay open."""
    outcome = verdicts(lambda shape, _: torch.full(shape, math.nan), 1)[0]
    assert (outcome.verdict, outcome.verdicts) == ("not finite", ("not finite",))

    def one_of_two(shape, generator):
        noise = torch.randn(shape, generator=generator)
        noise[0, 0, 1] = math.inf
        return noise

    assert verdicts(one_of_two, 1, entries=2)[0].verdicts == ("undecided", "not finite")


def test_what_draws_may_all_have_missed_is_no_bias():
    """A constant 0 for a true 1, all of which lies in outcomes of probability 1e-7; its twin lies in every other outcome."""

    def zero(shape, _):
        return torch.full(shape, -1.0)

    rare = replace(Oracle.certain("quadrature", torch.ones(1)), unseen=lambda p: torch.full((1,), float(p >= 1e-7)))
    often = replace(rare, unseen=lambda p: torch.full((1,), float(p >= 0.5)))
    assert verdicts(zero, 1, oracle=rare)[0].verdict == "undecided"
    assert verdicts(zero, 1, oracle=often)[0].verdict == "biased"


def test_impatience_stops_where_no_verdict_is_in_sight():
    generator = torch.Generator().manual_seed(0)
    block = Block(("theta",), (1,), torch.arange(1))
    settings = {"false_alarm": 1e-4, "detectable": 1e-4, "floor": 0.0, "max_draws": 2**15, "epsilon": 2e-16}

    def draws(bias, patient):
        noise = lambda k: 1.0 + bias + torch.randn((k, 1), generator=generator)  # noqa: E731
        return judge(noise, 1, Oracle.certain("given", torch.ones(1)), [block], **settings, patient=patient)

    assert (draws(0.0, True).verdict, draws(0.0, True).draws) == ("undecided", 2**15)
    assert (draws(0.0, False).verdict, draws(0.0, False).draws) == ("undecided", FIRST)
    assert draws(2.0, False).verdict == "biased"


def test_the_error_of_the_oracle_enters_the_verdict():
    """Off by less than the oracle's own error: neither biased nor, if that error is large, unbiased."""
    small = Oracle.certain("quadrature", torch.ones(1), torch.full((1,), 0.03))
    assert share(verdicts(normal, 20, bias=0.03, oracle=small), "unbiased") == 1.0
    large = Oracle.certain("quadrature", torch.ones(1), torch.full((1,), 0.2))
    outcomes = verdicts(normal, 20, bias=0.03, oracle=large)
    assert share(outcomes, "undecided") == 1.0
    assert max(o.draws for o in outcomes) <= 2 * FIRST * 16  # more draws would not help
    sampled = Oracle("finite difference (sampled)", torch.ones(1), torch.zeros(1), torch.full((1,), 0.02))
    assert share(verdicts(normal, 50, bias=0.02, oracle=sampled), "biased") == 0.0


def test_moments_in_parts_are_those_of_the_whole():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) ** 2 + 1e6
    moments = Moments(3)
    for part in x.split([1, 9, 40]):
        moments.add(part)
    centred = x - x.mean(0)
    assert torch.allclose(moments.mean, x.mean(0), rtol=1e-12)
    assert torch.allclose(moments.squares, centred.square().sum(0), rtol=1e-6)
    assert torch.allclose(moments.cubes, centred.pow(3).sum(0), rtol=1e-5)


def test_quantiles_are_students():
    stats = pytest.importorskip("scipy.stats")
    for tail in (1e-2, 1e-4, 1e-7):
        for degrees in (31, 63, 1023):
            assert student_quantile(tail, degrees) == pytest.approx(stats.t.isf(tail, degrees), rel=2e-3)


def test_the_correction_for_skewness_vanishes_with_it_and_keeps_the_order():
    t = torch.linspace(-8, 8, 101)
    assert torch.equal(corrected(t, torch.zeros(())), t)
    assert bool((corrected(t, torch.tensor(0.7)).diff() > 0).all())
