"""TRPO's theory on few processes; its report on runs whose returns are known; and a bound that is none."""

from __future__ import annotations

import json

import pytest
import torch

from scg.papers.cli import paper
from scg.papers.learning import CONTRARY
from scg.papers.report import FAILED, REPRODUCED
from scg.papers.schulman2015_trpo import run
from scg.papers.schulman2015_trpo.improvement import BOUND, REGION, Setting, improve, judges
from scg.papers.schulman2015_trpo.run import Settings, first_order, performance_difference, theorem
from scg.testing.tabular import Process, divergence, gradient
from tests.papers.learned import instead

FEW = Settings(processes=20)
WORTH = {"trpo": 100.0, "npg": 60.0, "trpo-dual": 80.0}


def written(tmp_path, monkeypatch, value, kl):
    monkeypatch.setattr(run, "learn_all", instead(value, kl))
    code = paper(["schulman2015_trpo", "--processes", "20", "--iterations", "3", "--out", str(tmp_path)])
    return code, json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["rows"]


def test_runs_like_the_papers_are_called_reproduced(tmp_path, monkeypatch):
    _, rows = written(
        tmp_path, monkeypatch, lambda o: WORTH[o["agent"]] + o["seed"], lambda o: 0.2 if o["agent"] == "npg" else 0.009
    )
    verdicts = [row["verdict"] for row in rows]
    assert len(rows) == 5 + 2 * 2 * 3 + 3
    assert verdicts[:3] == [REPRODUCED] * 3
    assert verdicts[-3:] == [REPRODUCED] * 3
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_a_line_search_that_breaks_its_constraint_fails_and_one_that_learns_less_is_refuted(tmp_path, monkeypatch):
    code, rows = written(tmp_path, monkeypatch, lambda o: -WORTH[o["agent"]] + o["seed"], lambda o: 0.2)
    assert code == 1
    assert [row["verdict"] for row in rows[-3:]] == [FAILED, CONTRARY, CONTRARY]


def test_the_theory_holds():
    assert [row(FEW)[3] for row in (performance_difference, first_order, theorem)] == [True] * 3


@pytest.mark.parametrize("share", [0.0, 1e-4])
def test_a_penalty_that_is_too_small_is_caught(monkeypatch, share):
    own = Process.penalty
    monkeypatch.setattr(Process, "penalty", lambda self, pi: share * own(self, pi) + 1e-300)
    assert theorem(Settings(processes=60))[3] is False


def test_a_surrogate_with_the_new_policys_states_has_another_gradient(monkeypatch):
    """η itself, but for its states being differentiated: the value is right at π, the slope is not L's."""
    monkeypatch.setattr(
        Process,
        "local",
        lambda self, pi, new: self.objective(pi) + 1.1 * (self.visits(pi)[:, None] * new * self.advantage(pi)).sum(),
    )
    assert first_order(FEW)[3] is False


def test_improvement_by_the_bound_never_falls_and_by_the_region_keeps_it():
    for seed in range(3):
        setting = Setting.random(seed)
        course = improve(setting, judges(0.01)[BOUND], 4)
        assert course.falls == 0
        assert course.returns[-1] > course.returns[0]
        assert max(improve(setting, judges(0.01)[REGION], 4).kl) <= 0.01


def test_the_natural_direction_is_the_one_of_the_kls_hessian():
    setting = Setting.random(1)
    theta = torch.randn(2, 3)
    pi = setting.policy(theta)
    visits = setting.process.visits(pi)
    hessian = torch.autograd.functional.hessian(
        lambda t: visits @ divergence(pi.detach(), setting.policy(t.view(2, 3))), theta.flatten()
    )
    exact = gradient(lambda t: setting.process.objective(setting.policy(t)), theta).flatten()
    assert torch.allclose(hessian @ setting.natural(theta).flatten(), exact, atol=1e-9)


def test_settings_that_make_no_sense_are_refused(capsys):
    for wrong, says in (
        (["--steps", "100"], "5120 or more"),
        (["--seeds", "1"], "2 seeds"),
        (["--processes", "2"], "at least 10"),
    ):
        assert paper(["schulman2015_trpo", *wrong]) == 2
        assert says in capsys.readouterr().err
