"""The toy of Tucker et al., with few steps: what is exact is exact, and a wrong estimator would not be called reproduced."""

from __future__ import annotations

import json

import pytest
import torch

from scg import papers
from scg.papers.report import FAILED, REFUTED, REPRODUCED
from scg.papers.toy import descent
from scg.papers.toy.learned import EachREBAR
from scg.papers.tucker2017_rebar import run
from scg.papers.tucker2017_rebar.run import Settings, at_the_start, away, limit, shares, unbiased


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """150 steps and two seeds, in single precision as on the command line."""
    out = tmp_path_factory.mktemp("tucker")
    torch.set_default_dtype(torch.float32)
    results = run.run(Settings(steps=150, seeds=2), out)
    torch.set_default_dtype(torch.float64)
    results.write(out)
    return out, results


def test_a_short_run_writes_everything(written):
    out, results = written
    rows = json.loads((out / "results.json").read_text(encoding="utf-8"))["rows"]
    assert len(rows) == 9
    assert (out / "curves.png").stat().st_size > 10_000
    assert results.sections["descents"].count("\n") == 1 + 10
    assert results.sections["shares"].count("\n") == 1 + 3 + 4


def test_what_needs_no_descent_is_settled_in_a_short_run(written):
    _, results = written
    verdict = {row.claim: row.verdict for row in results.rows}
    for claim, wanted in (
        ("unbiased for every", REPRODUCED),
        ("as τ → ∞", REPRODUCED),
        ("start θ = 0", REFUTED),
        ("θ = −2", REPRODUCED),
    ):
        (found,) = (v for c, v in verdict.items() if claim in c)
        assert found == wanted


def test_150_steps_are_not_called_convergence(written):
    _, results = written
    assert "all unbiased estimators converge" in results.rows[0].claim
    assert results.rows[0].verdict == FAILED
    assert results.rows[0] in results.failed


def test_the_relaxation_makes_no_difference_at_the_start_and_all_of_it_later():
    for tau, share in shares(0.0, 0.45, paper=True).items():
        assert share == pytest.approx(shares(0.0, 0.45, paper=False)[tau], rel=1e-9)
    assert shares(-2.0, 0.499, paper=True)["10"]["best"] < 0.02
    assert shares(-2.0, 0.499, paper=False)["10"]["best"] > 0.999


def test_some_strength_always_helps_and_strength_one_need_not():
    for t in (0.45, 0.499):
        found = shares(0.0, t, paper=True)
        assert all(share["best"] <= 1 for share in found.values())
        assert found["0.1"]["eta 1"] > 5


def test_the_exact_rows_are_those_that_were_written():
    rows = json.loads((papers.HERE / "tucker2017_rebar" / "results.json").read_text(encoding="utf-8"))["rows"]
    written = {row["claim"]: row for row in rows}
    for claim, _, _, right, numbers in (at_the_start(), away(), limit()):
        assert written[claim]["verdict"] == (right if isinstance(right, str) else REPRODUCED)
        for case, found in numbers.items():
            for key, value in found.items():
                assert value == pytest.approx(written[claim]["numbers"][case][str(key)], rel=1e-6, abs=1e-9), (claim, case, key)


def test_a_wrong_rebar_is_not_called_unbiased(monkeypatch):
    class Doubled(EachREBAR):
        def branch(self, distribution):
            branches = super().branch(distribution)
            w, eta, other = branches.weights.chunk(3)
            return type(branches)(branches.values, 3, torch.cat([w, 2 * eta, other]))

    monkeypatch.setattr(run, "EachREBAR", Doubled)
    assert unbiased(descent.OptimisationRuns([0.45], Settings()))[3] is False


def test_the_papers_folder_holds_this_very_settings():
    module = papers.load("tucker2017_rebar")
    written = json.loads((papers.HERE / "tucker2017_rebar" / "results.json").read_text(encoding="utf-8"))
    assert written["settings"] == vars(module.Settings())
