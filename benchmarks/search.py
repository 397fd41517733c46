"""Populations: environment steps per second beside the simulator alone, sb3-contrib's ARS and EvoTorch; CMA-ES's own time beside cma.

    python -m benchmarks.search                                  ours and the simulator, one core
    python -m benchmarks.search --functions                      evaluations to 1e-9 beside cma, ten seeds
    python -m benchmarks.search --peer-python PATH/TO/python     an interpreter with sb3-contrib and evotorch: theirs beside ours

A population of 256 linear policies is evaluated for one generation of ARS, after another that is not timed, in one process and one
thread. The peers, in processes of their own, step `--peer-steps` environment steps: sb3-contrib's ARS by its own `learn`, EvoTorch's
GymNE by `evaluate`. Rates are steps a second of processor time, so that other programs do not count; the clock's are in brackets.
"Of simulator" is our rate over the same vector's with actions drawn beforehand and nothing else. Medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Generator

from scg.agents import config_type
from scg.agents.environments import envs
from scg.agents.experience.acting import one_blas_thread
from scg.agents.experience.rollout import Rollout
from scg.agents.search import functions
from scg.agents.search.cma import CMA
from scg.agents.search.restarts import Restarting

MEMBERS, DIM = 256, 1000
TARGET, MOST = 1e-9, 200_000
ENVIRONMENTS = {"HalfCheetah-v5": 64, "CartPole-v1": 256}  # and slots

PEERS = {
    "sb3-contrib": """
