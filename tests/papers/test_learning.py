"""Training for papers: a short run, and what differences are called."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from scg.agents.training.run_directory import RunDirectory, RunError
from scg.papers import learning
from scg.papers.learning import CONTRARY, UNDECIDED, Learned, clearly_more, kept, learn, learn_all
from scg.papers.report import collect


@pytest.fixture
def single():
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(torch.float64)


@pytest.mark.usefixtures("single")
def test_a_run_is_its_seeds():
    """CartPole's preset with an option changed; the same seed gives the same numbers."""
    runs = {
        seed: {"agent": "trpo", "env": "CartPole-v1", "steps": 512, "seed": seed, "episodes": 1, "horizon": 32}
        for seed in (0, 1)
    }
    found = learn_all(runs, 1, lambda what, done: None)
    again = learn(**runs[0])
    assert found[0].steps == [256.0, 512.0]
    assert (found[0].returns, found[0].kl, found[0].final) == (again.returns, again.kl, again.final)
    assert found[0].returns != found[1].returns
    assert all(0 <= kl <= 0.01 for kl in found[0].kl)


def test_the_mean_along_a_run_starts_at_its_first_episode():
    run = Learned([1.0, 2.0, 3.0], [math.nan, 10.0, 30.0], [], 25.0, 1.0)
    assert run.along == 20.0
    assert run.last == 30.0
    assert math.isnan(Learned([1.0], [math.nan], [], 0.0, 1.0).along)


def test_a_difference_is_one_beyond_two_standard_errors():
    noise = [-1.0, 0.0, 1.0, 0.0]  # standard error √(2/3)/2 = 0.41
    assert clearly_more([1.0 + n for n in noise], [0.0] * 4) is True
    assert clearly_more([-1.0 + n for n in noise], [0.0] * 4) == CONTRARY
    assert clearly_more([0.8 + n for n in noise], [0.0] * 4) == UNDECIDED
    assert clearly_more([100.0], [0.0]) == UNDECIDED  # one pair has no standard error


# -- runs that are kept ----------------------------------------------------------------------------------------------

SHORT: dict[str, Any] = {"agent": "ddpg", "env": "Pendulum-v1", "steps": 60, "seed": 3, "episodes": 1, "points": 3}
OPTIONS: dict[str, Any] = {"warmup": 20, "batch": 4, "report": 10, "hidden": (8,), "tau": 1.0}
NAME = "ddpg-Pendulum-v1-60-seed3-batch=4-hidden=(8,)-report=10-tau=1.0-warmup=20"


def learned(keep: Path | str = "", **changes: Any) -> Learned:
    return learn(**{**SHORT, **OPTIONS, **changes}, keep=str(keep))


def steps_saved(run: RunDirectory) -> list[int]:
    return [int(path.stem.removeprefix("step-")) for path in run.checkpoints.paths()]


def never(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("trained again")


@pytest.mark.usefixtures("single")
def test_a_kept_run_is_read_and_not_trained_again(tmp_path, monkeypatch):
    first = learned(tmp_path, look=steps_saved)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert [step for step, _ in first.evaluations] == [20.0, 40.0, 60.0]
    assert first.final == first.evaluations[-1][1]
    assert first.seen == [0, 20, 40, 60]
    assert first.kl == []
    monkeypatch.setattr(learning, "train", never)
    again = learned(tmp_path, episodes=7, points=1)
    assert (again.steps, again.evaluations, again.final) == (first.steps, first.evaluations, first.final)
    assert str(again.returns) == str(first.returns)  # the first are NaN: no episode has ended
    with pytest.raises(AssertionError, match="trained again"):
        learned(tmp_path, seed=4)


@pytest.mark.usefixtures("single")
def test_an_interrupted_run_goes_on_where_it_was_and_ends_as_if_it_had_not_been(tmp_path):
    whole = learned(tmp_path / "whole")
    learned(tmp_path / "part", points=2)
    path = tmp_path / "part" / NAME
    (path / "curve.png").unlink()  # killed at step 30: nothing of what came after
    for file in path.glob("checkpoints/step-*60.pt"):
        file.unlink()
    evaluations = (path / "evaluations.csv").read_text().splitlines(keepends=True)
    (path / "evaluations.csv").write_text("".join(evaluations[:2]))
    again = learned(tmp_path / "part")
    assert (again.steps, again.final) == (whole.steps, whole.final)
    assert [step for step, _ in again.evaluations] == [30.0, 60.0]


@pytest.mark.usefixtures("single")
def test_a_run_that_was_killed_before_it_saved_begins_again(tmp_path):
    whole = learned(tmp_path)
    path = tmp_path / NAME
    for file in [path / "curve.png", path / "evaluations.csv", *path.glob("checkpoints/*")]:
        file.unlink()
    assert learned(tmp_path).final == whole.final


@pytest.mark.usefixtures("single")
def test_another_run_under_the_same_name_is_refused(tmp_path, monkeypatch):
    learned(tmp_path)
    file = tmp_path / NAME / "config.json"
    content = json.loads(file.read_text())
    content["config"]["gamma"] = 0.5
    file.write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"its gamma is 0.5, the paper's 0.99. Move it away, or .* another folder with --runs"):
        learned(tmp_path)


def test_where_runs_are_kept_is_no_part_of_the_results():
    @dataclass(frozen=True)
    class Settings:
        steps: int = 3
        runs: str = kept()

    assert collect("a_paper", Settings(runs="somewhere"), [], lambda what, done: None).settings == {"steps": 3}


@pytest.mark.usefixtures("single")
def test_runs_on_two_workers_have_the_numbers_of_one_after_the_other() -> None:
    runs = {seed: {**SHORT, "seed": seed} for seed in (0, 1)}
    here, there = (learn_all(runs, workers, lambda what, done: None) for workers in (1, 2))
    for seed in runs:
        assert repr((here[seed].returns, here[seed].final)) == repr(
            (there[seed].returns, there[seed].final)
        )  # NaN is not itself
    assert here[0].final != here[1].final
