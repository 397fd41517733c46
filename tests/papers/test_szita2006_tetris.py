"""Noisy cross-entropy on Tetris: the compiled games are the environment's, the search is the agent's, the order is told apart."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Generator

from scg.agents.environments import envs
from scg.agents.experience.rollout import Rollout
from scg.papers.cli import paper
from scg.papers.learning import CONTRARY, UNDECIDED
from scg.papers.szita2006_tetris import games, run
from scg.papers.szita2006_tetris.games import Course, config, course


def test_the_search_is_the_agents_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(noise: games.Noise) -> games.CEM:
        return games.CEM(
            population=10, elite=0.3, noise=noise, noise_variance=5.0, policy="scores", scale=10.0, scenarios="fresh"
        )

    monkeypatch.setattr(games, "config", small)
    found = course("decreasing", 10, seed=0, generations=2, every=1, judged=2)
    with envs.make("TetrisSmall-v0", 10) as vector:
        agent = small("decreasing").build(vector.obs_space, vector.action_space, Generator().manual_seed(0))
        rollout = Rollout(vector, list(range(10)), Generator().manual_seed(0))
        spent = 0
        for _ in range(2):
            generation = agent.collect(rollout, 1)
            spent += generation.steps
            agent.update(generation, 0.0)
    assert torch.equal(agent.policy.theta, torch.from_numpy(found.theta))
    assert found.points[-1][:2] == (2, spent)


def test_the_hyperparameters_are_the_papers_and_the_presets() -> None:
    from scg.agents.training.presets import preset

    chosen, known = config("decreasing"), preset("cem", "Tetris-v0", 1000).agent
    assert {name: getattr(chosen, name) for name in known} == known
    assert [chosen.extra(t) for t in (0, 10, 50, 60)] == pytest.approx([5.0, 4.0, 0.0, 0.0])
    assert config("constant").extra(70) == 4.0 and config("none").extra(0) == 0.0
    assert chosen.elite_members == 10


def test_a_budget_ends_a_run_which_is_judged_a_last_time() -> None:
    found = course("none", 10, seed=0, generations=5, every=10, judged=2, budget=1)
    assert [point[0] for point in found.points] == [1]


def fake(final: dict[str, float]):
    def course(noise, height, seed, generations, every, judged, budget=0):
        scale = 0.01 if noise == "none" else 4.0
        return Course([(10, 100, 1.0, 0.1, scale), (20, 200, final[noise] + seed, 0.1, scale)], np.zeros(22))

    return course


@pytest.mark.parametrize(
    ("final", "verdicts"),
    [
        ({"none": 1.0, "constant": 10.0, "decreasing": 20.0}, ["reproduced", "reproduced"]),
        ({"none": 1.0, "constant": 30.0, "decreasing": 20.0}, ["reproduced", CONTRARY]),
        ({"none": 1.0, "constant": 1.0, "decreasing": 20.0}, [UNDECIDED, "reproduced"]),
    ],
)
def test_the_order_is_what_the_runs_say(tmp_path, monkeypatch, final, verdicts) -> None:
    monkeypatch.setattr(run, "course", fake(final))
    monkeypatch.setattr(run, "rates", lambda: ("speed", "", "", "measured", {}))
    paper(["szita2006_tetris", "--seeds", "2", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["rows"]
    assert [row["verdict"] for row in rows if " plays better than " in row["claim"]] == verdicts
    assert len(rows) == 10
    assert "% of the paper’s" in rows[-1]["ours"]
    assert (tmp_path / "lines.png").stat().st_size > 10_000


def test_settings_that_make_no_sense_are_refused(capsys) -> None:
    assert paper(["szita2006_tetris", "--seeds", "1"]) == 2
    assert "a standard error needs 2 seeds" in capsys.readouterr().err
    assert paper(["szita2006_tetris", "--placements", "-1"]) == 2