import json, sys, time
from sb3_contrib import ARS
env, members, limit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model = ARS("LinearPolicy", env, n_delta=members // 2, verbose=0, device="cpu")
began, clock = time.process_time(), time.perf_counter()
model.learn(limit)
steps = model.num_timesteps
""",
    "EvoTorch": """
import json, logging, sys, time
from evotorch.neuroevolution import GymNE
logging.disable(logging.CRITICAL)
env, members, limit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
problem = GymNE(env, "Linear(obs_length, act_length)", observation_normalization=False, num_actors=0)
problem.evaluate(problem.generate_batch(2))
before = problem.interaction_count
steps = 0
began, clock = time.process_time(), time.perf_counter()
while steps < limit:
    problem.evaluate(problem.generate_batch(8))
    steps = problem.interaction_count - before
""",
}
REPORT = """
print(json.dumps([steps / (time.process_time() - began), steps / (time.perf_counter() - clock)]))
"""


class Rate(NamedTuple):
    """Environment steps a second."""

    processor: float
    clock: float

    def __str__(self) -> str:
        return f"{self.processor:,.0f} ({self.clock:,.0f})"


class Watch:
    """Measures a rate from when it is made."""

    def __init__(self) -> None:
        self.began, self.clock = time.process_time(), time.perf_counter()

    def rate(self, steps: int) -> Rate:
        return Rate(steps / (time.process_time() - self.began), steps / (time.perf_counter() - self.clock))


def population(env_id: str, slots: int) -> tuple[Rate, Rate]:
    """Of a generation, and of the vector alone."""
    with one_blas_thread(), envs.make(env_id, slots, threads=1) as vector:
        config = config_type("ars")(population=MEMBERS, best=MEMBERS // 2, scale=0.03, scenarios="fresh")
        agent = config.build(vector.obs_space, vector.action_space, Generator().manual_seed(0))
        rollout = Rollout(vector, list(range(slots)), Generator().manual_seed(0))
        agent.update(agent.collect(rollout, 1), 0.0)
        watch = Watch()
        generation = agent.collect(rollout, 1)
        agent.update(generation, 0.0)
        ours = watch.rate(generation.steps)
        rounds = max(1, generation.steps // slots)
        space = vector.vector.action_space
        space.seed(0)
        actions = [np.asarray(space.sample()) for _ in range(16)]
        vector.reset(list(range(slots)))
        watch = Watch()
        for t in range(rounds):
            vector.step(actions[t % 16])
        return ours, watch.rate(rounds * slots)


def overhead(ours: bool, generations: int = 20, separable: bool = False) -> float:
    """Processor seconds of a generation's sampling and update at DIM parameters, the function's own time left out."""
    spent = 0.0
    if ours:
        cma, generator = CMA(torch.ones(DIM), 0.5, separable=separable), Generator().manual_seed(0)
        for _ in range(generations):
            began = time.process_time()
            theta = cma.members(torch.randn(cma.rates.members, DIM, dtype=torch.float64, generator=generator))
            spent += time.process_time() - began
            utility = -functions.sphere(theta)
            began = time.process_time()
            cma.update(theta, cma.credit(utility))
            spent += time.process_time() - began
        return spent / generations
    from cma import CMAEvolutionStrategy

    es = CMAEvolutionStrategy(np.ones(DIM), 0.5, {"seed": 1, "verbose": -9, "CMA_diagonal": separable})
    for _ in range(generations):
        began = time.process_time()
        points = es.ask()
        spent += time.process_time() - began
        values = functions.sphere(torch.from_numpy(np.array(points))).tolist()
        began = time.process_time()
        es.tell(points, values)
        spent += time.process_time() - began
    return spent / generations


def start(name: str, dim: int, seed: int) -> torch.Tensor:
    """Where both begin."""
    spread = 3.0 if name == "rastrigin" else 0.5
    middle = 1.0 if name in ("sphere", "ellipsoid") else 0.0
    return middle + spread * torch.randn(dim, dtype=torch.float64, generator=Generator().manual_seed(seed))


def evaluations(name: str, dim: int, seed: int) -> float:
    """Ours to TARGET, with restarts on Rastrigin's function; NaN where another minimum was found."""
    f, generator = getattr(functions, name), Generator().manual_seed(seed)
    restarts = name == "rastrigin"
    cma = CMA(start(name, dim, seed), 1.0 if restarts else 0.5)
    again, count = Restarting(cma, lambda n: start(name, dim, 1000 * n + seed)), 0
    while count < MOST and (restarts or not again.restarts):
        noise = torch.randn(cma.rates.members, dim, dtype=torch.float64, generator=generator)
        theta = cma.members(noise)
        values = f(theta)
        count += len(values)
        if float(values.min()) < TARGET:
            return count
        again.update(theta, -values)
    return float("nan")


def reference(name: str, dim: int, seed: int) -> float:
    """The library's."""
    from cma import CMAEvolutionStrategy

    f, count, members, number = getattr(functions, name), 0, 0, 0
    while count < MOST and (number == 0 or name == "rastrigin"):
        options = {"seed": 1 + seed + 1000 * number, "verbose": -9} | ({"popsize": members} if members else {})
        first = start(name, dim, seed + 1000 * number).numpy()
        es = CMAEvolutionStrategy(first, 1.0 if name == "rastrigin" else 0.5, options)
        while count < MOST and not es.stop():
            points = es.ask()
            values = f(torch.from_numpy(np.array(points)))
            count += len(points)
            if float(values.min()) < TARGET:
                return count
            es.tell(points, values.tolist())
        members, number = 2 * es.popsize, number + 1
    return float("nan")


def test_functions(seeds: int, console: Console) -> None:
    table = Table("function", "parameters", "ours", "cma", "found by ours", "found by cma")
    for name in ("sphere", "ellipsoid", "rosenbrock", "rastrigin"):
        for dim in (5, 20) if name != "rastrigin" else (5,):
            columns = []
            for count in (evaluations, reference):
                found = np.array([count(name, dim, seed) for seed in range(seeds)])
                good = found[np.isfinite(found)]
                columns.append((f"{good.mean():,.0f} ± {good.std(ddof=1):,.0f}", f"{len(good)} of {seeds}"))
            table.add_row(name, str(dim), columns[0][0], columns[1][0], columns[0][1], columns[1][1])
    console.print(table)


def peer(python: str, name: str, env_id: str, steps: int) -> Rate | None:
    """None where it cannot run; what it says then is printed."""
    done = subprocess.run(
        [python, "-c", PEERS[name] + REPORT, env_id, str(MEMBERS), str(steps)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        print(f"{name}, {env_id}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return Rate(*json.loads(done.stdout.splitlines()[-1]))


def middle(rates: Sequence[Rate]) -> Rate:
    """Medians, column by column."""
    return Rate(*(statistics.median(column) for column in zip(*rates, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default: %(default)s)")
    parser.add_argument("--peer-python", default="", help="an interpreter with sb3-contrib and evotorch; none leaves them out")
    parser.add_argument("--peer-steps", type=int, default=20_000, help="environment steps of a peer (default: %(default)s)")
    parser.add_argument(
        "--environments", nargs="*", default=list(ENVIRONMENTS), choices=ENVIRONMENTS, help="none leaves them out"
    )
    parser.add_argument("--functions", action="store_true", help="evaluations of CMA-ES on test functions, and nothing else")
    wish = parser.parse_args()
    torch.set_num_threads(1)
    if wish.functions:
        test_functions(10, Console())
        return
    peers = list(PEERS) if wish.peer_python else []
    columns = [word for name in peers for word in (name, "ratio")]
    table = Table("environment", "ours, steps/s", "simulator, steps/s", "of simulator", *columns)
    for env_id in wish.environments:
        slots = ENVIRONMENTS[env_id]
        rounds, theirs = list[tuple[Rate, Rate]](), {name: list[Rate]() for name in peers}
        for _ in range(wish.repeats):
            rounds.append(population(env_id, slots))
            print(f"{env_id}: ours {rounds[-1][0]}, simulator {rounds[-1][1]}", flush=True)
            for name in peers:
                if found := peer(wish.peer_python, name, env_id, wish.peer_steps):
                    theirs[name].append(found)
        ours, alone = (middle(column) for column in zip(*rounds, strict=True))
        beside: list[str] = []
        for name in peers:
            found = middle(theirs[name]) if theirs[name] else None
            beside += [str(found), f"{ours.processor / found.processor:.1f}"] if found else ["—", "—"]
        table.add_row(env_id, str(ours), str(alone), f"{ours.processor / alone.processor:.2f}", *beside)
    second = Table("CMA-ES, 1,000 parameters", "ours, ms a generation", "cma, ms a generation", "ratio")
    for separable in (False, True):
        times = [(overhead(True, separable=separable), overhead(False, separable=separable)) for _ in range(wish.repeats)]
        mine, reference_ms = (1000 * statistics.median(column) for column in zip(*times, strict=True))
        second.add_row(
            "diagonal C" if separable else "full C", f"{mine:.1f}", f"{reference_ms:.1f}", f"{reference_ms / mine:.1f}"
        )
    console = Console()
    console.print(table)
    console.print(second)


if __name__ == "__main__":
    main()
