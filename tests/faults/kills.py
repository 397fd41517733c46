"""Processes killed at random moments: of the clock, inside the writing of a checkpoint, inside an evaluation."""

from __future__ import annotations

import functools
import random
import signal
from collections.abc import Iterator
from pathlib import Path

from tests.agents.training.test_kills import DIES_WRITING, PPO, REPLAYED, newest, start
from tests.faults.trials import Trial, same

# `scg`, with a SIGKILL inside the n-th step of an environment of an evaluation.
DIES_EVALUATING = """
import os, signal, sys
from scg.commands.cli import main
from scg.agents.training import evaluation
left, inner = int(sys.argv.pop(1)), evaluation._evaluation
def die(policy, rollout, *rest):
    step = rollout.envs.step
    def stepped(*given):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*given)
    rollout.envs.step = stepped
    return inner(policy, rollout, *rest)
evaluation._evaluation = die
sys.exit(main(sys.argv[1:]))
"""
SMALL = ("--evaluations", "12", "--eval-episodes", "2", "--hidden", "16", "16", "--checkpoints", "48")
RUNS = {
    "ppo": ("ppo", "--env", "CartPole-v1", *PPO),
    "sac": ("sac", *REPLAYED),
    "sac, overlap": ("sac", *REPLAYED, "--overlap"),
    "td3, prioritised, normalised": ("td3", *REPLAYED, "--prioritised", "--normalise-obs"),
    "reinforce": ("reinforce", "--env", "CartPole-v1", "--envs", "4", "--horizon", "32", "--steps", "12288"),
    "ppo, compiled": ("ppo", "--env", "CartPole-v1", *PPO, "--compile"),
    "sac, compiled, overlap": ("sac", *REPLAYED, "--compile", "--overlap"),
}
PATIENCE = 900  # seconds: a busy machine is no fault
MOMENTS = ("of the clock", "in a checkpoint", "in an evaluation")


def trials(count: int, seed: int = 0) -> Iterator[Trial]:
    """`count` kills, in turn of every agent and kind of moment. A run is killed once, and then held against a whole one."""
    moments, wholes = random.Random(seed), dict[str, Path]()
    pairs = [(name, moment) for moment in MOMENTS for name in RUNS]
    for number in range(count):
        name, moment = pairs[number % len(pairs)]
        run = functools.partial(killed, name=name, moment=moment, dice=moments.random(), wholes=wholes)
        yield Trial(f"kill {moment}", f"{name}, {number}", run)


def killed(folder: Path, name: str, moment: str, dice: float, wholes: dict[str, Path]) -> None:
    argv, said, out = [*RUNS[name], *SMALL], folder / "said.txt", folder / "run"
    if name not in wholes:
        whole = folder / "whole"
        assert start(["-m", "scg.commands.cli", "train", *argv, "--out", str(whole)], said).wait(PATIENCE) == 0, (
            said.read_text()
        )
        wholes[name] = whole
    command = ["train", *argv, "--out", str(out)]
    if moment == "of the clock":
        process = start(["-m", "scg.commands.cli", *command], said)
        at = int(dice * newest(wholes[name]))
        while process.poll() is None and newest(out) < at:
            pass
        process.kill()
        process.wait()
    else:
        script, most = (DIES_WRITING, 40) if moment == "in a checkpoint" else (DIES_EVALUATING, 80)
        process = start(["-c", script, str(3 + int(dice * most)), *command], said)
        assert process.wait(PATIENCE) == -signal.SIGKILL, said.read_text()
    again = ["train", "--resume", str(out)] if (out / "config.json").exists() else command
    assert start(["-m", "scg.commands.cli", *again], said).wait(PATIENCE) == 0, said.read_text()
    same(wholes[name], out)
