"""A cost model of many workers: the point where each method stops scaling, and what stragglers and losses cost.

    python -m benchmarks.cluster [--task-ms 0.3]            half a minute; the table of docs/scaling.md

A round of J jobs of e seconds each (a generation's episodes, a table's runs, blocks of actors) on W workers, from a sender that
hands out one task a worker, after the other, and then takes a step of u seconds:

    T(W) = max(J e / W, e) + min(W, J) · (h + b / B) + u            h: a task's overhead at the sender, b bytes, B bytes a second
    actors and a learner work at the same time, a message a block:   T(W) = max(J e / W, e, J · (h + b / B) + u)

    efficiency(W) = J e / (W T(W)), which falls with W; a method has stopped scaling where it is below a half

e, u and b are measured here, in processor time, so that other programs do not count; h is given (`benchmarks.executors` measures
it), and B assumed. The simulation draws what the model leaves out: job times that differ, and workers that are lost.
"""

from __future__ import annotations

import argparse
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Generator

from scg.agents import config_type
from scg.agents.environments import envs
from scg.agents.experience.acting import one_blas_thread
from scg.agents.experience.rollout import Rollout
from scg.agents.search.agent import Generation
from scg.agents.search.members import Members, evaluated
from scg.agents.search.perturbations import Perturbations
from scg.agents.search.population import Job, Returns

BANDWIDTH = 125e6  # bytes a second: a gigabit's network
ENV, POPULATION = "HalfCheetah-v5", 1000
SLOTS, SAMPLE = 8, 200  # episodes that are measured, and members whose update is: its time is proportional to their number
WORKERS = (1, 2, 10, 100, 1000)
SPREAD, LOST, ROUNDS = 0.5, 0.01, 200
MOST = 10**6


@dataclass(frozen=True)
class Work:
    """A round of a method. Times in seconds."""

    name: str
    jobs: int
    job: float
    update: float
    message: int = 0  # bytes of a task and its result
    overlaps: bool = False  # jobs are done while the sender takes its step

    def seconds(self, workers: int, task: float) -> float:
        """T(W), with `task` the overhead h."""
        computed = max(self.jobs * self.job / workers, self.job)
        tasks = self.jobs if self.overlaps else min(workers, self.jobs)
        sender = tasks * (task + self.message / BANDWIDTH) + self.update
        return max(computed, sender) if self.overlaps else computed + sender

    def efficiency(self, workers: int, task: float) -> float:
        return self.jobs * self.job / (workers * self.seconds(workers, task))

    def limit(self, task: float) -> int:
        """The most workers at which the efficiency is a half or more; 0 where one has less."""
        low, high = 0, MOST
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.efficiency(middle, task) >= 0.5 else (low, middle - 1)
        return low

    def simulated(self, workers: int, task: float, spread: float, lost: float, generator: np.random.Generator) -> float:
        """Seconds of one round with job times that are log-normal, of mean e and standard deviation `spread` of their logarithm.
        A task is lost with probability `lost`, at its end, and then repeated."""
        sizes = [len(part) for part in np.array_split(np.arange(self.jobs), min(workers, self.jobs))]
        each, ends = task + self.message / BANDWIDTH, []
        for number, size in enumerate(sizes):
            work = self.job * np.exp(spread * generator.normal(size=size) - spread**2 / 2).sum()
            ends.append((number + 1) * each + work * generator.geometric(1 - lost))
        if self.overlaps:
            return float(max(*ends, self.jobs * each + self.update))
        return float(max(ends)) + self.update


# -- what is measured ------------------------------------------------------------------------------------------------


def spent(work: Callable[[], Any]) -> float:
    """Processor seconds."""
    began = time.process_time()
    work()
    return time.process_time() - began


