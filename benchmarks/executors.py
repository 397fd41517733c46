"""What executors cost: milliseconds a task and a generation, bytes a message, and the workers at which a population stops scaling.

    python -m benchmarks.executors                          in process, and a pool of two
    python -m benchmarks.executors --engines local ray      with torch-scg[ray]

A generation of J episodes in W workers takes, with a sender that hands out one task after the other,

    T(W) = max(J e / W, e_max) + tasks · h + u          e: an episode, h: a task's overhead at the sender, u: the update

and the work of one process is J e + u. Processor time is measured (of this process and of the workers), so that other programs
do not count; only the overhead of a task is by the clock, the least of several rounds.
"""

from __future__ import annotations

import argparse
import os
import pickle
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Generator

from scg.agents.environments import envs
from scg.agents.es import ES
from scg.agents.experience.rollout import Rollout
from scg.agents.search.members import Members, evaluated
from scg.agents.search.population import Job
from scg.executors import Executor, InProcess, opened

ROUNDS, TASKS = 5, 50
EPISODE, ENV, SLOTS = 200, "HalfCheetah-v5", 16  # jobs of a generation


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
    seen = dict(executor.map(nothing, [(i,) for i in range(8 * executor.workers)]))
    return sum({**seen, os.getpid(): time.process_time()}.values())


class Population:
    """Members of ES on a MuJoCo environment, and their episodes."""

    def __init__(self, hidden: tuple[int, ...] = (64, 64), env: str = ENV) -> None:
        self.vector = envs.make(env, SLOTS, threads=1)
        search = ES(hidden=hidden, population=EPISODE).search(
            self.vector.obs_space, self.vector.action_space, Generator().manual_seed(0)
        )
        from scg.agents.search.distributions import DiagonalGaussian

        distribution = DiagonalGaussian(search.start, 0.05, learn_scale=False)
        self.policy, self.members = search.policy, Members(distribution, search.perturbations(mirrored=True), 0)

    def returns(self, executor: Executor, count: int) -> np.ndarray:
        rollout = Rollout(self.vector, range(SLOTS), Generator(), executor)
        return evaluated(rollout, self.policy, self.members, count, [Job(m, 0, m) for m in range(count)], 10**6).utility

    def message(self, jobs: int) -> int:
        """Bytes of a task of so many jobs."""
        return len(pickle.dumps((self.policy, self.members, [Job(m, 0, m) for m in range(jobs)])))


def generation_time(workers: int, jobs: int, episode: float, longest: float, task: float, update: float) -> float:
    """Seconds of a generation by the model, one task a worker."""
    tasks = min(workers, jobs)
    return max(jobs * episode / workers, longest) + tasks * task + update


def with_losses(
    workers: int, jobs: int, episode: float, task: float, spread: float, lost: float, generator: np.random.Generator
) -> float:
    """Seconds of one simulated generation: episodes log-normal with standard deviation `spread` of their logarithm, one task a
    worker, each lost with probability `lost` at its end and then repeated."""
    sizes = [len(part) for part in np.array_split(np.arange(jobs), min(workers, jobs))]
    ends = []
    for number, size in enumerate(sizes):
        work = episode * np.exp(spread * generator.normal(size=size) - spread**2 / 2).sum()
        ends.append((number + 1) * task + work * generator.geometric(1 - lost))
    return float(max(ends))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engines", nargs="+", default=["local"])
    parser.add_argument("--members", type=int, default=32)
    wish = parser.parse_args(argv)
    population = Population()
    began = time.process_time()
    here = population.returns(InProcess(), wish.members)
    alone = time.process_time() - began
    print(
        f"in process: {overhead(InProcess()):.3f} ms a task; {wish.members} episodes of {ENV} in {alone:.2f} s of processor time"
    )
    costs: dict[str, float] = {}
    for engine in wish.engines:
        with opened(engine, 2) as executor:
            costs[engine] = overhead(executor)
            population.returns(executor, 4)  # environments are made
            before = busy(executor)
            there: Any = population.returns(executor, wish.members)
            spent = busy(executor) - before
            same = "the same bits" if np.array_equal(here, there) else "OTHER BITS"
            print(
                f"{engine}, 2 workers: {costs[engine]:.2f} ms a task; {spent:.2f} s of processor time, efficiency at most "
                f"{alone / spent:.2f}; {same}"
            )
    episode = alone / wish.members
    for jobs in (1, 100):
        print(
            f"message of a task with {jobs} jobs: {population.message(jobs) / 1024:.1f} KiB ({len(population.policy.start):,} parameters)"
        )
    print(
        "\nby the model, a population of 1,000: seconds a generation and efficiency; simulated with spread 0.5 and 1 % lost tasks"
    )
    generator = np.random.default_rng(0)
    for engine, task in costs.items():
        for workers in (1, 2, 10, 100, 1000):
            whole = generation_time(workers, 1000, episode, episode, task / 1e3, 0.01)
            simulated = np.mean([with_losses(workers, 1000, episode, task / 1e3, 0.5, 0.01, generator) for _ in range(100)])
            ideal = 1000 * episode / workers
            print(
                f"{engine}, {workers:>5} workers: {whole:8.2f} s, {ideal / whole:5.2f}; simulated {simulated:8.2f} s, {ideal / simulated:5.2f}"
            )


if __name__ == "__main__":
    main()
