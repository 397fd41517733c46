"""Perturbations are functions of seed, generation and index."""

from __future__ import annotations

import pytest
import torch

from scg.agents.search.perturbations import Perturbations


@pytest.mark.parametrize("kind", ["normal", "signs", "axes"])
def test_a_row_does_not_depend_on_the_rows_beside_it(kind) -> None:
    noise = Perturbations(7, 5, kind, mirrored=True)
    whole = noise.rows(3, range(20))
    assert torch.equal(torch.cat([noise.rows(3, range(11)), noise.rows(3, range(11, 20))]), whole)
    assert torch.equal(noise.rows(3, [13, 2]), whole[[13, 2]])


@pytest.mark.parametrize("kind", ["normal", "signs", "axes"])
def test_mirrored_members_cancel(kind) -> None:
    rows = Perturbations(7, 4, kind, mirrored=True).rows(0, range(8))
    assert torch.equal(rows[0::2], -rows[1::2])


def test_generations_seeds_and_members_differ() -> None:
    rows = [Perturbations(seed, 3).row(generation, member) for seed in (0, 1) for generation in (0, 1) for member in (0, 1)]
    assert len({tuple(row) for row in rows}) == 8


@pytest.mark.parametrize("kind", ["normal", "signs", "axes"])
def test_every_kind_has_mean_zero_and_unit_covariance(kind) -> None:
    rows = Perturbations(1, 3, kind).rows(0, range(12_000))
    covariance = rows.T @ rows / len(rows)
    # Standard errors are 0.009 and, of a square, 0.013: five of them are passed once in a million.
    assert float(rows.mean(0).abs().max()) < 0.046
    assert float((covariance - torch.eye(3, dtype=torch.float64)).abs().max()) < 0.065
