"""One process at a time, a polite end by any signal, and a way on from every kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import scg
from scg.agents.commands import cli
from scg.agents.reinforce import Reinforce
from scg.agents.training import loop
from scg.agents.training.run_directory import RunConfig, RunDirectory, RunError
from scg.agents.training.run_lock import LOCK, locked
from scg.agents.training.signals import Stopped, stop_if_asked, stopped_by_signals
from tests.agents.training.test_loop import assert_same, last_state

SHORT = RunConfig(steps=128, envs=4, evaluations=1, eval_episodes=2, checkpoints=1)
SMALL = Reinforce(horizon=16, hidden=(4,))
WORDS = [
    "reinforce",
    "--steps",
    "128",
    "--envs",
    "4",
    "--evaluations",
    "1",
    "--eval-episodes",
    "2",
    "--checkpoints",
    "1",
    "--horizon",
    "16",
    "--hidden",
    "4",
]

HOLDS = """
import os, sys, time
from pathlib import Path
from scg.agents.training.run_lock import locked
with locked(Path(sys.argv[1])):
    if len(sys.argv) > 2 and os.fork() == 0:
        time.sleep(60)
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def holder(path: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the run at `path`; all that it started ends with it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(path), *more],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=Path(scg.__file__).parents[1],
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create("reinforce", SHORT, SMALL, tmp_path / "run")


def test_a_second_process_on_a_run_fails_and_names_the_first(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in run.path.iterdir() if path.name != LOCK}
    with holder(run.path) as process:
        assert cli.train(["--resume", str(run.path), "--steps", "256"]) == 2
        said = capsys.readouterr().err
        assert said == f"error: run {run.path}: process {process.pid} is writing in it. Wait for its end, or stop it.\n"
        with pytest.raises(RunError, match=f"process {process.pid}"):
            loop.train(run)
        assert {path: path.read_bytes() for path in run.path.iterdir() if path.name != LOCK} == before
    assert cli.train(["--resume", str(run.path)]) == 0  # killed: it holds nothing any more


def test_the_child_of_a_dead_process_holds_nothing(run: RunDirectory) -> None:
    with holder(run.path, "fork") as process:
        process.kill()
        process.wait()
        with locked(run.path):
            pass


def test_a_run_can_be_locked_again_also_after_an_exception(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), locked(tmp_path):
            raise KeyboardInterrupt
    with locked(tmp_path), pytest.raises(RunError, match=f"process {os.getpid()} is writing"), locked(tmp_path):
        pass


def test_a_lock_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("mine")
    (tmp_path / LOCK).symlink_to(tmp_path / "outside")
    with pytest.raises(RunError, match="its lock cannot be opened"), locked(tmp_path):
        pass
    assert (tmp_path / "outside").read_text() == "mine"


