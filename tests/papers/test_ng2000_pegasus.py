"""PEGASUS: the gridworld's values against linear algebra, gradients against quadrature, flights against what is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from scg.agents.environments.helicopter import STEPS, Helicopter
from scg.agents.environments.helicopter_view import SIDE, axes
from scg.agents.search.controllers import HAND
from scg.papers.cli import paper
from scg.papers.learning import Learned
from scg.papers.ng2000_pegasus import gradients, gridworld, hover, run
from scg.papers.ng2000_pegasus.gridworld import GAMMA, GOAL, OBS, PLAIN, SCRAMBLED, SQUARES, WORST

FEW = np.array([0, 4165, 20000, 12345])


def test_the_model_has_the_law_of_the_process_and_a_wrong_one_is_told_apart() -> None:
    exact = gridworld.transition()
    assert np.allclose(exact.sum(-1), 1.0)
    for shift in (PLAIN, SCRAMBLED):
        assert np.abs(gridworld.law(shift) - exact).max() < 1e-12
    assert np.abs(gridworld.law(PLAIN) - exact[:, ::-1]).max() > 0.1


def test_there_are_eight_observations_before_the_goal() -> None:
    assert len(set(OBS[:GOAL].tolist())) == 8


def by_matrices(policy: int) -> float:
    """The value of a policy from powers of its chain's matrix."""
    moves = np.array([policy // 4**o % 4 for o in range(8)])
    step = gridworld.transition()[np.arange(SQUARES), moves[OBS]]
    occupied, total = np.eye(SQUARES)[0], 0.0
    for t in range(gridworld.STEPS):
        total -= GAMMA**t * occupied[:GOAL].sum()
        occupied = occupied @ step
    return total


def test_values_of_policies_are_those_of_their_chains() -> None:
    for policy, value in zip(FEW.tolist(), gridworld.exact(FEW).tolist(), strict=True):
        assert value == pytest.approx(by_matrices(policy), abs=1e-9)
        assert -WORST <= value <= 0


def test_scenarios_give_a_policys_value_without_bias() -> None:
    exact, count = gridworld.exact(FEW), 400
    for shift in (PLAIN, SCRAMBLED):
        each = np.stack([gridworld.on_scenarios(1, seed, shift, FEW) for seed in range(count)])
        error = each.std(0, ddof=1) / count**0.5
        assert (np.abs(each.mean(0) - exact) < 4.5 * error + 1e-9).all()


def test_one_scenario_is_one_function_of_the_policy() -> None:
    one, same, other = (gridworld.on_scenarios(2, seed, policies=FEW) for seed in (3, 3, 4))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_the_quadrature_is_exact_and_has_the_derivatives_limit() -> None:
    x, w = np.polynomial.hermite_e.hermegauss(9)
    nodes = np.stack(np.meshgrid(x, x, x, indexing="ij"), -1).reshape(-1, 3)
    mass = np.einsum("i,j,k->ijk", w, w, w).ravel() / w.sum() ** 3
    value = gradients.utility(0.7, nodes)
    known = gradients.exact(0.5, 0.2)
    variance = {t: float(mass @ (u := gradients.utility(t, nodes)) ** 2 - (mass @ u) ** 2) for t in (0.3, 0.7)}
    assert known["fresh"] == pytest.approx((variance[0.3] + variance[0.7]) / 0.16)
    assert np.isfinite(value).all()
    one, other = gradients.exact(0.5, 1e-3), gradients.exact(0.5, 1e-4)
    assert one["fixed"] == pytest.approx(other["fixed"], rel=1e-5)
    assert other["fresh"] == pytest.approx(100 * one["fresh"], rel=1e-4)


def test_the_rows_verdict_fails_where_fixed_noise_is_not_fixed(monkeypatch) -> None:
    settings = run.Settings()
    assert run.exact_variance(settings)[3] is True
    fresh = gradients.drawn

    def never_fixed(theta, h, draws, seed):
        found = fresh(theta, h, draws, seed)
        return {"fresh": found["fresh"], "fixed": found["fresh"]}

    monkeypatch.setattr(gradients, "drawn", never_fixed)
    assert run.exact_variance(settings)[3] is False


def test_gradients_of_the_helicopter_repeat_and_differ_by_their_winds() -> None:
    found = gradients.helicopter("common", 0.005, 2, 0, slots=48)
    assert found.shape == (2, 12)
    assert not np.array_equal(found[0], found[1])
    assert gradients.total_variance(np.array([[0.0, 2.0], [2.0, 2.0]])) == 2.0


def test_flights_are_measured_from_the_target_and_crashes_are_far() -> None:
    at, free = (hover.distances(np.array(HAND), [5], at_target=kind)[:, 0] for kind in (True, False))
    assert at.shape == (STEPS,)
    assert at[0] < 0.05 < 0.3 < free[0]
    env = Helicopter()
    env.reset(seed=5)
    assert free[0] == pytest.approx(np.linalg.norm(env.state[:3]), abs=0.1)
    assert hover.distances(np.zeros(12), [5], at_target=True)[-1, 0] >= 10 * hover.NEAR
    assert hover.Flights([0.4, 0.6], [0.1, 0.2]).counts == (1, 2)


def test_the_helicopter_draws_itself() -> None:
    env = Helicopter(render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    assert first.shape == (SIDE, 2 * SIDE, 3) and first.dtype == np.uint8
    env.step(np.array([0.2, 0.0, 0.0, 0.0]))
    assert not np.array_equal(first, env.render())
    assert np.allclose(axes(np.array([1.0, 0, 0, 0])), np.eye(3))
    assert np.allclose(axes(np.array([np.sqrt(0.5), 0, 0, np.sqrt(0.5)]))[0], [0, 1, 0])  # turned to the east
    check_env(env)


def runs(held: dict[str, float], cost: dict[str, float]):
    """In place of `learn_all`."""

    def learn_all(wanted, workers, say, keep=""):
        return {
            (name, seed): Learned([1.0], [0.0], [], -cost[name], 1.0, [(1e5, -200.0), (1e6, -cost[name])], seen)
            for name, seed in wanted
            for seen in [{"theta": [0.0] * 12, "held": [held[name]] * 20, "settled": [held[name]] * 20}]
        }

    return learn_all


def told(tmp_path, monkeypatch, held, cost, *more: str) -> dict[str, dict]:
    monkeypatch.setattr(run, "learn_all", runs(held, cost))
    monkeypatch.setattr(gridworld, "ALL", gridworld.ALL[5::64])
    monkeypatch.setattr(run, "SCENARIOS", (1, 4))
    monkeypatch.setattr(run, "STEPS_H", (0.02, 0.005))
    rough = {"fresh": 100.0, "common": 1.0}
    monkeypatch.setattr(
        gradients,
        "helicopter",
        lambda kind, h, count, seed: rough[kind] / h * np.random.default_rng(0).normal(size=(count, 12)),
    )
    assert paper(["ng2000_pegasus", "--trials", "2", *more, "--out", str(tmp_path)]) in (0, 1)
    rows = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["rows"]
    return {row["claim"]: row for row in rows}


def test_the_report_says_who_hovers(tmp_path, monkeypatch) -> None:
    names = list(hover.METHODS)
    monkeypatch.setattr(hover, "by_hand", lambda: hover.Flights([0.1, 0.6], [0.7, 0.7]))
    good = told(tmp_path, monkeypatch, dict.fromkeys(names, 0.4), {n: 90.0 if "fresh" in n else 60.0 for n in names})
    assert len(good) == 6 + len(names) + 2
    three = good["Hovers within half a metre for 60 s in 20 winds of 20, by three methods or more"]
    assert three["verdict"] == "reproduced"
    assert three["ours"].endswith("all start from: 1, and 0 from a metre away")
    assert (tmp_path / "hover.png").stat().st_size > 10_000


def test_some_methods_are_trained_again_and_all_fly_again(tmp_path, monkeypatch, capsys) -> None:
    names = list(hover.METHODS)
    monkeypatch.setattr(hover, "by_hand", lambda: hover.Flights([0.1, 0.6], [0.7, 0.7]))
    assert paper(["ng2000_pegasus", "--only", "ES", "--out", str(tmp_path)]) == 2
    assert "has no results of which some could be kept" in capsys.readouterr().err
    before = told(tmp_path, monkeypatch, dict.fromkeys(names, 0.4), dict.fromkeys(names, 60.0))
    monkeypatch.setattr(hover, "flights", lambda theta: hover.Flights([0.1] * 19 + [0.7], [0.1] * 20))
    after = told(tmp_path, monkeypatch, dict.fromkeys(names, 0.3), dict.fromkeys(names, 50.0), "--only", "ES; CEM")
    assert list(before) == list(after)
    flights = {name: after[run.title(name, run.Settings())]["ours"] for name in names}
    assert all((": 20 (seeds" in text and "minute 50" in text) == (name in ("ES", "CEM")) for name, text in flights.items())
    assert ": 19 (seeds" in flights["CMA-ES"] and "minute 60" in flights["CMA-ES"]
    for claim in before:
        if "Section" in claim or "Theorem" in claim:
            assert before[claim] == after[claim]


def test_two_methods_that_hover_are_not_three() -> None:
    def flown(distance: float) -> Learned:
        return Learned([1.0], [0.0], [], -60.0, 1.0, seen={"held": [distance] * 20, "settled": [distance] * 20})

    found = {"ES": [flown(0.4), flown(0.4)], "CEM": [flown(0.4), flown(0.6)], "CMA-ES": [flown(0.4), flown(0.4)]}
    _, _, text, right, numbers = run.three(found)
    assert not right
    assert numbers["every seed"] == ["ES", "CMA-ES"] and numbers["some seed"] == ["ES", "CEM", "CMA-ES"]
    assert text.startswith("20 of 20 in every run: ES, CMA-ES; in some run: ES, CEM, CMA-ES;")


def test_settings_that_make_no_sense_are_refused(capsys) -> None:
    assert paper(["ng2000_pegasus", "--trials", "1"]) == 2
    assert "--trials 1: give at least 2" in capsys.readouterr().err
    assert paper(["ng2000_pegasus", "--only", "grid"]) == 2
    assert "--only grid: there is no method 'grid'" in capsys.readouterr().err
    assert paper(["ng2000_pegasus", "--helicopter_seeds", "0"]) == 2
