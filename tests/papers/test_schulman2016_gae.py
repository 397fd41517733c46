"""Bias and variance of GAE, exactly; its report on runs whose returns are known; and a credit that is wrong."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

from scg.estimators.credit import GAE
from scg.papers.cli import paper
from scg.papers.learning import CONTRARY
from scg.papers.report import REPRODUCED
from scg.papers.schulman2016_gae import exact as exact_module
from scg.papers.schulman2016_gae import run
from scg.papers.schulman2016_gae.exact import EXACT, HORIZON, WRONG, Exact
from scg.papers.schulman2016_gae.run import GAMMAS, LAMBDAS, just, mixture
from tests.papers.learned import instead


@pytest.fixture(scope="module")
def exact():
    return Exact()


@pytest.fixture(scope="module")
def cells(exact):
    return {k: {c: exact.moments(*c, k) for c in itertools.product((0.8, 1.0), (0.0, 0.9, 1.0))} for k in (EXACT, WRONG)}


def written(tmp_path, monkeypatch, value):
    monkeypatch.setattr(run, "learn_all", instead(value))
    monkeypatch.setattr(exact_module, "HORIZON", 4)
    paper(["schulman2016_gae", "--out", str(tmp_path)])
    return json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["rows"]


def test_runs_like_the_papers_are_called_reproduced(tmp_path, monkeypatch):
    rows = written(tmp_path, monkeypatch, lambda o: 100 - 50 * abs(o["lam"] - 0.9) - 50 * abs(o["gamma"] - 0.97) + o["seed"])
    assert [row["verdict"] for row in rows[-3:]] == [REPRODUCED] * 3
    assert [row["verdict"] for row in rows[:2]] == [REPRODUCED] * 2
    assert (tmp_path / "grid.png").stat().st_size > 10_000


def test_runs_unlike_the_papers_are_not(tmp_path, monkeypatch):
    rows = written(tmp_path, monkeypatch, lambda o: 100 * o["lam"] + 10 * o["gamma"] + o["seed"])
    assert [row["verdict"] for row in rows[-3:]] == [CONTRARY, REPRODUCED, CONTRARY]


def test_the_undiscounted_gradient_is_the_limit_of_the_discounted_one(exact):
    assert torch.allclose(exact.discounted(1.0), exact.wanted, atol=1e-12)
    assert not torch.allclose(exact.discounted(0.9), exact.wanted, rtol=0.05)
    assert float(exact.paths.p.sum()) == pytest.approx(1.0)
    assert exact.paths.states.shape == (HORIZON, 4**HORIZON)


def test_the_exact_rows_hold(exact, cells):
    assert mixture(exact)[3] is True
    assert just(exact, cells)[3] is True


def test_an_exact_critic_is_best_at_lambda_0_and_a_wrong_one_is_not(exact, cells):
    for gamma in (0.8, 1.0):
        assert cells[EXACT][gamma, 0.0].variance < cells[EXACT][gamma, 1.0].variance
        assert cells[WRONG][gamma, 0.0].variance > cells[EXACT][gamma, 0.0].variance
    assert cells[WRONG][1.0, 0.0].bias > 10 * cells[WRONG][1.0, 1.0].bias


def test_a_wrong_trace_is_caught(exact, monkeypatch):
    """λ in the place of γλ."""
    own = GAE.advantage
    monkeypatch.setattr(GAE, "advantage", lambda self, downstream: own(type(self)(discount=1.0, lam=self.lam), downstream))
    assert mixture(exact)[3] is False
    wrong = {kind: {cell: exact.moments(*cell, kind) for cell in ((0.8, 0.9), (0.8, 1.0))} for kind in (EXACT, WRONG)}
    assert just(exact, wrong)[3] is False


def test_the_grid_reaches_from_one_step_to_monte_carlo():
    assert {0.0, 1.0} < set(LAMBDAS)
    assert max(GAMMAS) == 1.0


def test_settings_that_make_no_sense_are_refused(capsys):
    for wrong, says in ((["--steps", "100"], "1,024"), (["--seeds", "1"], "2 seeds"), (["--workers", "0"], "at least 1")):
        assert paper(["schulman2016_gae", *wrong]) == 2
        assert says in capsys.readouterr().err
