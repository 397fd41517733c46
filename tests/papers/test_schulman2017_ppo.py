"""The surrogates of PPO, exactly; and its report on runs whose returns are known."""

from __future__ import annotations

import json

import pytest
import torch

from scg.papers.cli import paper
from scg.papers.learning import CONTRARY, UNDECIDED
from scg.papers.report import REPRODUCED
from scg.papers.schulman2017_ppo import run
from scg.papers.schulman2017_ppo.run import ADAPTIVE, CLIP, NEITHER, TABLE_1, VARIANTS, case, first_step, objectives, surrogates
from tests.papers.learned import instead

ARGUMENTS = ["--steps", "8192", "--seeds", "3"]


@pytest.fixture(autouse=True)
def without_environments(monkeypatch):
    monkeypatch.setattr(run, "untrained", lambda env, seed: 10.0)


def written(tmp_path, monkeypatch, value):
    monkeypatch.setattr(run, "learn_all", instead(value))
    paper(["schulman2017_ppo", *ARGUMENTS, "--out", str(tmp_path)])
    return json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["rows"]


def kind(options) -> str:
    """The variant that a run's options are."""
    for name, (agent, chosen) in VARIANTS.items():
        known = {"agent", "env", "steps", "seed", *chosen}
        if options["agent"] == agent and known >= options.keys() and all(options[key] == chosen[key] for key in chosen):
            return name
    raise AssertionError(options)


def test_runs_like_the_papers_are_called_reproduced(tmp_path, monkeypatch):
    rows = written(tmp_path, monkeypatch, lambda o: 100 + 100 * TABLE_1[kind(o)] + o["seed"] % 2)
    verdicts = {row["claim"]: row["verdict"] for row in rows}
    assert len(rows) == 2 + 2 * 4 + 5
    assert {v for claim, v in verdicts.items() if claim.startswith("Table 1")} == {REPRODUCED}
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_runs_unlike_the_papers_are_not(tmp_path, monkeypatch):
    """Nothing at all wins; clip and adaptive penalty take turns, seed by seed."""
    worth = {NEITHER: lambda seed: 200.0, CLIP: lambda seed: 100.0 + seed, ADAPTIVE: lambda seed: 102.0 - seed}
    rows = written(tmp_path, monkeypatch, lambda o: worth.get(kind(o), lambda seed: 100.0)(o["seed"]))
    verdict = {row["claim"]: row["verdict"] for row in rows}
    assert verdict[f"Table 1: {CLIP} scores more than {NEITHER}"] == CONTRARY
    (all_three,) = (v for claim, v in verdict.items() if "all three beat neither" in claim)
    assert all_three == CONTRARY
    assert verdict[f"Table 1: {CLIP} scores more than {ADAPTIVE}"] == UNDECIDED


def test_scores_are_0_for_a_fresh_policy_and_1_for_the_best_run(tmp_path, monkeypatch):
    rows = written(tmp_path, monkeypatch, lambda o: {CLIP: 110.0, NEITHER: 10.0}.get(kind(o), 60.0))
    (scores,) = (row["numbers"]["scores"] for row in rows if "scores" in row["numbers"])
    assert scores[CLIP] == [1.0] * 6
    assert scores[NEITHER] == [0.0] * 6


def test_the_exact_rows_hold(tmp_path):
    assert surrogates(tmp_path)[3] is True
    assert first_step()[3] is True
    assert (tmp_path / "surrogates.png").stat().st_size > 5_000


def test_an_optimistic_clip_is_not_a_lower_bound(tmp_path, monkeypatch):
    """The minimum of costs in the place of their maximum."""

    def combine(self, weight, credit):
        return torch.minimum(weight * credit, weight.clamp(1 - self.clip, 1 + self.clip) * credit)

    monkeypatch.setattr(run.Clipped, "combine", combine)
    assert surrogates(tmp_path)[3] is False


def test_the_objectives_are_sums_over_states_and_actions():
    process, theta = case()
    old, new = theta.softmax(-1), (theta + 1.0 * torch.arange(12.0).view(4, 3).sin()).softmax(-1)
    found = objectives(process, old, new)
    visits, advantage = (1 - process.gamma) * process.visits(old), process.advantage(old)
    assert float(found["conservative"]) == pytest.approx(float((visits[:, None] * new * advantage).sum()))
    ratio = new / old
    pessimistic = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    assert float(found["clipped"]) == pytest.approx(float((visits[:, None] * old * pessimistic).sum()))
    assert float(found["clipped"]) < float(found["conservative"])


def test_settings_that_make_no_sense_are_refused(capsys):
    for wrong, says in (
        (["--steps", "5000"], "8192 or more"),
        (["--seeds", "1"], "2 seeds"),
        (["--workers", "0"], "at least 1"),
    ):
        assert paper(["schulman2017_ppo", *wrong]) == 2
        assert says in capsys.readouterr().err
