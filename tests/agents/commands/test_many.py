"""Runs of several seeds, and populations, on executors: the same bits as one after the other, here, without a death."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from scg.agents.commands import cli, many
from scg.agents.search.members import share
from scg.agents.training.run_directory import RunDirectory
from tests.agents.training.test_kills import newest, timeless
from tests.agents.training.test_loop import assert_same, last_state

PPO = (
    *("ppo", "--env", "CartPole-v1", "--envs", "4", "--horizon", "32", "--minibatch", "64", "--epochs", "3", "--hidden", "16"),
    *("--steps", "2560", "--evaluations", "2", "--eval-episodes", "2", "--checkpoints", "10"),
)
ES = [
    "--env",
    "CartPole-v1",
    "--envs",
    "4",
    "--population",
    "8",
    "--steps",
    "2000",
    "--evaluations",
    "1",
    "--eval-episodes",
    "2",
]


def engine(name: str, module: str) -> object:
    reason = f"{module} is not installed: torch-scg[{name.partition(':')[0]}]"
    return pytest.param(name, marks=pytest.mark.skipif(find_spec(module) is None, reason=reason))


OTHERS = [engine("ray", "ray"), engine("slurm:cluster=local", "submitit")]


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds, one after the other, in this process."""
    out = tmp_path_factory.mktemp("one by one") / "runs"
    assert cli.train([*PPO, "--seeds", "2", "--out", str(out)]) == 0
    return out


def assert_equal_runs(ones: Path, others: Path) -> None:
    found = sorted(path.parent for path in ones.rglob("config.json"))
    assert found
    for one in found:
        other = others / one.relative_to(ones)
        assert_same(last_state(RunDirectory.open(one)), last_state(RunDirectory.open(other)))
        for table in ("metrics.csv", "evaluations.csv"):
            assert timeless(one / table) == timeless(other / table)


@contextmanager
def killing(run: Path, checkpoints: int) -> Iterator[list[int]]:
    """Inside, the worker that holds the run's lock is killed once the run has so many checkpoints behind it."""
    killed: list[int] = []
    over = threading.Event()

    def watch() -> None:
        seen: set[int] = set()
        while not over.is_set() and len(seen) <= checkpoints:
            seen.add(newest(run))
            time.sleep(0.001)
        if not over.is_set():
            killed.append(int((run / "lock").read_text()))
            os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def test_seeds_on_two_workers_have_the_bits_of_one_after_the_other(
    one_by_one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with killing(tmp_path / "runs" / "seed1", checkpoints=1) as killed:
        assert cli.train([*PPO, "--seeds", "2", "--workers", "2", "--out", str(tmp_path / "runs")]) == 0
    assert killed and killed[0] != os.getpid()  # and so the task of seed 1 was repeated
    assert_equal_runs(one_by_one, tmp_path / "runs")
    said = capsys.readouterr().out
    assert "seed 0: done: evaluation return" in said and "seed 1: done: evaluation return" in said
    assert "curve over 2 seeds" in said and (tmp_path / "runs" / "PPO-CartPole-v1.png").exists() == ("PPO-" in said)
    assert not multiprocessing.active_children()


def test_the_comparison_of_runs_can_fail(one_by_one: Path, tmp_path: Path) -> None:
    words = [word if word != "2560" else "128" for word in PPO]
    for lr in ("0.001", "0.00100001"):
        assert cli.train([*words, "--lr", lr, "--out", str(tmp_path / lr / "run")]) == 0
    with pytest.raises(AssertionError):
        assert_equal_runs(tmp_path / "0.001", tmp_path / "0.00100001")


@pytest.mark.parametrize("executor", OTHERS)
def test_seeds_on_other_engines_have_these_bits_too(one_by_one: Path, tmp_path: Path, executor: str) -> None:
    out = tmp_path / "runs"
    executor += f",folder={tmp_path / 'jobs'}" if "slurm" in executor else ""
    with killing(out / "seed1", checkpoints=1) as killed:
        assert cli.train([*PPO, "--seeds", "2", "--workers", "2", "--executor", executor, "--out", str(out)]) == 0
    assert killed
    assert_equal_runs(one_by_one, out)


def test_a_folder_of_runs_is_resumed_as_a_whole(one_by_one: Path, tmp_path: Path) -> None:
    """Both runs stop as if they had been killed; one of them has not begun."""
    out = tmp_path / "runs"
    short = [word if word != "2560" else "1280" for word in PPO]
    assert cli.train([*short, "--seeds", "2", "--out", str(out)]) == 0
    RunDirectory.open(out / "seed1").begin_again()
    assert not RunDirectory.open(out / "seed1").has_begun()
    assert cli.train(["--resume", str(out), "--steps", "2560"]) == 0
    found = [RunDirectory.open(out / f"seed{seed}") for seed in (0, 1)]
    assert [newest(run.path) for run in found] == [2560, 2560] and [run.run.steps for run in found] == [2560, 2560]
    assert_same(last_state(found[1]), last_state(RunDirectory.open(one_by_one / "seed1")))  # begun again with the new total


def test_a_run_whose_environments_cannot_be_saved_begins_again(tmp_path: Path) -> None:
    """Gone on with, its episodes would be others."""
    words = [
        *[
            "--env",
            "tests.agents.forgetful:Forgetful-v0",
            "--envs",
            "2",
            "--horizon",
            "16",
            "--minibatch",
            "32",
            "--epochs",
            "1",
            "--hidden",
            "4",
        ]
    ]
    words += ["--evaluations", "0", "--checkpoints", "8"]
    for name, steps in (("whole", "256"), ("killed", "128")):
        assert cli.train(["ppo", *words, "--steps", steps, "--out", str(tmp_path / name)]) == 0
    run = RunDirectory.open(tmp_path / "killed")
    assert run.has_begun() and not run.goes_on_to_the_bit()
    assert many.train_one(str(run.path), 256, None, True).code == 0
    whole = last_state(RunDirectory.open(tmp_path / "whole"))
    assert_same(whole, last_state(RunDirectory.open(run.path)))


def test_a_run_that_stops_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--env",
        "tests.agents.breaking:Breaks-v0",
        "--envs",
        "1",
        "--horizon",
        "8",
        "--hidden",
        "4",
        "--steps",
        "64",
        "--evaluations",
        "0",
    ]
    assert cli.train(["ppo", *words, "--seeds", "2", "--out", str(tmp_path / "runs")]) == 1
    shown = capsys.readouterr().err
    assert "seed 0: stopped: " in shown and "seed 1: stopped: " in shown and "no mass" in shown


