"""Hindsight's chances, exactly; and the report on runs whose success is known."""

from __future__ import annotations

import itertools
import json

import gymnasium as gym
import numpy as np
import pytest
import torch

from scg.agents.experience.hindsight import Hindsight
from scg.papers.andrychowicz2017_her import exact, run, runs
from scg.papers.andrychowicz2017_her.runs import (
    ARM,
    BITS,
    COMPARED,
    MULTIPLES,
    WITH,
    budget,
    looked,
    on_bits,
    planned,
    shortest,
)
from scg.papers.cli import paper
from scg.papers.learning import CONTRARY, UNDECIDED, Learned, learn
from scg.papers.report import FAILED, REFUTED, REPRODUCED

ARGUMENTS = ["--bits", "20", "--fetch", "6000"]


# -- chance ----------------------------------------------------------------------------------------------------------


def test_the_chance_of_a_random_episode_is_the_sum_over_all_of_them():
    """3 bits: every goal but the start, every sequence of three flips."""
    met = 0
    for goal in range(1, 8):
        for flips in itertools.product((1, 2, 4), repeat=3):
            seen = list(itertools.accumulate(flips, lambda state, bit: state ^ bit))
            met += goal in seen
    assert exact.chance(3) == pytest.approx(met / (7 * 27), rel=1e-12)


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4])
def test_a_walk_returns_as_often_as_all_walks_say(steps):
    walks = list(itertools.product((1, 2, 4, 8), repeat=steps))
    back = sum(not np.bitwise_xor.reduce((0, *walk)) for walk in walks)
    assert exact.returns(4, steps) == pytest.approx(back / len(walks), abs=1e-15)


def test_the_exact_rows_hold(monkeypatch):
    assert exact.rarity((4, 8, 20))[3] is True
    assert exact.half(8)[3] is True
    assert exact.truth()[3] is True
    assert exact.shares(20, rows=5000, episodes=100)[3] is True


def test_hindsight_that_keeps_the_old_reward_is_caught(monkeypatch):
    right = Hindsight.relabelled
    monkeypatch.setattr(Hindsight, "relabelled", lambda self, index, goal: {**right(self, index, goal), "reward": self.rows(index)["reward"]})  # fmt: skip
    assert exact.truth()[3] is False
    assert exact.half(8)[3] is False
    assert exact.shares(20, rows=2000, episodes=50)[3] is False


def test_goals_of_the_past_are_caught(monkeypatch):
    """`future` drawn like `episode`."""
    monkeypatch.setattr(exact, "share", lambda n, s, e, of=exact.share: of(n, "episode" if s == "future" else s, e))
    assert exact.shares(20, rows=2000, episodes=50)[3] is False


# -- tasks -----------------------------------------------------------------------------------------------------------


def test_one_goal_is_always_the_same_and_a_shaped_reward_is_the_distance():
    one = gym.make("OneGoalReach-v0")
    assert len({tuple(one.reset(seed=seed)[0]["desired_goal"]) for seed in range(5)}) == 1
    shaped = gym.make("ShapedReach-v0").unwrapped
    achieved, desired = np.array([[0.0, 0.0], [0.3, 0.4]]), np.array([[0.3, 0.4], [0.3, 0.4]])
    assert shaped.compute_reward(achieved, desired, {}) == pytest.approx([-0.25, 0.0])


def test_the_shortest_way_costs_a_step_less_than_its_length():
    assert [shortest(d, 0.5) for d in (1, 2, 3)] == [0.0, -1.0, -1.5]


def test_budgets_grow_with_the_square_beyond_ten_bits():
    assert [budget(n, 6000) for n in (4, 10, 20)] == [6000, 6000, 24_000]


def test_every_planned_run_is_one_that_its_agent_has():
    from scg.agents import config_type

    plan = planned(50, 6000, 6000, 0)
    assert len({str(sorted(options.items(), key=str)) for options in plan.values()}) == len(plan)
    for options in plan.values():
        kept = {"agent", "env", "steps", "episodes"}
        config_type(options["agent"])(**{key: value for key, value in options.items() if key not in kept})
        assert options["env"] in gym.registry


def test_what_is_looked_at_is_success_and_the_last_critics_values():
    torch.set_default_dtype(torch.float32)
    options = {"warmup": 50, "hidden": (8,), "batch": 8, "report": 50, "her": "future", "horizon": 4, "updates": 1}
    found = learn("dqn", "BitFlip4-v0", 120, 0, episodes=3, points=2, look=looked, **options)
    assert [step for step, _ in found.seen["success"]] == [step for step, _ in found.evaluations]
    assert all(0 <= share <= 1 for _, share in found.seen["success"])
    assert len(found.seen["values"]) == 4
    assert np.isfinite(found.seen["values"]).all()


