"""Baselines on small processes: exact means and variances against sums by hand, and a wrong baseline that is caught."""

from __future__ import annotations

import json

import pytest
import torch

from scg.papers.cli import paper
from scg.papers.greensmith2004_baselines import run
from scg.papers.greensmith2004_baselines import whole_episodes as whole
from scg.papers.greensmith2004_baselines.run import Lab, excess, mean, process_and_policy
from scg.papers.greensmith2004_baselines.samples import BEST, BEST_OF_STATE, EACH, EACH_OF_STATE, MEAN, NONE, VALUE, Samples
from scg.papers.report import FAILED, REPRODUCED
from scg.testing.tabular import every_path


@pytest.fixture(scope="module")
def lab():
    return Lab()


def test_a_short_run_reproduces_what_is_exact(tmp_path, monkeypatch, lab):
    monkeypatch.setattr(run, "Lab", lambda: lab)
    arguments = ["--draws", "3000", "--processes", "5", "--runs", "20", "--steps", "10", "--seed", "1", "--out", str(tmp_path)]
    paper(["greensmith2004_baselines", *arguments])
    rows = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["rows"]
    verdicts = [row["verdict"] for row in rows]
    assert verdicts[:8] == [REPRODUCED] * 8
    assert verdicts[8] in (REPRODUCED, FAILED)  # ten steps need not tell
    assert (tmp_path / "variances.png").stat().st_size > 10_000


def test_no_level_of_the_state_does_better_than_the_best(lab):
    """The optimum is one: every other level, in any direction, has more variance."""
    samples = lab.samples
    best = samples.levels()[BEST_OF_STATE]
    least = samples.variance_at(best)
    for s in range(3):
        for step in (-0.05, 0.05):
            assert samples.variance_at(best + step * (samples.states == s)) > least + 1e-6


def test_the_order_of_the_baselines(lab):
    v = {name: lab.variance(name) for name in lab.moments}
    assert v[BEST] <= v[MEAN]
    assert v[BEST_OF_STATE] <= v[VALUE]
    assert v[EACH] < v[BEST]
    assert v[EACH_OF_STATE] < v[BEST_OF_STATE] < v[NONE]


def test_the_graphs_gradient_is_the_score_times_the_cost_less_the_level(lab):
    samples = lab.samples
    for name, level in samples.levels().items():
        assert torch.allclose(samples.each(level), samples.scores * (samples.costs - level).unsqueeze(-1), atol=1e-12), name


def test_a_baseline_that_reads_the_action_is_caught(lab, monkeypatch):
    """The mean moves, and the row says so."""
    samples = lab.samples
    peeking = samples.each(0.5 * samples.actions.double())
    monkeypatch.setitem(lab.moments, "reads the action", samples.moments(peeking))
    assert mean(lab)[3] is False
    monkeypatch.undo()
    assert mean(lab)[3] is True


def test_a_level_that_is_not_the_best_is_caught(lab, monkeypatch):
    own = Samples.levels
    monkeypatch.setattr(Samples, "levels", lambda self: {**own(self), BEST_OF_STATE: own(self)[VALUE]})
    assert excess(lab)[3] is False


def test_the_levels_of_whole_episodes_are_conditional_means(lab):
    """V_t(s) and the optimal b_t(s) against sums over all episodes."""
    process, theta = process_and_policy(3)
    pi = theta.softmax(-1)
    paths = every_path(process, pi, 2)
    to_go = -paths.rewards.flip(0).cumsum(0).flip(0)
    for t in range(2):
        for s in range(3):
            here = paths.states[t] == s
            p = paths.p[here]
            square = 1 - 2 * pi[s, paths.actions[t, here]] + pi[s].square().sum()
            for kind, weight in ((VALUE, p), (BEST_OF_STATE, p * square)):
                by_hand = (weight @ to_go[t, here]) / weight.sum()
                assert float(whole.levels(kind, process, pi[None], 2)[0, t, s]) == pytest.approx(float(by_hand), abs=1e-12)


def test_the_joint_level_is_a_minimum_over_whole_episodes(lab):
    level, least = lab.levels[whole.JOINT], lab.of_episodes[whole.JOINT][1]
    for t, s in ((0, 0), (1, 2)):
        for step in (-0.05, 0.05):
            other = level.clone()
            other[0, t, s] += step
            assert lab.paths.variance(whole.each(lab.paths, lab.theta, other)) > least + 1e-6


def test_settings_that_make_no_sense_are_refused(capsys):
    assert paper(["greensmith2004_baselines", "--draws", "5"]) == 2
    assert "at least 100" in capsys.readouterr().err
    assert paper(["greensmith2004_baselines", "--steps", "0"]) == 2