@pytest.mark.parametrize("name", ["checkpoints", "replay"])
def test_folders_of_a_run_are_no_links(run: RunDirectory, tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (run.path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match=f"{name} is a symbolic link"):
        loop.train(run, quiet=True)
    assert not list((tmp_path / "elsewhere").iterdir())


class Killed(BaseException):
    """Nobody catches it, as nobody catches a kill."""


def die(*args: object) -> None:
    raise Killed


def test_a_run_killed_before_its_first_checkpoint_starts_from_the_beginning(
    tmp_path: Path, run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = RunDirectory.create("reinforce", SHORT, SMALL, tmp_path / "whole")
    loop.train(whole, quiet=True)
    monkeypatch.setattr(loop._Training, "_save", die)
    with pytest.raises(Killed):
        loop.train(run, quiet=True)
    monkeypatch.undo()
    assert cli.train([*WORDS, "--out", str(run.path)]) == 2
    assert f"Continue it with --resume {run.path}" in capsys.readouterr().err
    assert cli.train(["--resume", str(run.path)]) == 0
    assert "starts from the beginning" in capsys.readouterr().out
    assert_same(last_state(whole), last_state(run))


def test_with_more_steps_too(run: RunDirectory) -> None:
    assert cli.train(["--resume", str(run.path), "--steps", "256"]) == 0
    assert RunDirectory.open(run.path).run.steps == 256


def test_a_run_that_has_lost_its_checkpoints_does_not_start_again(run: RunDirectory) -> None:
    loop.train(run, quiet=True)
    before = (run.path / "metrics.csv").read_bytes()
    for path in [*run.checkpoints.paths(), run.checkpoints.best]:
        path.unlink()
    assert cli.train(["--resume", str(run.path)]) == 2
    assert (run.path / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize("killed_at", ["locked", "versions", "half a config"])
def test_a_directory_without_a_configuration_is_free(tmp_path: Path, killed_at: str) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / LOCK).write_text("4711\n")
    if killed_at != "locked":
        (out / "versions.json").write_text("{}")
    if killed_at == "half a config":
        (out / ".config.0123456789abcdef.tmp.json").write_text("{")
    run = RunDirectory.create("reinforce", SHORT, SMALL, out)
    assert {path.name for path in out.iterdir()} == {LOCK, "versions.json", "config.json"}
    assert run.changed_versions() == []


def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="this is a file, and a run is a folder"):
        RunDirectory.create("reinforce", SHORT, SMALL, tmp_path / "file")


def test_two_that_begin_one_run_at_once_do_not_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, out = Path.mkdir, tmp_path / "run"

    def slow(path: Path, *args: object, **options: object) -> None:
        make(path, *args, **options)  # type: ignore[arg-type]
        if path == out:  # the other one is faster from here on
            monkeypatch.setattr(Path, "mkdir", make)
            RunDirectory.create("reinforce", SHORT, SMALL, out)

    monkeypatch.setattr(Path, "mkdir", slow)
    with pytest.raises(RunError, match="exists already"):
        RunDirectory.create("reinforce", RunConfig(seed=1), SMALL, out)
    assert RunDirectory.open(out).run == SHORT


def test_a_default_name_taken_at_the_last_moment_is_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make = Path.mkdir

    def slow(path: Path, *args: object, **options: object) -> None:
        if path.name == "reinforce-CartPole-v1-seed0":
            monkeypatch.setattr(Path, "mkdir", make)
            RunDirectory.create("reinforce", SHORT, SMALL)
        make(path, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", slow)
    assert RunDirectory.create("reinforce", SHORT, SMALL).path.name == "reinforce-CartPole-v1-seed0-2"


def test_what_the_killed_left_half_written_is_removed_at_resumption(run: RunDirectory) -> None:
    loop.train(run, quiet=True)
    half = [
        *(run.path / name for name in ("metrics.tmp", "config.tmp", ".curve.0123456789abcdef.tmp.png")),
        *(run.path / "checkpoints" / name for name in (".step-000000000128.pt.4711.tmp", ".best.0123456789abcdef.tmp.pt")),
    ]
    for path in half:
        path.write_text("half")
    loop.train(RunDirectory.open(run.path), resume=True, quiet=True)
    assert not [path for path in half if path.exists()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_every_signal_that_asks_for_the_end_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "run"
    words = [*WORDS, "--steps", "10000000", "--checkpoints", "1000000", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "scg.commands.cli", "train", *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=Path(scg.__file__).parents[1],
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # under nohup it would be ignored, and stay so
    )
    while process.poll() is None and not (out / "metrics.csv").exists():
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert said.endswith(f"interrupted; continue with: scg train --resume {out}\n")
    assert not [path for path in out.rglob("*") if ".tmp" in path.name]


def test_a_signal_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    others = {
        n: signal.signal(n, signal.SIG_DFL) for n in (signal.SIGTERM, signal.SIGINT)
    }  # in the background SIGINT is ignored
    try:
        with stopped_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            stop_if_asked()
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(Stopped, match="SIGTERM"):
                stop_if_asked()
            with pytest.raises(Stopped, match="SIGINT"):  # the second one does not wait
                os.kill(os.getpid(), signal.SIGINT)
        stop_if_asked()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        for number, handler in {**others, signal.SIGHUP: before}.items():
            signal.signal(number, handler)
