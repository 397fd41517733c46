"""What a reproduction writes: JSON, README's table, exit codes."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from scg import papers
from scg.papers.cli import paper
from scg.papers.report import (
    FAILED,
    REFUTED,
    REPRODUCED,
    Estimate,
    Results,
    Row,
    collect,
    filled,
    over_seeds,
    table,
    with_error,
)


@dataclass(frozen=True)
class Options:
    draws: int = 1


def results(verdict: str = REPRODUCED) -> Results:
    made = Results("toy2000_word", "scg paper toy2000_word", {"draws": 1000}, {"torch": "2"})
    made.rows.append(Row("Table 1: a | b", "0.5", "0.50 ± 0.01", 1.25, verdict, {"mean": 0.5}))
    return made


def test_readme_is_written_from_the_results(tmp_path):
    (tmp_path / "README.md").write_text("# Paper\n<!-- table -->\nold\n<!-- /table -->\nkept\n")
    results().write(tmp_path)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| Claim and place | Paper | Ours, mean ± s.e. (seeds) | Command, time | Verdict |" in text
    assert r"| Table 1: a \| b | 0.5 | 0.50 ± 0.01 | `scg paper toy2000_word`, 1.2 s | reproduced |" in text
    assert "old" not in text
    assert text.endswith("kept\n")
    assert json.loads((tmp_path / "results.json").read_text())["rows"][0]["numbers"] == {"mean": 0.5}


def test_a_readme_without_a_place_for_the_table_is_an_error(tmp_path):
    (tmp_path / "README.md").write_text("# Paper\n")
    with pytest.raises(ValueError, match="README.md has no place for 'table': put <!-- table --> and <!-- /table -->"):
        results().write(tmp_path)


def test_text_that_looks_like_a_replacement_pattern_is_kept():
    assert filled("<!-- a --><!-- /a -->", "a", r"\1 \g<0>") == "<!-- a -->\n\\1 \\g<0>\n<!-- /a -->"


def test_failed_claims_are_listed():
    assert not results().failed
    assert [row.verdict for row in results(FAILED).failed] == [FAILED]


def test_a_claim_that_was_refuted_is_no_failure():
    """A run is as it should be when it shows that the paper's claim does not hold."""
    assert not results(REFUTED).failed


def test_jobs_become_rows_with_a_verdict_and_report_how_far_they_are():
    said = []
    jobs = [
        (title, lambda title=title, right=right: (title, "paper", "ours", right, {"n": 1}))
        for title, right in (("one", True), ("two", False), ("three", REFUTED))
    ]
    found = collect("toy2000_word", Options(draws=7), jobs, lambda what, done: said.append((what, done)))
    assert [(row.claim, row.verdict) for row in found.rows] == [("one", REPRODUCED), ("two", FAILED), ("three", REFUTED)]
    assert said == [("one", 0.0), ("two", 0.25), ("three", 0.5)]
    assert (found.command, found.settings) == ("scg paper toy2000_word", {"draws": 7})


def test_seeds_are_summed_up_by_their_mean_and_its_standard_error():
    assert over_seeds([1.0, 2.0, 3.0]) == "2.00 ± 0.58"


def test_a_mean_is_as_far_off_as_its_standard_errors_say():
    assert Estimate(1.2, 0.1, 100, 1.0).z == pytest.approx(2.0)
    assert Estimate(1.0, 0.0, 100, 1.0).z == 0.0
    assert Estimate(1.1, 0.0, 100, 1.0).z == float("inf")


def test_a_mean_is_written_to_two_digits_of_its_error():
    assert with_error(-0.41273, 0.00213) == "−0.4127 ± 0.0021"
    assert with_error(12.3456, 1.0) == "12.3 ± 1.0"
    assert with_error(0.5, 0.0) == "0.5000 ± 0.0000"


def test_every_paper_has_its_parts():
    for name in papers.names():
        folder = papers.HERE / name
        readme = (folder / "README.md").read_text(encoding="utf-8")
        written = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        assert table(written) in readme, f"{name}/README.md does not show what its results.json holds"
        assert "## Deviations" in readme
        assert "## What we could not reproduce" in readme
        module = papers.load(name)
        assert callable(module.run)
        assert module.Settings()


def test_without_a_name_the_papers_are_listed(capsys):
    assert paper([]) == 0
    assert "schulman2015_scg" in capsys.readouterr().out


def test_an_unknown_paper_is_refused_with_the_nearest_name(capsys):
    assert paper(["schulman2015"]) == 2
    assert "Did you mean 'schulman2015_scg'?" in capsys.readouterr().err


def test_options_that_make_no_sense_are_refused(capsys):
    assert paper(["schulman2015_scg", "--draws", "5"]) == 2
    assert "needs at least 100 draws" in capsys.readouterr().err
    assert paper(["schulman2015_scg", "--drawz", "5"]) == 2


def test_a_claim_that_fails_makes_the_exit_code_1(monkeypatch, tmp_path, capsys):
    module = papers.load("schulman2015_scg")
    monkeypatch.setattr(module, "run", lambda settings, out, say: results(FAILED))
    assert paper(["schulman2015_scg", "--out", str(tmp_path)]) == 1
    assert "not reproduced: Table 1: a | b" in capsys.readouterr().err
