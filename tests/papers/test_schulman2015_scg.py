"""The 2015 paper's graphs, with few draws; and that a wrong estimator would not be called reproduced."""

from __future__ import annotations

import json

import pytest
import torch

from scg import Branches, ScoreFunction
from scg.papers.cli import paper
from scg.papers.schulman2015_scg import graphs
from scg.papers.schulman2015_scg.run import Lab, Settings, built_from, exact, figure, largest_gap

CASES = [*graphs.figure(), *graphs.built()]
ids = [case.name for case in CASES]


def test_the_whole_paper_is_reproduced_with_few_draws(tmp_path, capsys):
    out = tmp_path / "out"
    assert paper(["schulman2015_scg", "--draws", "4000", "--seed", "3", "--out", str(out)]) == 0
    written = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert len(written["rows"]) == 11
    assert {row["verdict"] for row in written["rows"]} == {"reproduced"}
    assert written["settings"] == {"draws": 4000, "seed": 3}
    pictures = {path.name for path in out.glob("*.png")}
    assert pictures == {f"{case.name}.png" for case in CASES}
    assert all((out / name).stat().st_size > 3000 for name in pictures)
    assert "Figure 1 (5)" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_numbers():
    case = graphs.second()
    one, two = (figure(Lab(Settings(draws=500, seed=7)), case)[4] for _ in range(2))
    assert one == two


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_the_exact_gradients_agree_with_finite_differences(case):
    step = 1e-5
    at = [case.objective(torch.tensor(graphs.THETA + s)).item() for s in (-step, step)]
    assert exact(case) == pytest.approx((at[1] - at[0]) / (2 * step), abs=1e-8)


@pytest.mark.parametrize("case", [c for c in CASES if c.by_hand], ids=[c.name for c in CASES if c.by_hand])
def test_the_surrogates_gradient_is_the_formula_at_every_draw(case):
    assert largest_gap(Lab(Settings(draws=300)), case) < 1e-11


@pytest.mark.parametrize("case", graphs.figure(), ids=[c.name for c in graphs.figure()])
def test_the_derivation_is_the_papers_formula(case):
    assert case.graph.derivation(["theta"]).equations[0].unicode.estimator == case.formula


def test_a_biased_estimator_is_not_called_reproduced():
    class Doubled(ScoreFunction):
        def branch(self, distribution):
            value = distribution.sample()
            log_prob = distribution.log_prob(value)
            return Branches(value, score=1.2 * (log_prob - log_prob.detach()))

    case = graphs.nested()
    case.variants.clear()
    case.variants["a fifth too much"] = {"x": Doubled(), "y": ScoreFunction()}
    claim = built_from(Lab(Settings(draws=100_000)), case)
    assert claim[3] is False
