"""What the benchmark of estimators says of what it measured; and that all sides do the same work."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Independent

from benchmarks.cluster import Work as ClusterWork
from benchmarks.estimators import ESTIMATORS, Measured, table, verdicts
from benchmarks.graphs import FAMILIES, Row, exponent, measure, rows, stepped
from benchmarks.graphs import table as growth_table
from benchmarks.sides import by_hand, ours
from benchmarks.vae import WORKS, Unavailable, Work


def measured(estimator="leave-one-out", side="ours", ratio=1.0, variance=1000.0, share=1.0, error=0.01):
    return Measured(
        "linear", estimator, side, "4", milliseconds=4.0, ratio=ratio, variance=variance, share=share, share_error=error
    )


def test_an_estimator_slower_than_its_peer_is_a_miss():
    lines, missed = verdicts([measured(), measured(side="storchastic", ratio=1.01, variance=2000.0)])
    assert missed == 1
    assert lines[0].startswith("slower: linear, leave-one-out: 1.01 × storchastic")
    assert verdicts([measured(), measured(side="storchastic", ratio=1.0, variance=2000.0)])[1] == 0


def test_a_loss_by_hand_that_is_faster_is_no_miss():
    assert verdicts([measured(), measured(side="by_hand", ratio=1.3)])[1] == 0


def test_a_peer_with_a_better_best_is_a_miss_unless_its_mean_is_wrong():
    assert verdicts([measured(), measured(side="pyro", ratio=0.5, variance=10.0)])[1] == 1
    lines, missed = verdicts([measured(), measured(side="pyro", ratio=0.5, variance=10.0, share=1.2)])
    assert missed == 0
    assert any("mean not the gradient: linear: leave-one-out (pyro, 1.20±0.01)" in line for line in lines)


def test_a_wrong_mean_of_ours_is_a_miss_unless_it_is_documented():
    assert verdicts([measured(share=1.06)])[1] == 1
    assert verdicts([measured("straight-through", share=1.06)])[1] == 0


def test_a_biased_estimator_does_not_win():
    rows = [measured(), measured("straight-through", variance=1.0), measured(side="storchastic", ratio=0.5, variance=900.0)]
    assert verdicts(rows)[1] == 1


def test_the_table_says_what_cannot_be_done():
    rows = [measured(), Measured("linear", "enumeration", "ours", "2^200", why_not="too many")]
    assert table("linear", rows, ["ours"]).row_count == 2


@pytest.mark.parametrize("name", WORKS)
def test_the_cost_is_the_negative_elbo(name):
    work = Work(name).to(torch.float64)
    x = work.data[:3].to(torch.float64)
    logits, bits, below = [], [], x
    for encode in work.encode:
        logits.append(encode(below))
        below = torch.bernoulli(torch.sigmoid(logits[-1]))
        bits.append(below)
    expected = -Independent(Bernoulli(logits=work.prior), 1).log_prob(bits[-1])
    for theta, b in zip(logits, bits, strict=True):
        expected = expected + Independent(Bernoulli(logits=theta), 1).log_prob(b)
    for decode, b, target in zip(work.decode, bits, [x, *bits], strict=False):
        expected = expected - Independent(Bernoulli(logits=decode(b)), 1).log_prob(target)
    assert torch.allclose(work.negative_elbo(x, logits, bits), expected)


def gradient(step, work):
    for parameter in work.parameters():
        parameter.grad = None
    step()
    return torch.cat([p.grad.flatten() for p in work.encode.parameters()])


@pytest.mark.parametrize("estimator", ["leave-one-out", "DisARM", "straight-through"])
def test_the_losses_by_hand_have_the_mean_of_ours(estimator):
    work = Work("linear")
    work.float()
    work.data = work.data.float()
    torch.manual_seed(3)
    means = []
    for side in (ours, by_hand):
        step = side.step(work, estimator)
        means.append(torch.stack([gradient(step, work) for _ in range(12)]))
    one, other = means
    truth = torch.cat(means).mean(0)
    shares = [(m @ truth / (truth @ truth)) for m in (one, other)]
    error = (shares[0].var() / 12 + shares[1].var() / 12).sqrt()
    assert (shares[0].mean() - shares[1].mean()).abs() < 5 * error
    assert error < 0.1


def test_every_estimator_of_the_table_is_ours_or_says_why_not():
    work = Work("linear")
    missing = []
    for name in ESTIMATORS:
        if ESTIMATORS[name][0] in ("4", "2^200"):
            try:
                ours.step(work, name)()
            except Unavailable as reason:
                missing.append((name, "the budget is 4096" in str(reason)))
    assert missing == [("top-k", True), ("enumeration", True)]


def test_branches_that_would_not_fit_are_not_tried():
    with pytest.raises(Unavailable, match="160,801 times for a data point"):
        ours.step(Work("two layers"), "measure-valued")


@pytest.mark.parametrize("family", FAMILIES)
def test_growth_is_measured_for_every_family(family):
    found = rows(lambda size, skip: measure(family, size, skip), [2, 4], limit=60.0)
    assert [row.size for row in found] == [2, 4]
    assert all({"analysis", "first", "later", "derivation"} == row.seconds.keys() for row in found)
    assert "exponent" in growth_table(found)


def test_sequences_are_sampled_by_steps_and_replayed_at_once():
    assert stepped(3).seconds.keys() == {"sample", "replay"}
    assert stepped(3, skip=frozenset({"sample"})).seconds.keys() == {"replay"}


def test_what_would_take_too_long_is_left_out_and_stays_out():
    taken = {10: {"fast": 1e-6, "slow": 0.01}, 100: {"fast": 1e-5, "slow": 2.0}, 1_000: {"fast": 1e-4, "slow": 99.0}}
    measured = lambda size, skip: Row("made up", size, {k: v for k, v in taken[size].items() if k not in skip})  # noqa: E731
    found = rows(measured, [10, 100, 1_000], limit=3.0)
    assert [set(row.seconds) for row in found] == [{"fast", "slow"}, {"fast", "slow"}, {"fast"}]
    assert exponent(found, "fast") == pytest.approx(1.0)
    taken = {10: {"first": 1.0, "later": 1e-6}, 100: {"first": 99.0, "later": 1e-5}}
    assert len(rows(measured, [10, 100], limit=3.0)) == 1  # without a first sample, the later one would be the first
    assert exponent(found, "slow") == pytest.approx(math.log10(200))


def test_a_population_stops_scaling_where_sending_takes_as_long_as_working():
    """100 episodes of 1 s, 10 ms to send a task: ten times as fast with ten workers, but not with a hundred."""
    population = ClusterWork("", 100, 1.0, 0.5)
    assert [population.seconds(w, 0.01) for w in (1, 10, 100, 1000)] == pytest.approx([100.51, 10.6, 2.5, 2.5])
    limit = population.limit(0.01)
    assert population.efficiency(limit, 0.01) >= 0.5 > population.efficiency(limit + 1, 0.01)
    assert limit == 78  # 100 / W = 0.5 + 0.01 W
    assert ClusterWork("", 100, 1.0, 0.0).limit(0.0) == 200  # half of the workers have nothing to do
    assert ClusterWork("", 1, 1.0, 2.0).limit(0.0) == 0


def test_actors_stop_scaling_where_the_learner_is_always_busy():
    """100 blocks of 1 s, 0.05 s of the learner for each: twenty actors keep it busy, forty are half idle."""
    actors = ClusterWork("", 100, 1.0, 100 * 0.05, overlaps=True)
    assert [actors.efficiency(w, 0.0) for w in (1, 20, 40)] == pytest.approx([1.0, 1.0, 0.5])
    assert actors.limit(0.0) == 40


def test_the_simulation_of_losses_agrees_with_the_model_without_any():
    generator = np.random.default_rng(0)
    for work in (ClusterWork("", 100, 1.0, 0.5), ClusterWork("", 100, 1.0, 30.0, overlaps=True)):
        calm = work.simulated(10, 0.01, 0.0, 0.0, generator)
        # The model waits for all tasks to be sent, the simulation for the last one alone.
        assert calm == pytest.approx(work.seconds(10, 0.01), rel=0.01)
    work = ClusterWork("", 100, 1.0, 0.0)
    lost = np.mean([work.simulated(10, 0.01, 0.0, 0.1, generator) for _ in range(500)])
    assert lost > 1.5 * work.seconds(10, 0.01)  # one of ten is done twice in 65 of 100 rounds, which wait for it
    spread = np.mean([work.simulated(100, 0.0, 0.5, 0.0, generator) for _ in range(200)])
    assert 2.5 < spread < 4.5  # of 100 log-normal times, the greatest
