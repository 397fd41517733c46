"""The credit paper's claims, all of which are sums; and that a wrong credit is not called reproduced."""

from __future__ import annotations

import json

import pytest
import torch

from scg.papers.cli import paper
from scg.papers.weber2019_credit import graphs
from scg.papers.weber2019_credit.graphs import NODES, THETA, Choice, choices, cost_to_go, gradient_critic, graph, outcomes
from scg.papers.weber2019_credit.run import Lab, exact, moments, scores, sets, wrong_sets
from scg.testing import exact_gradient

OF = outcomes()


def test_the_whole_paper_is_reproduced(tmp_path):
    out = tmp_path / "out"
    assert paper(["weber2019_credit", "--out", str(out)]) == 0
    written = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert len(written["rows"]) == 7
    assert {row["verdict"] for row in written["rows"]} == {"reproduced"}
    assert (out / "graph.png").stat().st_size > 3000


def test_a_quadrature_too_coarse_is_refused(capsys):
    assert paper(["weber2019_credit", "--points", "9"]) == 2
    assert "needs at least 10 points" in capsys.readouterr().err


def test_the_outcomes_are_all_of_them_and_the_objective_is_their_mean():
    assert float(OF.p.sum()) == pytest.approx(1.0, abs=1e-13)
    total = sum(cost(*(OF.values[n] for n in names)) for cost, names in ((graphs.c1, "sa"), (graphs.c2, "x"), (graphs.c3, "b")))
    assert float(OF.mean(total)) == pytest.approx(float(graphs.objective(THETA)), abs=1e-12)


def test_the_exact_gradient_is_that_of_finite_differences_and_of_the_librarys_oracle():
    step = 1e-5 * torch.eye(3)
    differences = torch.stack([graphs.objective(THETA + e) - graphs.objective(THETA - e) for e in step]) / 2e-5
    assert torch.allclose(exact(), differences, atol=1e-9)
    oracle = exact_gradient(graph(Choice("")), {"theta": THETA.clone().requires_grad_()})["theta"]
    assert torch.allclose(exact(), oracle, atol=1e-8)


def test_the_closed_forms_are_the_conditional_means():
    v = OF.values
    assert torch.allclose(graphs.value(v["x"]), OF.given(cost_to_go("x", OF), ("x",)))
    assert torch.allclose(graphs.action_value(v["s"], v["a"]), OF.given(cost_to_go("a", OF), ("s", "a")))
    assert torch.allclose(graphs.before(v["s"]), OF.given(cost_to_go("a", OF), ("s",)))
    assert torch.allclose(graphs.onwards(v["a"]), OF.given(cost_to_go("x", OF), ("a",)))


def test_the_variance_is_that_of_scores_times_costs_by_hand():
    ours = moments(graph(choices()["costs downstream"]), OF)
    by_hand = [scores(n, OF) * cost_to_go(n, OF) for n in NODES]
    assert torch.allclose(ours.variance, torch.stack([OF.mean(g**2) - OF.mean(g) ** 2 for g in by_hand]), rtol=1e-10)


def test_a_coarser_quadrature_gives_the_same_numbers():
    coarse, fine = (moments(graph(choices()["critics Q"]), outcomes(n)) for n in (60, 80))
    assert torch.allclose(coarse.mean, fine.mean, atol=1e-9) and torch.allclose(coarse.variance, fine.variance, rtol=1e-8)


def test_a_biased_credit_is_not_called_reproduced(monkeypatch):
    lab = Lab()
    assert lab.compare("", "", ["costs downstream", "critics Q"])[3] is True
    shifted = Choice("critics Q", {"x": "q_x"}, nodes={"q_x": lambda x: graphs.value(x) + 0.01 * x})
    lab.of["critics Q"] = moments(graph(shifted), OF)
    assert lab.of["critics Q"].total < lab.of["costs downstream"].total
    assert lab.compare("", "", ["costs downstream", "critics Q"])[3] is False
    assert moments(gradient_critic(lambda x: 1.01 * graphs.value(x))[1], OF).bias > 1e-3


def test_sets_that_are_not_listed_are_mostly_biased_and_refused():
    """The listing is no tautology: where it says nothing, the mean is off."""
    lab = Lab()
    found = sets(lab)[4]
    assert found["x"]["critics"][""] > 0.01 and found["x"]["critics"]["b"] > 0.1 and found["a"]["baselines"]["x"] > 0.01
    assert found["x"]["critics"]["x"] < 1e-9 < found["x"]["critics"]["a"]
    messages = list(wrong_sets(lab)[4]["messages"].values())
    assert "baseline" in messages[0] and "influence" in messages[0]
    assert "misses 'a', 'x'" in messages[1]
