"""Kill and resume: a run that is killed at random moments, and goes on each time, ends in the bits of one that never was.

SIGKILL, so nothing is flushed or closed. Half of the moments are of the clock: so many checkpoints after the start, then
some milliseconds. The other half lie inside the writing of a checkpoint (or of a piece of the replay buffer), of which only
a part has reached the disk. Ten kills an agent in the long profile; two of PPO in the short one.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import settings

from scg.agents.commands import cli
from scg.agents.training.run_directory import RunDirectory, read_table
from tests.agents.training.test_loop import assert_same, last_state

LONG = settings.default.max_examples > 100  # the long profile
KILLS = 10 if LONG else 2
SAVES = 16 + 8 * KILLS  # checkpoints of a whole run: a kill costs five of them or so
UPDATES = 2 * SAVES  # so that some kills lose an update

# `scg`, with a SIGKILL inside the n-th write from its start: half of the temporary file is on the disk.
DIES_WRITING = """
import os, signal, stat, sys
from scg.commands.cli import main
left, fsync = int(sys.argv.pop(1)), os.fsync
def die(file):
    global left
    if not stat.S_ISREG(os.fstat(file).st_mode):  # a folder's entry: there is nothing to cut short
        return fsync(file)
    left -= 1
    if left == 0:
        os.ftruncate(file, os.fstat(file).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(file)
os.fsync = die
sys.exit(main(sys.argv[1:]))
"""

SMALL = ("--evaluations", "2", "--eval-episodes", "2", "--hidden", "16", "16", "--checkpoints", str(SAVES))
PPO = ("--envs", "4", "--horizon", "32", "--minibatch", "64", "--epochs", "3", "--steps", str(UPDATES * 128))
REPLAYED = (
    *("--env", "Pendulum-v1", "--horizon", "5", "--updates", "2", "--batch", "16", "--warmup", "50", "--report", "5"),
    *("--replay", "300", "--steps", str(UPDATES * 5 + 50)),
)
RUNS = {
    "ppo": ("ppo", "--env", "CartPole-v1", *PPO),
    "ppo on MuJoCo": ("ppo", "--env", "Hopper-v5", *PPO, "--step-threads", "2"),
    "sac": ("sac", *REPLAYED),
    "td3, prioritised": ("td3", *REPLAYED, "--prioritised"),
}


@pytest.mark.parametrize("run", list(RUNS) if LONG else ["ppo"])
def test_a_run_killed_at_random_moments_ends_in_the_same_bits(run: str, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    argv = [*RUNS[run], *SMALL, "--out"]
    assert cli.train([*argv, str(whole)]) == 0
    moments, said = random.Random(run), tmp_path / "said.txt"
    for kill in range(KILLS):
        command = ["train", *argv, str(killed)] if kill == 0 else ["train", "--resume", str(killed)]
        # The first kill comes after some updates: started again from nothing, a run would be right without any state.
        if kill % 2:
            writes, torn = moments.randint(4, 6), unfinished(killed)  # the first two are the tables'
            process = start(["-c", DIES_WRITING, str(writes), *command], said)
            assert process.wait(timeout=120) == -signal.SIGKILL, said.read_text()
            assert len(unfinished(killed) - torn) == 1  # it was inside a write
        else:
            process = start(["-m", "scg.commands.cli", *command], said)
            kill_after(
                process, killed, checkpoints=moments.randint(3 if kill == 0 else 0, 4), milliseconds=moments.uniform(0, 40)
            )
            assert process.wait() == -signal.SIGKILL, said.read_text()
    assert newest(killed) < newest(whole)  # it never finished
    assert start(["-m", "scg.commands.cli", "train", "--resume", str(killed)], said).wait(timeout=120) == 0, said.read_text()
    assert_same(last_state(RunDirectory.open(whole)), last_state(RunDirectory.open(killed)))
    for table in ("metrics.csv", "evaluations.csv"):
        assert timeless(whole / table) == timeless(killed / table)


def start(arguments: Sequence[str], said: Path) -> subprocess.Popen[bytes]:
    with open(said, "wb") as file:
        return subprocess.Popen(
            [sys.executable, *arguments], stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )


def kill_after(process: subprocess.Popen[bytes], run: Path, checkpoints: int, milliseconds: float) -> None:
    """SIGKILL, some time after so many checkpoints since the training (again) began."""
    logs, before = len(list(run.glob("events*"))), newest(run)
    seen: set[int] = {before}
    while process.poll() is None and (len(list(run.glob("events*"))) == logs or len(seen) <= checkpoints):
        seen.add(newest(run))
        time.sleep(0.001)
    time.sleep(milliseconds / 1000)
    process.send_signal(signal.SIGKILL)


def newest(run: Path) -> int:
    """The step of the last checkpoint, -1 where there is none."""
    return max((int(path.stem.removeprefix("step-")) for path in run.glob("checkpoints/step-*.pt")), default=-1)


def unfinished(run: Path) -> set[Path]:
    """The files that a kill left half-written."""
    return set(run.rglob(".*.tmp.*"))


def timeless(table: Path) -> list[dict[str, str]]:
    return [{key: repr(value) for key, value in row.items() if "second" not in key} for row in read_table(table)]
