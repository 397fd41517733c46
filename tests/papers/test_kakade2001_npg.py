"""Kakade's theorems and examples, with few processes; and that a wrong metric would not be called natural."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Generator

from scg.papers.cli import paper
from scg.papers.kakade2001_npg import run as natural
from scg.papers.kakade2001_npg.average import AverageProcess, Flow, Regulator, change, loops, scores, two_states
from scg.papers.kakade2001_npg.run import Settings, bent, reparameterised, softmax, start_of_loops
from scg.papers.report import FAILED, REPRODUCED, collect


def some(seed: int = 0) -> tuple[AverageProcess, torch.Tensor]:
    return AverageProcess.random(seed), torch.randn(4, 3, generator=Generator().manual_seed(seed))


def test_the_whole_paper_is_reproduced_on_few_processes(tmp_path):
    assert paper(["kakade2001_npg", "--processes", "4", "--points", "40", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["rows"]
    assert [row["verdict"] for row in rows] == [REPRODUCED] * 8
    assert (tmp_path / "flows.png").stat().st_size > 10_000


def test_stationary_visits_stay_and_the_average_reward_is_a_long_runs():
    process, theta = some()
    pi = softmax(theta)
    step, visits = torch.einsum("sa,sax->sx", pi, process.transition), process.visits(pi)
    assert torch.allclose(visits @ step, visits, atol=1e-14)
    assert float(visits.sum()) == pytest.approx(1.0)
    occupied, total = torch.eye(4)[2], 0.0
    for _ in range(5000):
        total += float(occupied @ (pi * process.reward).sum(-1))
        occupied = occupied @ step
    assert total / 5000 == pytest.approx(float(process.objective(pi)), abs=1e-3)


def test_action_values_solve_their_bellman_equation_and_average_to_nothing():
    process, theta = some()
    pi = softmax(theta)
    q = process.action_value(pi)
    value = (pi * q).sum(-1)
    assert torch.allclose(q, process.reward - process.objective(pi) + process.transition @ value, atol=1e-13)
    assert float(process.visits(pi) @ value) == pytest.approx(0.0, abs=1e-14)


def test_the_fisher_matrix_is_the_hessian_of_the_kl():
    process, theta = some()
    before, visits = softmax(theta), process.visits(softmax(theta))

    def kl(flat: torch.Tensor) -> torch.Tensor:
        return visits @ (before * (before / softmax(flat.view_as(theta))).log()).sum(-1)

    hessian = torch.autograd.functional.hessian(kl, theta.flatten())
    assert torch.allclose(process.fisher(softmax, theta), hessian, atol=1e-13)


def test_the_natural_direction_does_not_depend_on_the_parameters():
    for seed in range(5):
        process, psi = some(seed)
        ours = change(softmax, bent(psi), process.natural(softmax, bent(psi)))
        theirs = change(lambda p: softmax(bent(p)), psi, process.natural(lambda p: softmax(bent(p)), psi))
        assert torch.allclose(ours, theirs, atol=1e-10)
        assert ours.norm() > 0.01


@pytest.mark.parametrize("visits", ["evenly", "from the start"])
def test_a_metric_of_other_states_is_invariant_but_is_not_the_compatible_approximation(visits, monkeypatch):
    """F over other states than the policy's is a metric too, so Theorem 1, not the invariance, must catch it."""
    own = AverageProcess.visits
    chosen = {"evenly": torch.full((4,), 0.25), "from the start": torch.tensor([0.7, 0.1, 0.1, 0.1])}[visits]

    def fisher(self, policy, theta):
        each, pi = scores(policy, theta), policy(theta)
        return torch.einsum("s,sa,sai,saj->ij", chosen, pi, each, each)

    monkeypatch.setattr(AverageProcess, "fisher", fisher)
    assert AverageProcess.visits is own
    assert reparameterised(Settings(processes=3))[3] is True
    assert natural.compatible(Settings(processes=3))[3] is False


def test_the_identity_for_a_metric_is_not_called_invariant(monkeypatch):
    monkeypatch.setattr(AverageProcess, "natural", AverageProcess.gradient)
    results = collect(
        "kakade2001_npg", Settings(), [("", lambda: reparameterised(Settings(processes=3)))], lambda what, done: None
    )
    assert results.rows[0].verdict == FAILED


def test_the_two_states_start_where_the_paper_says():
    process = two_states()
    for scale in ((1.0, 1.0), (3.0, 0.3)):
        pi = loops(scale)(start_of_loops(scale))
        assert torch.allclose(process.visits(pi), torch.tensor([0.8, 0.2]))
    assert float(process.objective(loops()(torch.tensor([30.0, 30.0])))) == pytest.approx(1.5, abs=1e-6)  # both loops for ever
    assert float(process.objective(loops()(torch.tensor([0.0, 30.0])))) == pytest.approx(2.0, abs=1e-6)


def test_the_regulators_moments_are_a_simulations():
    system, theta = Regulator((2.0, 0.5)), torch.tensor([-0.1, 1.0])
    g = Generator().manual_seed(0)
    x, noise = torch.zeros(40_000), torch.randn(60, 2, 40_000, generator=g)
    for epsilon, own in noise:
        x = 0.7 * x + 2.0 * theta[0] * x + 0.5 * theta[1] + own + epsilon
    mean, variance = system.moments(theta)
    assert float(x.mean()) == pytest.approx(float(mean), abs=5 * float(variance) ** 0.5 / 200)
    assert float(x.var()) == pytest.approx(float(variance), rel=5 * (2 / 40_000) ** 0.5)


def test_a_level_is_reached_where_it_is_passed_for_good():
    f = Flow(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 1.2, 0.9, 1.5]))
    assert f.reaches(1.0) == 4.0
    assert f.reaches(2.0) == float("inf")
    assert f.stays(0.5, 1.4) == pytest.approx(2 / 3)


def test_settings_that_make_no_sense_are_refused(capsys):
    assert paper(["kakade2001_npg", "--processes", "0"]) == 2
    assert "give at least 1" in capsys.readouterr().err
    assert paper(["kakade2001_npg", "--points", "3"]) == 2
