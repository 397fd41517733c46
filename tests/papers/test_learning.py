"""Training for papers: a short run, and what differences are called."""

from __future__ import annotations

import math

import pytest
import torch

from papers.learning import CONTRARY, UNDECIDED, Learned, clearly_more, learn, learn_all


@pytest.fixture
def single():
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(torch.float64)


@pytest.mark.usefixtures("single")
def test_a_run_is_its_seeds():
    """CartPole's preset with an option changed; the same seed gives the same numbers."""
    runs = {
        seed: {"agent": "trpo", "env": "CartPole-v1", "steps": 512, "seed": seed, "episodes": 1, "horizon": 32}
        for seed in (0, 1)
    }
    found = learn_all(runs, 1, lambda what, done: None)
    again = learn(**runs[0])
    assert found[0].steps == [256.0, 512.0]
    assert (found[0].returns, found[0].kl, found[0].final) == (again.returns, again.kl, again.final)
    assert found[0].returns != found[1].returns
    assert all(0 <= kl <= 0.01 for kl in found[0].kl)


def test_the_mean_along_a_run_starts_at_its_first_episode():
    run = Learned([1.0, 2.0, 3.0], [math.nan, 10.0, 30.0], [], 25.0, 1.0)
    assert run.along == 20.0
    assert run.last == 30.0
    assert math.isnan(Learned([1.0], [math.nan], [], 0.0, 1.0).along)


def test_a_difference_is_one_beyond_two_standard_errors():
    noise = [-1.0, 0.0, 1.0, 0.0]  # standard error √(2/3)/2 = 0.41
    assert clearly_more([1.0 + n for n in noise], [0.0] * 4) is True
    assert clearly_more([-1.0 + n for n in noise], [0.0] * 4) == CONTRARY
    assert clearly_more([0.8 + n for n in noise], [0.0] * 4) == UNDECIDED