# -- populations -----------------------------------------------------------------------------------------------------


def trained(agent: str, words: Sequence[str], out: Path, *more: str) -> RunDirectory:
    assert cli.train([agent, *words, *more, "--out", str(out)]) == 0
    return RunDirectory.open(out)


@pytest.mark.parametrize(
    ("agent", "more", "executor"),
    [
        ("es", ["--normalise-obs", "--episodes", "2"], "local"),
        ("cma-es", [], "local"),
        *[pytest.param("es", [], *one.values, marks=one.marks) for one in OTHERS],  # type: ignore[attr-defined]
    ],
)
def test_a_population_has_the_same_bits_on_any_executor(agent: str, more: list[str], executor: str, tmp_path: Path) -> None:
    executor += f",folder={tmp_path / 'jobs'}" if "slurm" in executor else ""
    here = trained(agent, [*ES, *more], tmp_path / "here")
    there = trained(agent, [*ES, *more], tmp_path / "there", "--workers", "2", "--executor", executor)
    ones, others = (last_state(run) for run in (here, there))
    assert_same(ones["agent"], others["agent"])  # the run's own environments play no episode of the other's
    for table in ("metrics.csv", "evaluations.csv"):
        assert timeless(here.path / table) == timeless(there.path / table)
    assert not multiprocessing.active_children()


@contextmanager
def killing_a_worker_at_work(metrics: Path) -> Iterator[list[int]]:
    """Inside, one process that performs tasks for this one is killed once a run has written two rows of metrics."""
    killed: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set() and not killed:
            if metrics.exists() and len(metrics.read_text().splitlines()) > 2:
                for pid in working():
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    return
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def working() -> list[int]:
    """Workers of a pool; and Ray's processes that perform a task (it writes that into their names), two below this one."""
    found = [process.pid for process in multiprocessing.active_children() if process.pid is not None]
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            if file.read_bytes().startswith(b"ray::_performed") and parent(parent(int(file.parent.name))) == os.getpid():
                found.append(int(file.parent.name))
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("executor", ["local", OTHERS[0]])
@pytest.mark.parametrize("agent", ["es", "cma-es"])
def test_a_population_has_the_same_bits_where_a_worker_is_killed(agent: str, executor: str, tmp_path: Path) -> None:
    here = trained(agent, ES, tmp_path / "here")
    with killing_a_worker_at_work(tmp_path / "there" / "metrics.csv") as killed:
        there = trained(agent, ES, tmp_path / "there", "--workers", "2", "--executor", executor)
    assert killed and killed[0] != os.getpid()
    assert_same(last_state(here)["agent"], last_state(there)["agent"])
    for table in ("metrics.csv", "evaluations.csv"):
        assert timeless(here.path / table) == timeless(there.path / table)


def test_a_share_is_a_workers_part_or_what_fills_the_slots() -> None:
    assert share(32, 2, 32) == 16
    assert share(1000, 2, 32) == 125
    assert share(100, 2, 32) == 32
    assert share(1, 4, 32) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["ppo", "--workers", "2"], "option workers is 2: one run of PPO is one task. Give --seeds"),
        (["pes", "--workers", "2"], "one run of PES is one task"),
        (["ppo", "--seeds", "0"], "option seeds is 0. Give at least 1."),
        (["es", "--workers", "0"], "option workers is 0. Give at least 1."),
        (["ppo", "--seeds", "2", "--executor", "rey"], "executor 'rey' is unknown. Did you mean 'ray'?"),
    ],
)
def test_workers_without_a_use_are_refused_and_leave_nothing(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.train(words) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
