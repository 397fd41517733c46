"""Processes killed at random moments: of the clock, inside the writing of a checkpoint, inside an evaluation.

Each command is a process of its own, which SIGKILL ends. It is forked from one that has imported all and computed nothing,
which spares it the seconds of the imports; `tests/agents/training/test_kills.py` kills what a shell would have started.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from scg.agents import AGENTS
from scg.commands.cli import main
from tests.agents.training.test_kills import DIES_WRITING, PPO, REPLAYED, newest
from tests.faults.trials import Trial, same

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        *("tests.faults.kills", "scg.agents.commands.cli", "scg.agents.training.curves", "scg.draw.canvas"),
        *("torch._dynamo", "torch._inductor.compile_fx", "torch.utils.tensorboard"),
        *("matplotlib.backends.backend_agg", "matplotlib.ticker"),
        *(target.partition(":")[0] for target in AGENTS.values()),
    ]
)

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
SMALL = ("--evaluations", "8", "--eval-episodes", "2", "--hidden", "16", "16", "--checkpoints", "24")
PPO, REPLAYED = (*PPO, "--steps", "4096"), (*REPLAYED, "--steps", "210")  # 32 updates
RUNS = {
    "ppo": ("ppo", "--env", "CartPole-v1", *PPO),
    "sac": ("sac", *REPLAYED),
    "sac, overlap": ("sac", *REPLAYED, "--overlap"),
    "td3, prioritised, normalised": ("td3", *REPLAYED, "--prioritised", "--normalise-obs"),
    "reinforce": ("reinforce", "--env", "CartPole-v1", "--envs", "4", "--horizon", "32", "--steps", "4096"),
    "trpo": ("trpo", "--env", "CartPole-v1", "--envs", "4", "--horizon", "32", "--steps", "4096"),
    "dqn": ("dqn", *REPLAYED, "--env", "CartPole-v1"),
    "es": ("es", "--env", "CartPole-v1", "--population", "4", "--steps", "4096"),
    "ppo, compiled": ("ppo", "--env", "CartPole-v1", *PPO, "--compile"),
    "sac, compiled, overlap": ("sac", *REPLAYED, "--compile", "--overlap"),
}
PATIENCE = 900  # seconds: a busy machine is no fault
MOMENTS = ("of the clock", "in a checkpoint", "in an evaluation")


def trials(count: int, seed: int = 0) -> Iterator[Trial]:
    """`count` kills, in turn of every agent and kind of moment, of compiled runs half as often: each takes a minute. A run is
    killed once, and then held against a whole one."""
    moments, wholes = random.Random(seed), dict[str, Path]()
    rounds = [
        (name, moment, again) for again in (0, 1) for moment in MOMENTS for name in RUNS if not (again and "compiled" in name)
    ]
    rounds.sort(key=lambda chosen: "compiled" in chosen[0])
    for number in range(count):
        name, moment, again = rounds[number % len(rounds)]
        run = functools.partial(killed, name=name, moment=moment, dice=moments.random(), wholes=wholes)
        yield Trial(f"kill {moment}", f"{name}, {2 * (number // len(rounds)) + again}", run)


def killed(folder: Path, name: str, moment: str, dice: float, wholes: dict[str, Path]) -> None:
    argv, said, out = [*RUNS[name], *SMALL], folder / "said.txt", folder / "run"
    if name not in wholes:
        whole = folder / "whole"
        assert ended(start(["train", *argv, "--out", str(whole)], said)) == 0, said.read_text()
        wholes[name] = whole
    command = ["train", *argv, "--out", str(out)]
    if moment == "of the clock":
        process, at = start(command, said), int(dice * newest(wholes[name]))
        while process.is_alive() and newest(out) < at:
            time.sleep(0.001)
        process.kill()
        ended(process)
    else:
        script, most = (DIES_WRITING, 40) if moment == "in a checkpoint" else (DIES_EVALUATING, 60)
        process = start([str(3 + int(dice * most)), *command], said, script)
        assert ended(process) == -signal.SIGKILL, said.read_text()
    again = ["train", "--resume", str(out)] if (out / "config.json").exists() else command
    assert ended(start(again, said)) == 0, said.read_text()
    same(wholes[name], out)


def start(argv: Sequence[str], said: Path, script: str = "") -> ForkServerProcess:
    """`scg ARGV…` in a process of its own, or a Python script that calls it; what it prints goes to `said`."""
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # the compiler's workers would import torch, each its own
    process = SERVER.Process(target=_run, args=(argv, said, script))
    process.start()
    return process


def _run(argv: Sequence[str], said: Path, script: str) -> None:
    with open(said, "wb") as file:
        os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
    sys.argv = ["scg", *argv]
    if script:
        exec(compile(script, "killed", "exec"), {})
    sys.exit(main(sys.argv[1:]))


def ended(process: ForkServerProcess) -> int | None:
    """The exit code, −9 of a killed one; None, and an end, where it lasts longer than `PATIENCE`."""
    process.join(PATIENCE)
    code = process.exitcode
    if code is None:
        process.kill()
    return code
