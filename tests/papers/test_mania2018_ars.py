"""Augmented random search: the step, the regulator's exact gradient, and the report on runs that are known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from scg.papers.cli import paper
from scg.papers.learning import Learned
from scg.papers.mania2018_ars import regulator, run
from scg.papers.mania2018_ars.run import PPO, TRPO, V1, V2, Settings


def test_the_regulators_gradient_is_that_of_its_cost() -> None:
    gain, h = regulator.START + 0.05 * np.random.default_rng(0).normal(size=(3, 3)), 1e-6
    exact, found = regulator.gradient(gain), np.zeros((3, 3))
    for i, j in np.ndindex(3, 3):
        step = np.zeros((3, 3))
        step[i, j] = h
        found[i, j] = (regulator.cost(gain + step) - regulator.cost(gain - step)) / (2 * h)
    assert np.allclose(found, exact, rtol=1e-5, atol=1e-7)
    assert np.abs(exact).max() > 0.1


def test_the_regulators_cost_is_a_simulations_and_infinite_where_unstable() -> None:
    generator, x, total = np.random.default_rng(0), np.zeros((4000, 3)), 0.0
    for t in range(120):
        x = x @ (regulator.A + regulator.START).T + generator.normal(size=x.shape)
        u = x @ regulator.START.T
        if t >= 60:
            total += float(((x @ regulator.Q) * x).sum(-1).mean() + (u * u).sum(-1).mean()) / 60
    assert total == pytest.approx(float(regulator.cost(regulator.START)), rel=0.02)
    assert math.isinf(float(regulator.cost(np.zeros((3, 3)))))
    assert np.abs(regulator.gradient(regulator.best_gain())).max() < 1e-9


def test_the_step_is_the_papers_and_another_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run.the_step()[3] and run.scales()[3]
    right = run.stepped
    monkeypatch.setattr(run, "stepped", lambda u, n, best, rate, scale: right(u, n, best, rate, 2 * scale) * 1.01)
    assert not run.the_step()[3]


def test_differences_along_directions_are_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    few = Settings(draws=4000)
    assert run.slope(few)[3]
    monkeypatch.setattr(run, "gradient", lambda gain: 1.2 * regulator.gradient(gain))
    assert not run.slope(few)[3]


def known(final: dict[str, float]):
    def learn_all(wanted, workers, say, keep=""):
        return {key: Learned([1e5], [0.0], [], final[key[0]], 1.0, [(1e5, 100.0), (2e5, final[key[0]])]) for key in wanted}

    return learn_all


@pytest.mark.parametrize(("best", "verdict"), [(340.0, "reproduced"), (100.0, "failed")])
def test_the_report(tmp_path, monkeypatch, best, verdict) -> None:
    monkeypatch.setattr(run, "learn_all", known({V1: best, V2: 90.0, TRPO: 120.0, PPO: 110.0}))
    monkeypatch.setattr(run, "regulator", lambda settings: ("regulator", "", "", True, {}))
    paper(["mania2018_ars", "--draws", "2000", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["rows"]
    assert [row["verdict"] for row in rows] == ["reproduced"] * 4 + ["measured"] * 4 + [verdict]
    assert ("200 episodes" in rows[4]["ours"]) == (best > 325)
    assert (tmp_path / "swimmer.png").stat().st_size > 5_000


def test_settings_that_make_no_sense_are_refused(capsys) -> None:
    assert paper(["mania2018_ars", "--gradient_seeds", "0"]) == 2
    assert "--gradient_seeds 0: give at least 1" in capsys.readouterr().err
