"""Credits: order, ties, failures, and what they do not depend on."""

from __future__ import annotations

import pytest
import torch

from scg.agents.search import credits

NAN = float("nan")


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_centred_ranks_are_even_between_minus_and_plus_a_half_and_sum_to_zero() -> None:
    assert credits.centred_ranks(t(3, 10, -7)).tolist() == [0.0, 0.5, -0.5]
    assert credits.centred_ranks(t(1, 1, 1)).tolist() == [0, 0, 0]


def test_ties_share_their_rank_wherever_they_stand() -> None:
    assert credits.centred_ranks(t(5, 1, 5, 0)).tolist() == pytest.approx([1 / 3, -1 / 6, 1 / 3, -1 / 2])


def test_a_failed_member_ranks_below_all() -> None:
    assert credits.centred_ranks(t(3, NAN, -7)).tolist() == [0.5, -0.5, 0.0]
    assert credits.elite(t(3, NAN, -7), 1).tolist() == [1, 0, 0]
    assert credits.elite(t(3, NAN, -7), 3).tolist() == [0.5, 0, 0.5]


def test_ranks_and_elites_do_not_see_a_monotone_change() -> None:
    utility = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for f in (torch.exp, lambda u: u**3, lambda u: 1e6 + u):
        assert torch.equal(credits.centred_ranks(f(utility)), credits.centred_ranks(utility))
        assert torch.equal(credits.elite(f(utility), 3), credits.elite(utility, 3))


def test_exponential_weights_do_not_see_shift_or_scale_and_never_overflow() -> None:
    utility = t(1, 2, 4)
    assert torch.allclose(credits.exponential(utility, 5), torch.exp(5 * (utility - 4) / 3))
    assert torch.allclose(credits.exponential(1e9 + 1e6 * utility, 5), credits.exponential(utility, 5))
    assert credits.exponential(t(2, 2, NAN), 5).tolist() == [1, 1, 0]


def test_weights_above_the_worst() -> None:
    assert credits.above_worst(t(-3, NAN, 1)).tolist() == [0, 0, 4]
    assert credits.above_worst(t(2, 2)).tolist() == [1, 1]


def test_directions_keep_the_best_pairs_and_divide_by_their_spread() -> None:
    utility = t(1, 2, 9, -9, 3, 4)  # pairs by their better member: 9, 4, 2
    kept = t(9, -9, 3, 4)
    weight = credits.directions(utility, 2)
    assert weight[:2].tolist() == [0, 0]
    differences = weight[2::2] - weight[3::2]
    assert torch.allclose(differences, t(18, -1) / kept.std(correction=0) * 6 / 4)


def test_a_pair_with_a_failure_is_no_direction() -> None:
    assert credits.directions(t(100, NAN, 1, 2), 2)[:2].tolist() == [0, 0]
    assert credits.mirrored(t(100, NAN, 1, 2))[:2].tolist() == [0, 0]


@pytest.mark.parametrize("credit", [credits.centred_ranks, credits.mirrored, lambda u: credits.elite(u, 1)])
def test_nothing_is_left_of_a_generation_that_failed(credit) -> None:
    with pytest.raises(credits.AllFailed, match=r"2 members"):
        credit(t(NAN, NAN))