def search(vector: envs.Environments, name: str, hidden: tuple[int, ...], **options: Any) -> Work:
    """A generation of POPULATION members: a few episodes, and the update by returns drawn at random."""
    config = config_type(name)(population=SAMPLE, hidden=hidden, scale=0.03, **options)
    agent = config.build(vector.obs_space, vector.action_space, Generator().manual_seed(0))
    policy: Any = agent.policy
    distribution: Any = agent.state["distribution"]
    noise = Perturbations(0, len(policy.theta), mirrored=name == "es")
    members, jobs = Members(distribution, noise, 0), [Job(m, 0, m) for m in range(SLOTS)]
    rollout = Rollout(vector, range(SLOTS), Generator())
    episodes = spent(lambda: evaluated(rollout, policy, members, SLOTS, jobs, 10**6)) / SLOTS
    shape = vector.obs_space.shape or ()

    def update(number: int) -> None:
        utility = np.random.default_rng(number).normal(size=SAMPLE)
        returns = Returns(utility, SAMPLE, [], {}, (SAMPLE, np.zeros(shape), np.zeros(shape)))
        make = lambda g, which: distribution.members(noise.rows(g, which))  # noqa: E731
        agent.update(Generation(number, returns, make, noise.rows), 0.0)

    update(0)  # the graph is examined
    updated = POPULATION / SAMPLE * min(spent(lambda n=number: update(n)) for number in (1, 2))  # type: ignore[misc]
    message = len(pickle.dumps((policy, members, jobs[:1]))) + 200
    return Work(f"{name}, {len(policy.theta):,} parameters, {POPULATION:,} members", POPULATION, episodes, updated, message)


def actors(vector: envs.Environments, blocks: int, horizon: int = 20) -> Work:
    """Blocks of actors for one learner, whose step takes one block."""
    agent = config_type("a2c")(horizon=horizon).build(vector.obs_space, vector.action_space, Generator().manual_seed(0))
    rollout = Rollout(vector, range(SLOTS), Generator().manual_seed(0))
    collected, updated = [], []
    for _ in range(12):
        block: list[Any] = []
        collected.append(spent(lambda: block.append(agent.collect(rollout, 10**6))))  # noqa: B023
        updated.append(spent(lambda: agent.update(block[0], 0.0)))  # noqa: B023
    message = len(pickle.dumps(block[0])) + len(pickle.dumps(agent.policy.state_dict()))
    name = f"actors and a learner, blocks of {horizon} × {SLOTS} steps"
    return Work(name, blocks, float(np.median(collected)), blocks * float(np.median(updated)), message, overlaps=True)


def works() -> list[Work]:
    with one_blas_thread(), envs.make(ENV, SLOTS, threads=1) as vector:
        return [
            search(vector, "es", ()),
            search(vector, "es", (64, 64)),
            search(vector, "cma-es", ()),
            search(vector, "cma-es", (64, 64), separable=True),
            actors(vector, 100),
            Work("a table: 1,000 runs of 60 s", 1000, 60.0, 0.0, 10_000),
            Work("a sweep's batch: 5 trials, 3 seeds of 60 s", 15, 60.0, 0.1, 10_000),
        ]


def table(found: Sequence[Work], task: float) -> Table:
    generator = np.random.default_rng(0)
    shown = Table(
        "a round of", "a job, ms", "update, ms", "bytes", "stops at", *(f"{w:,}" for w in WORKERS), "1,000, simulated"
    )
    for work in found:
        rounds = [work.simulated(WORKERS[-1], task, SPREAD, LOST, generator) for _ in range(ROUNDS)]
        columns = [f"{work.efficiency(w, task):.2f}" for w in WORKERS]
        simulated = work.jobs * work.job / (WORKERS[-1] * float(np.mean(rounds)))
        shown.add_row(
            work.name,
            *(f"{1e3 * seconds:,.1f}" for seconds in (work.job, work.update)),
            f"{work.message:,}",
            f"{work.limit(task):,}",
            *columns,
            f"{simulated:.2f}",
        )
    return shown


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task-ms", type=float, default=0.3, help="h, milliseconds a task (default: %(default)s)")
    wish = parser.parse_args(argv)
    torch.set_num_threads(1)
    console = Console(width=180)
    console.print(table(works(), wish.task_ms / 1e3))


if __name__ == "__main__":
    main()
