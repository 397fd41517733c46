"""The training loop: run directories, resuming bit for bit, and stopping at the first NaN."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator

import scg
from scg.agents.common.agent import Agent
from scg.agents.execution.settings import EAGER, Execution
from scg.agents.experience import tensor_files
from scg.agents.experience.rollout import Block
from scg.agents.reinforce import Reinforce
from scg.agents.training import curves, loop, run_directory
from scg.agents.training.evaluation import evaluate
from scg.agents.training.loop import TrainingStopped
from scg.agents.training.run_directory import RunConfig, RunDirectory, RunError, read_table

SMALL = Reinforce(horizon=16, hidden=(16,))
SHORT = RunConfig(steps=1280, envs=4, evaluations=2, eval_episodes=3, checkpoints=5)


def new_run(path: Path, run: RunConfig = SHORT, agent: Any = SMALL) -> RunDirectory:
    return RunDirectory.create("reinforce", run, agent, path)


def last_state(run: RunDirectory) -> dict[str, Any]:
    return run.checkpoints.load_latest(pytest.fail)[1]


def assert_same(one: Any, other: Any, where: str = "") -> None:
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            if key != "seconds":
                assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    else:
        assert one == other, where


def test_a_run_directory_holds_what_the_result_depends_on_and_says(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    result = loop.train(run, quiet=True)
    assert len(result.returns) == 3
    names = {path.name for path in run.path.iterdir()}
    assert {
        "config.json",
        "versions.json",
        "metrics.csv",
        "evaluations.csv",
        "graph.dot",
        "graph.png",
        "curve.png",
    } <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert run.checkpoints.best.exists()
    assert len(run.checkpoints.paths()) == 2
    rows = read_table(run.path / "metrics.csv")
    assert [row["step"] for row in rows] == [64.0 * i for i in range(1, 21)]
    assert [row["step"] for row in read_table(run.path / "evaluations.csv")] == [640, 1280]
    again = RunDirectory.open(run.path)
    assert again.run == SHORT
    assert again.agent == SMALL
    assert again.changed_versions() == []


def test_the_same_seed_ends_in_the_same_bits(tmp_path: Path) -> None:
    states = []
    for name, run in (("a", SHORT), ("b", SHORT), ("c", RunConfig(**{**vars(SHORT), "seed": 1}))):
        directory = new_run(tmp_path / name, run)
        loop.train(directory, quiet=True)
        states.append(last_state(directory))
    assert_same(states[0], states[1])
    with pytest.raises(AssertionError):
        assert_same(states[0], states[2])


def test_how_often_it_evaluates_changes_nothing_in_the_training(tmp_path: Path) -> None:
    often = RunConfig(**{**vars(SHORT), "evaluations": 10})
    one, other = new_run(tmp_path / "a"), new_run(tmp_path / "b", often)
    loop.train(one, quiet=True), loop.train(other, quiet=True)
    assert_same(last_state(one)["agent"], last_state(other)["agent"])


class Killed(BaseException):
    """Nobody catches it, as nobody catches a kill."""


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env_id: str) -> None:
    config = RunConfig(**{**vars(SHORT), "env": env_id})
    whole, killed = new_run(tmp_path / "whole", config), new_run(tmp_path / "killed", config)
    loop.train(whole, quiet=True)
    update = loop._Training._update
    for i, last_update in enumerate((2, 11, 13, 17)):

        def die(self: Any, last: int = last_update) -> None:
            if self.counters.updates == last:
                raise Killed
            update(self)

        monkeypatch.setattr(loop._Training, "_update", die)
        with pytest.raises(Killed):
            loop.train(RunDirectory.open(killed.path), resume=i > 0, quiet=True)
    newest = killed.checkpoints.paths()[-1]
    newest.write_bytes(newest.read_bytes()[:500])  # as if the last save had been torn
    monkeypatch.setattr(loop._Training, "_update", update)
    loop.train(RunDirectory.open(killed.path), resume=True, quiet=True)
    assert_same(last_state(whole), last_state(killed))
    for table in ("metrics.csv", "evaluations.csv"):
        one, other = ([_timeless(row) for row in read_table(run.path / table)] for run in (whole, killed))
        assert one == other


def _timeless(row: dict[str, float]) -> dict[str, str]:
    return {key: repr(value) for key, value in row.items() if "second" not in key}


def test_a_process_killed_for_real_resumes_to_the_same_bits(tmp_path: Path) -> None:
    config = RunConfig(steps=12_800, envs=4, evaluations=1, eval_episodes=2, checkpoints=40)
    whole, killed = new_run(tmp_path / "whole", config), new_run(tmp_path / "killed", config)
    loop.train(whole, quiet=True)
    code = "import sys, pathlib; from scg.agents.training import loop, run_directory\n"
    code += "loop.train(run_directory.RunDirectory.open(pathlib.Path(sys.argv[1])))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(killed.path)], cwd=Path(scg.__file__).parents[1], stdout=subprocess.DEVNULL
    )
    while process.poll() is None and len(killed.checkpoints.paths()) < 2:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    loop.train(killed, resume=True, quiet=True)
    assert_same(last_state(whole), last_state(killed))


def test_environments_that_cannot_be_saved_start_afresh_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run(tmp_path / "run", RunConfig(**{**vars(SHORT), "env": "Counting-v0"}))
    loop.train(run, quiet=True)
    run.extend(1920)
    loop.train(run, resume=True)
    assert RunDirectory.open(run.path).run.steps == 1920
    said = capsys.readouterr().out
    assert "these environments cannot be saved; their episodes start afresh" in said
    assert "resumed from" in said
    assert read_table(run.path / "metrics.csv")[-1]["step"] == 1920


def test_a_finished_run_resumes_to_its_result(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    first, again = loop.train(run, quiet=True), loop.train(run, resume=True, quiet=True)
    assert first == again


def test_a_changed_library_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = new_run(tmp_path / "run")
    loop.train(run, quiet=True)
    versions = json.loads((run.path / "versions.json").read_text())
    run_directory.write_json(run.path / "versions.json", {**versions, "numpy": "1.0"})
    loop.train(run, resume=True)
    assert f"warning: numpy: 1.0 → {np.__version__} since this run began" in capsys.readouterr().out


@dataclass(frozen=True)
class Poisoned:
    """REINFORCE whose update fails in a chosen way at the 6th block."""

    how: str = "parameter"

    def build(self, obs_space: Any, action_space: Any, generator: Generator, execution: Execution = EAGER) -> Agent:
        healthy = SMALL.build(obs_space, action_space, generator, execution)
        count = iter(range(1000))

        def update(block: Block, progress: float) -> dict[str, float]:
            if next(count) < 5:
                return healthy.update(block, progress)
            weight = next(healthy.policy.parameters())
            if self.how == "metric":
                return {"loss": float("nan")}
            if self.how == "gradient":
                weight.register_hook(lambda gradient: gradient * float("nan"))
                return healthy.update(block, progress)
            with torch.no_grad():
                weight[0] = float("nan")
            return {"loss": 0.0}

        return Agent(healthy.graph, healthy.policy, healthy.collect, update, healthy.state)


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ("parameter", r"parameter policy\.logits\.layers\.0\.weight has nan"),
        ("metric", "metric 'loss' is nan"),
        ("gradient", "objective 'gain': gradient norm nan"),
    ],
)
def test_a_nan_stops_the_run_by_name_and_keeps_the_last_good_checkpoint(tmp_path: Path, how: str, named: str) -> None:
    run = new_run(tmp_path / "run")
    run.agent = Poisoned(how)
    with pytest.raises(TrainingStopped, match=rf"update 6, after step 320: {named}(.|\n)*step-000000000256\.pt"):
        loop.train(run, quiet=True)
    policy = last_state(run)["agent"]["policy"]
    assert all(torch.isfinite(value).all() for value in policy.values())


def test_a_bad_reward_stops_the_run_by_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run(tmp_path / "run", RunConfig(**{**vars(SHORT), "env": "Counting-v0"}))
    make = loop.envs.make
    monkeypatch.setattr(loop.envs, "make", lambda env_id, batch, **kwargs: make(env_id, batch, bad_at=50))
    with pytest.raises(TrainingStopped, match=r"update 4, after step 192: environment 0, step 1 .*reward has nan"):
        loop.train(run, quiet=True)


def test_evaluation_uses_fresh_episodes_and_repeats_by_seed(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    with loop.envs.make("CartPole-v1", 1) as one:
        policy = loop.build(run, one).policy
    first, again, later = (evaluate(policy, "CartPole-v1", 5, 0, at, "sample") for at in (0, 0, 1))
    assert first == again
    assert first != later
    assert len(first.returns) == 5
    assert first.returns == [float(length) for length in first.lengths]


def test_a_row_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    table = run_directory.Table(tmp_path / "t.csv")
    table.write(1, {"a": 0.5, "b": 2.0})
    table.write(2, {"a": 0.25})
    with open(tmp_path / "t.csv", "a") as file:
        file.write("3,0.1")
    rows = read_table(tmp_path / "t.csv")
    assert [row["step"] for row in rows] == [1.0, 2.0]
    assert np.isnan(rows[1]["b"])
    run_directory.Table(tmp_path / "t.csv", upto=1).write(2, {"a": 9.0, "b": 8.0})
    assert list(csv.reader((tmp_path / "t.csv").read_text().splitlines())) == [
        ["step", "a", "b"],
        ["1", "0.5", "2.0"],
        ["2", "9.0", "8.0"],
    ]


def test_run_directories_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no config\.json there"):
        RunDirectory.open(tmp_path)
    run = new_run(tmp_path / "run")
    with pytest.raises(RunError, match=r"exists already\. Continue it with --resume"):
        new_run(tmp_path / "run")
    config = json.loads((run.path / "config.json").read_text())
    run_directory.write_json(run.path / "config.json", {**config, "config": {"horizn": 3}})
    with pytest.raises(RunError, match=r"Reinforce has no option 'horizn'\. Did you mean 'horizon'\?"):
        RunDirectory.open(run.path)
    (run.path / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"config\.json is damaged"):
        RunDirectory.open(run.path)


def test_the_default_directory_takes_the_next_free_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [RunDirectory.create("reinforce", SHORT, SMALL).path.name for _ in range(2)]
    assert names == ["reinforce-CartPole-v1-seed0", "reinforce-CartPole-v1-seed0-2"]


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end() -> None:
    values = np.array([[1.0], [2.0], [3.0], [400.0]])
    assert curves.summary(values, "iqm") == pytest.approx([2.5])
    assert curves.summary(values) == pytest.approx([101.5])
    assert curves.summary(values[:3], "iqm") == pytest.approx([2.0])  # three seeds: the mean
    lower, upper = curves.bootstrap_interval(np.repeat(values, 8, 0), "iqm")
    assert 1.0 <= lower[0] <= 2.5 <= upper[0] < curves.bootstrap_interval(np.repeat(values, 8, 0))[1][0]


def test_the_bootstrap_interval_covers_the_mean_of_normal_runs() -> None:
    # 400 experiments of 20 runs: a 95 % percentile interval covers 93 % of the time at this size; 5 s.e. below is 0.87.
    drawn = np.random.default_rng(0).normal(size=(400, 20, 1))
    inside = [
        low <= 0 <= high for low, high in (curves.bootstrap_interval(run_directory, resamples=500) for run_directory in drawn)
    ]
    assert 0.87 < np.mean(inside) < 0.985


def test_curves_are_compared_at_common_steps() -> None:
    steps, values = curves.on_common_steps(
        [(np.array([10.0, 20.0, 30.0]), np.array([1.0, 2.0, 3.0])), (np.array([10.0, 25.0]), np.array([0.0, 3.0]))]
    )
    assert steps.tolist() == [10, 20]
    assert np.allclose(values, [[1.0, 2.0], [0.0, 2.0]])


def test_a_checkpoint_of_a_run_loads_without_pickle(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    loop.train(run, quiet=True)
    state = tensor_files.load(run.checkpoints.best)
    assert set(state) == {"format", "agent", "rollout", "counters", "spaces"}