# -- the report ------------------------------------------------------------------------------------------------------


def like_the_paper(how, options) -> float:
    if options["env"] == "ShapedReach-v0" or how is None:
        return 1.0 if options["env"] in ("BitFlip4-v0", "BitFlip8-v0", "BitFlip10-v0") else 0.0
    if options["env"] == "OneGoalReach-v0":
        return 0.7
    if how != "future" or options.get("her_k", 4) not in (4, 8):
        return 0.5
    return 1.0


def unlike_the_paper(how, options) -> float:
    """Without hindsight all is learned, with it little; random goals and many of them are best."""
    if options["env"] == "OneGoalReach-v0":
        return 0.9 if how else 1.0
    best = how in (None, "random") or options.get("her_k") == 64
    return 1.0 if best else 0.3


def written(tmp_path, monkeypatch, value, arm=True, draw=False):
    def learn_all(wanted, workers, say, keep="", executor="local"):
        return {key: known(value(run.get("her"), run), run["seed"]) for key, run in wanted.items()}

    def known(share, seed):
        success = [(1000.0, 0.5 * share + 0.001 * seed), (2000.0, share)]
        return Learned([1000.0, 2000.0], [-1.0, -1.0], [], -1.0, 1.0, [], {"success": success, "values": [0.0, -1.0]})

    monkeypatch.setattr(runs, "learn_all", learn_all)
    monkeypatch.setattr(runs, "robotics", lambda: arm)
    monkeypatch.setattr(run, "right_values", lambda runs, bits: ("values", "", "", "measured", {}))
    monkeypatch.setattr(exact, "shares", lambda bits: ("shares", "", "", True, {}))
    if not draw:
        monkeypatch.setattr(run, "draw", lambda *arguments: None)
    code = paper(["andrychowicz2017_her", *ARGUMENTS, "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["rows"]
    return code, {row["claim"]: row["verdict"] for row in rows}


def of(verdicts, text):
    (found,) = (v for claim, v in verdicts.items() if text in claim)
    return found


LEARNED = ("up to 50 bits", "4.2, Figure 3", "on the arm", "Figure 4", "several goals, even", "Figure 5",
           "strategy future", "k = 4 or 8")  # fmt: skip


def test_runs_like_the_papers_are_called_reproduced(tmp_path, monkeypatch):
    code, verdicts = written(tmp_path, monkeypatch, like_the_paper, draw=True)
    assert code == 0
    assert len(verdicts) == 4 + sum(n <= 20 for n in BITS) + 9
    assert {text: of(verdicts, text) for text in LEARNED} == dict.fromkeys(LEARNED, REPRODUCED)
    assert (tmp_path / "success.png").stat().st_size > 20_000


def test_runs_unlike_the_papers_are_not(tmp_path, monkeypatch):
    _, verdicts = written(tmp_path, monkeypatch, unlike_the_paper)
    found = {text: of(verdicts, text) for text in LEARNED}
    assert found.pop("Figure 5") == UNDECIDED  # one learns it, the other does not
    assert found == dict.fromkeys(found, CONTRARY)
    assert FAILED not in verdicts.values()


def test_a_shaped_reward_that_is_learned_refutes(tmp_path, monkeypatch):
    _, verdicts = written(tmp_path, monkeypatch, lambda how, options: 1.0, arm=False)
    assert of(verdicts, "Figure 5") == REFUTED
    assert of(verdicts, "on the arm") == "not run"
    assert of(verdicts, "strategy future") == UNDECIDED


def test_what_is_compared_is_among_what_is_run():
    plan = planned(COMPARED, 6000, 6000, 0)
    assert {(on_bits(COMPARED), runs.replayed("future", k)) for k in MULTIPLES} <= plan.keys()
    assert (on_bits(COMPARED), WITH) in plan
    assert (ARM, WITH) not in plan


def test_settings_that_make_no_sense_are_refused(capsys):
    for wrong, says in (
        (["--bits", "8"], "compared on 10"),
        (["--steps", "500"], "at least 1000"),
        (["--fetch", "100"], "1500 or 0"),
        (["--seeds", "1"], "2 seeds"),
        (["--workers", "0"], "at least 1"),
    ):
        assert paper(["andrychowicz2017_her", *wrong]) == 2
        assert says in capsys.readouterr().err
