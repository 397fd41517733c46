"""The toy of Grathwohl et al., with few steps; what RELAX learns at a fixed θ."""

from __future__ import annotations

import json

import pytest
import torch

from scg.papers.grathwohl2018_relax import run
from scg.papers.grathwohl2018_relax.run import HARD, Settings, best_control, learn_in_place, unbiased
from scg.papers.report import FAILED, REFUTED, REPRODUCED
from scg.papers.toy import descent, exact
from scg.papers.toy.learned import EachControl


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """250 steps and two seeds, in single precision as on the command line."""
    out = tmp_path_factory.mktemp("grathwohl")
    torch.set_default_dtype(torch.float32)
    results = run.run(Settings(steps=250, seeds=2), out)
    torch.set_default_dtype(torch.float64)
    results.write(out)
    return out, results


def test_a_short_run_writes_everything(written):
    out, results = written
    assert len(json.loads((out / "results.json").read_text(encoding="utf-8"))["rows"]) == 7
    assert {path.name for path in out.glob("*.png")} == {"curves.png", "relaxations.png"}
    assert results.sections["descents"].count("\n") == 1 + 6


def test_a_short_run_has_the_variance_of_relax_and_not_its_convergence(written):
    _, results = written
    verdict = {row.claim: row.verdict for row in results.rows}
    wanted = {
        "unbiased for every": REPRODUCED,
        "RELAX does": FAILED,
        "log variance": REPRODUCED,
        "not noticeably faster": REPRODUCED,
        "slope towards": REFUTED,
        "best control": REPRODUCED,
    }
    for claim, expected in wanted.items():
        (found,) = (v for c, v in verdict.items() if claim in c)
        assert found == expected, claim


def test_relax_learns_the_level_that_rebar_cannot_express():
    settings = Settings(steps=500, seeds=4)
    rebar, relax = (learn_in_place(c, settings) for c in (descent.REBAR, descent.RELAX))
    level = float(exact.best_baseline(torch.tensor(0.0), torch.tensor(HARD)))
    assert (relax.c - level).abs().max() < 0.1 * level
    middle = (rebar.u - 0.5).abs() < 0.1
    assert rebar.c[middle].abs().max() < 0.05 * level
    assert sum(rebar.share(rebar.g > 0)) / 4 == pytest.approx(0.5, abs=1e-6)


def test_the_best_control_is_a_constant_and_a_tilted_one_is_worse():
    assert best_control()[3] is True
    theta, t = torch.tensor([0.0, -1.0]), torch.tensor(HARD)
    level = exact.best_baseline(theta, t)
    tilted = exact.controlled(theta, t, lambda z: level + 0.01 * torch.tanh(z))
    assert (tilted > 1e-7).all()


def test_a_wrong_relax_is_not_called_unbiased(monkeypatch):
    """A control that looks at which of the two samples it is given."""
    calls = iter(range(10**6))
    forward = EachControl.forward
    monkeypatch.setattr(EachControl, "forward", lambda self, z: forward(self, z) * (1 + next(calls) % 2))
    assert unbiased(Settings())[3] is False
