"""The tasks with a known optimum: their best returns are what they say, and a reduced set is solved."""

from __future__ import annotations

import itertools
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from gymnasium import spaces

from benchmarks.closed_form import WORLDS, Found, Row, page, recorded, solutions, solve, table, whole


@pytest.fixture(autouse=True)
def _single() -> None:
    torch.set_default_dtype(torch.float32)  # put back by the suite's own fixture


@pytest.mark.parametrize("world", WORLDS)
def test_the_best_return_is_that_of_the_best_of_all_policies(world: str) -> None:
    """Every sequence of two choices, after a few resets; of a range, 201 actions from end to end."""
    env_id, arguments, _ = WORLDS[world]
    env = gym.make(env_id, disable_env_checker=True, **arguments).unwrapped
    space, best = env.action_space, []
    if isinstance(space, spaces.Box):
        plans = [[space.low + (space.high - space.low) * k / 200] for k in range(201)]
    else:
        plans = [list(plan) for plan in itertools.product(range(2), repeat=2)]
    for seed in range(4):
        found = []
        for plan in plans:
            env.reset(seed=seed)
            total = 0.0
            for action in plan:
                _, reward, terminated, truncated, _ = env.step(action)
                total += float(reward)
                if terminated or truncated:
                    break
            assert terminated or truncated
            found.append(total)
        best.append(max(found))
    assert best == pytest.approx([env.best] * 4, abs=1e-4)


@pytest.mark.parametrize(
    ("agent", "world", "steps"),
    [
        ("reinforce", "bandit + 100", 2000),
        ("reinforce", "leave", 4000),
        ("dqn", "bandit", 1000),
        ("td3", "aim, asymmetric", 1000),
    ],
)
def test_a_reduced_set_is_solved(agent: str, world: str, steps: int) -> None:
    row = solve(agent, world, steps=steps)
    assert row is not None and row.solved, row


def test_an_agent_without_use_for_the_actions_has_no_row() -> None:
    assert solve("td3", "bandit") is None


def test_what_is_missed_is_bold_and_counted() -> None:
    rows = [Row("ppo", "aim", -0.05, 0.0, 1.0, 1.0), Row("ppo", "bandit", 0.5, 1.0, 1.0, 1.0)]
    found: Found = {(row.agent, row.world): row for row in rows} | {("td3", "bandit"): None, ("td3", "aim"): rows[0]}
    found["a2c", "aim"] = rows[0]  # and not yet on the bandit: no row
    assert "| ppo | **0.50** | 0.05 |\n| td3 | – | 0.05 |" in table(whole(found))
    shown = page(found, "python -m benchmarks.closed_form")
    assert "2 of 3. Missed, and bold: ppo on bandit." in shown and "| a2c |" not in shown
    assert "`a2c`" in shown[shown.index("Not run") :]


def test_a_table_that_was_stopped_goes_on_from_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record, done = tmp_path / "rows", []

    def solves(name: str, world: str) -> Row | None:
        done.append(world)
        return None if world == "aim" else Row(name, world, 1.0, 1.0, 1.0, 0.5)

    monkeypatch.setattr("benchmarks.closed_form.solve", solves)
    list(solutions(["ppo"], ["bandit", "aim"], record))
    *_, found = solutions(["ppo"], ["bandit", "aim", "corridor"], record)
    assert done == ["bandit", "aim", "corridor"]
    assert (
        found == recorded(record)
        and found["ppo", "aim"] is None
        and found["ppo", "bandit"] == Row("ppo", "bandit", 1, 1, 1, 0.5)
    )
