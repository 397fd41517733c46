"""What executors cost and gain on this machine: milliseconds a task and a generation, seeds and populations on two workers.

    python -m benchmarks.executors                                   in process, and a pool of two; about three minutes
    python -m benchmarks.executors --engines local ray               with torch-scg[ray]
    python -m benchmarks.executors --engines ray --evotorch          … beside EvoTorch, whose problem has two Ray actors

The clock decides how long runs and generations take, so nothing else may run on the two cores; rounds of one and of two workers
alternate, and medians of their ratios are shown. Workers have started before they are timed. Processor seconds (of this process
and of its workers) are given beside: where they are equal and the clock's ratio is poor, other programs were at work.

Seeds: ten of PPO on CartPole-v1, SEED_STEPS each. A generation: MEMBERS linear policies on HalfCheetah-v5, an episode of 1,000
steps each, with PGPE's update; EvoTorch's PGPE has the same members, policy and environment, and steps its environments one by one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Generator

from scg.agents import config_type
from scg.agents.commands.many import train_all
from scg.agents.environments import envs
from scg.agents.experience.acting import one_blas_thread
from scg.agents.experience.rollout import Rollout
from scg.agents.training.presets import preset
from scg.agents.training.run_directory import RunConfig, RunDirectory
from scg.executors import Executor, InProcess, opened

ROUNDS, TASKS, SEEDS = 5, 50, 10
ENV, SLOTS, MEMBERS = "HalfCheetah-v5", 16, 64
SEED_STEPS = 10_240

EVOTORCH = """
import json, sys, time
import ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
from evotorch.algorithms import PGPE
from evotorch.neuroevolution import GymNE
env, members, generations = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
problem = GymNE(env, "Linear(obs_length, act_length)", observation_normalization=False, num_actors=2)
search = PGPE(problem, popsize=members, center_learning_rate=0.01, stdev_learning_rate=0.1, stdev_init=0.03)
search.step()
found = []
for _ in range(generations):
    began = time.perf_counter()
    search.step()
    found.append(time.perf_counter() - began)
print(json.dumps(found))
ray.shutdown()
"""


def nothing(index: int) -> tuple[int, float]:
    """A task without work: the process, and its processor time so far."""
    return os.getpid(), time.process_time()


def overhead(executor: Executor) -> float:
    """Milliseconds a task without work, from its submission to its result, the workers started: the least of the rounds."""
    list(executor.map(nothing, [(i,) for i in range(8 * executor.workers)]))
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        list(executor.map(nothing, [(i,) for i in range(TASKS)]))
        found.append((time.perf_counter() - began) / TASKS * 1e3)
    return min(found)


def busy(executor: Executor) -> float:
    """Seconds of processor time of this process and of the workers that answer."""
    seen = dict(executor.map(nothing, [(i,) for i in range(8 * executor.workers)])) if executor.elsewhere else {}
    return sum({**seen, os.getpid(): time.process_time()}.values())


def timed(work: Callable[[], object], executor: Executor) -> tuple[float, float]:
    """Seconds of the clock, and of processors."""
    before, began = busy(executor), time.perf_counter()
    work()
    clock = time.perf_counter() - began
    return clock, busy(executor) - before


class Population:
    """Generations of PGPE, here or on an executor; every round evaluates the same members."""

    def __init__(self) -> None:
        self.vector = envs.make(ENV, SLOTS, threads=1)
        self.seen: dict[str, np.ndarray] = {}

    def generation(self, name: str, executor: Executor) -> Callable[[], None]:
        config = config_type("pgpe")(population=MEMBERS, scale=0.03)
        agent = config.build(self.vector.obs_space, self.vector.action_space, Generator().manual_seed(0))
        rollout = Rollout(self.vector, range(SLOTS), Generator(), executor)
        state = agent.state_dict()

        def run() -> None:
            agent.load_state_dict(state)
            generation = agent.collect(rollout, 10**6)
            agent.update(generation, 0.0)
            self.seen[name] = generation.utility.numpy()  # type: ignore[attr-defined]

        return run


def seeds(executor: Executor, folder: Path) -> None:
    """Ten seeds of PPO, trained on the executor."""
    run, config, execution = preset("ppo", "CartPole-v1", SEED_STEPS)
    options = {**run, "env": "CartPole-v1", "steps": SEED_STEPS, "evaluations": 0, "checkpoints": 1}
    runs = [
        RunDirectory.create("ppo", RunConfig(**{**options, "seed": seed}), config_type("ppo")(**config), folder / f"{seed}")
        for seed in range(SEEDS)
    ]
    assert not execution  # too short to be compiled
    for directory, ended in train_all(runs, executor, None):
        assert ended.code == 0, directory.path


def compared(title: str, one: Callable[[], object], two: Callable[[], object], executor: Executor, rounds: int) -> None:
    here = InProcess()
    found = [(*timed(one, here), *timed(two, executor)) for _ in range(rounds)]
    ratio = statistics.median(two / one for one, _, two, _ in found)
    clock, spent, clocks, spents = (statistics.median(column) for column in zip(*found, strict=True))
    print(
        f"{title}: one process {clock:.2f} s ({spent:.2f} s of processors), two workers {clocks:.2f} s ({spents:.2f} s): "
        f"{ratio:.2f} of the time, efficiency {1 / (2 * ratio):.2f}; by processor time at most {spent / spents:.2f}",
        flush=True,
    )


def evotorch(rounds: int) -> list[float]:
    """Seconds of its generations, in a process of its own."""
    command = [sys.executable, "-c", EVOTORCH, ENV, str(MEMBERS), str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"EvoTorch stopped:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engines", nargs="+", default=["local"])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--no-seeds", action="store_true", help="leave the ten seeds of PPO out")
    parser.add_argument("--evotorch", action="store_true", help="EvoTorch's generations too; it must be installed here")
    wish = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(f"load of the last minute {os.getloadavg()[0]:.1f}, {len(os.sched_getaffinity(0))} cores")
    print(f"in process: {overhead(InProcess()):.3f} ms a task")
    with one_blas_thread():
        population = Population()
        for engine in wish.engines:
            began = time.perf_counter()
            with opened(engine, 2) as executor:
                each = overhead(executor)
                print(f"{engine}, 2 workers: started in {time.perf_counter() - began:.1f} s; {each:.2f} ms a task", flush=True)
                one, two = population.generation("here", InProcess()), population.generation(engine, executor)
                one(), two()  # graphs are examined, environments made
                compared(f"{engine}, a generation of {MEMBERS} members", one, two, executor, wish.rounds)
                same = np.array_equal(population.seen["here"], population.seen[engine])
                print(f"{engine}: {'the same bits' if same else 'OTHER BITS'}")
                if not wish.no_seeds:
                    with tempfile.TemporaryDirectory() as folder:
                        numbers = iter(range(10**6))
                        compared(
                            f"{engine}, ten seeds of PPO on CartPole-v1, {SEED_STEPS:,} steps",
                            lambda: seeds(InProcess(), Path(folder) / f"{next(numbers)}"),  # noqa: B023
                            lambda: seeds(executor, Path(folder) / f"{next(numbers)}"),  # noqa: B023
                            executor,
                            2,
                        )
    if wish.evotorch:
        print(f"EvoTorch's PGPE, two Ray actors: {statistics.median(evotorch(wish.rounds)):.2f} s a generation")


if __name__ == "__main__":
    main()
