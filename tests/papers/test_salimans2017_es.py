"""Evolution strategies' variances by integration, and a wrong one that is caught; the model of workers on cases by hand."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
import torch

from scg.papers.cli import paper
from scg.papers.salimans2017_es import run, variances, workers
from scg.papers.salimans2017_es.run import Settings
from scg.papers.salimans2017_es.variances import Quadratic
from tests.papers.learned import instead

FEW = Settings(draws=300)


def by_quadrature(problem: Quadratic, mirrored: bool) -> float:
    """Trace of the covariance of one member's estimate, or of one pair's, without noise."""
    x, w = np.polynomial.hermite_e.hermegauss(6)
    nodes = torch.tensor(list(product(x, repeat=problem.dim)))
    mass = torch.tensor(list(product(w / w.sum(), repeat=problem.dim))).prod(-1)
    value = problem(problem.sigma * nodes)
    if mirrored:
        value = (value - problem(-problem.sigma * nodes)) / 2
    each = value[:, None] * nodes / problem.sigma
    mean = mass @ each
    assert torch.allclose(mean, problem.slope, atol=1e-12)
    return float(mass @ each.square().sum(-1) - mean.square().sum())


def test_closed_forms_are_the_integrals() -> None:
    problem = Quadratic.random(3, 0.0)
    assert problem.variance(False, False, 1) == pytest.approx(by_quadrature(problem, False), rel=1e-12)
    assert problem.variance(True, False, 2) == pytest.approx(by_quadrature(problem, True), rel=1e-12)


def test_measured_variances_agree_and_a_wrong_closed_form_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run.mirrored(FEW)[3] and run.common(FEW)[3]
    right = Quadratic.variance
    monkeypatch.setattr(Quadratic, "variance", lambda self, m, c, n: 1.5 * right(self, m, c, n))
    assert not run.mirrored(FEW)[3]


def test_noise_that_is_common_cancels_in_pairs_alone() -> None:
    loud, quiet = Quadratic.random(2, 5.0), Quadratic.random(2, 0.0)
    same = [p.estimates(True, True, 4, 3, 0) for p in (loud, quiet)]
    assert np.allclose(*same, atol=1e-12)
    assert not np.allclose(*(p.estimates(False, True, 4, 3, 0) for p in (loud, quiet)), atol=0.1)
    assert not np.allclose(*(p.estimates(True, False, 4, 3, 0) for p in (loud, quiet)), atol=0.1)


def test_a_smoothed_step_has_its_slope_and_its_own_slope_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run.smoothed(FEW)[3]
    monkeypatch.setattr(
        run,
        "surrogate",
        lambda graph, credit, theta, u, w: (
            0.0 * graph.replay({"theta": theta, "utility": u, credit: -w}).surrogate("gain", reduce="mean")
        ),
    )
    assert not run.smoothed(FEW)[3]


def test_the_horizons_variances_are_those_of_episodes() -> None:
    steps, noise, generator = 7, 0.5, np.random.default_rng(0)
    zeta = generator.normal(size=(200_000, steps))
    reward = -((zeta.mean(-1) - 1.0) ** 2) + noise * generator.normal(size=len(zeta))
    each = reward * zeta.sum(-1)
    assert each.var() == pytest.approx(variances.horizon(steps, 0.0, noise)["policy gradient"], rel=0.03)
    assert run.horizons()[3]


def test_the_model_of_workers_on_cases_by_hand() -> None:
    assert workers.makespan([3.0, 1.0, 1.0, 1.0], 2) == 3.0
    assert workers.makespan([1.0] * 5, 2) == 3.0
    assert workers.makespan([2.0], 8) == 2.0
    assert workers.model([1.0] * 4, 1.0, 1) == 1.0
    assert workers.model([1.0] * 4, 1.0, 4) == pytest.approx(5 / (1 + 1 + 2 * workers.LATENCY))


def test_a_members_share_of_the_work_is_the_same_on_any_worker() -> None:
    whole, _ = workers.part("CartPole-v1", range(6), 3)
    halves = [workers.part("CartPole-v1", part, 3)[0] for part in (range(3), range(3, 6))]
    assert whole == halves[0] + halves[1]
    assert len(set(whole)) > 1


@pytest.mark.parametrize(("value", "verdict"), [(990.0, "reproduced"), (400.0, "failed")])
def test_the_report(tmp_path, monkeypatch, value, verdict) -> None:
    monkeypatch.setattr(run, "learn_all", instead(lambda options: value))
    monkeypatch.setattr(workers, "costs", lambda env, members: ([0.01] * members, 0.001))
    monkeypatch.setattr(workers, "measured", lambda env, members, rounds: ([1.8, 1.9], True))
    paper(["salimans2017_es", "--draws", "100", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["rows"]
    assert [row["verdict"] for row in rows] == ["reproduced"] * 5 + ["measured"] * 2 + [verdict]
    assert (tmp_path / "speedup.png").stat().st_size > 5_000


def test_settings_that_make_no_sense_are_refused(capsys) -> None:
    assert paper(["salimans2017_es", "--draws", "3"]) == 2
    assert "--draws 3: give at least 100" in capsys.readouterr().err
