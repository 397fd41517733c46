"""Populations: environment steps per second beside the simulator alone, and CMA-ES's own time beside the reference library.

    python -m benchmarks.search                                      # both cores
    python -m benchmarks.search --functions                          # evaluations to 1e-9 beside cma, ten seeds
    python -m benchmarks.search --peer-python PATH/TO/python         # an interpreter with sb3-contrib: its ARS beside ours

A population of 256 linear policies is evaluated for one generation of ARS, after another that is not timed. "Of simulator" is that
rate over the same vector's with actions drawn beforehand and nothing else, resets included. Rounds alternate, medians are shown.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
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
from scg.agents.search import functions
from scg.agents.search.cma import CMA
from scg.agents.search.restarts import Restarting

MEMBERS, DIM = 256, 1000
TARGET, MOST = 1e-9, 200_000
ENVIRONMENTS = {"HalfCheetah-v5": 64, "CartPole-v1": 256}  # and slots

PEER = """
import json, sys, time
from sb3_contrib import ARS
env, members, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv
model = ARS("LinearPolicy", env, n_delta=members // 2, verbose=0, device="cpu")
pool = None
if workers > 1:
    from sb3_contrib.common.vec_env import AsyncEval
    pool = AsyncEval([lambda: make_vec_env(env, n_envs=1) for _ in range(workers)], model.policy)
limit = int(sys.argv[4])
begin = time.perf_counter()
model.learn(limit, async_eval=pool)
print(json.dumps({"rate": model.num_timesteps / (time.perf_counter() - begin)}))
"""


def population(env_id: str, slots: int) -> tuple[float, float]:
    """Steps a second of a generation, and of the vector alone."""
    with one_blas_thread(), envs.make(env_id, slots) as vector:
        config = config_type("ars")(population=MEMBERS, best=MEMBERS // 2, scale=0.03, scenarios="fresh")
        agent = config.build(vector.obs_space, vector.action_space, Generator().manual_seed(0))
        rollout = Rollout(vector, list(range(slots)), Generator().manual_seed(0))
        agent.update(agent.collect(rollout, 1), 0.0)
        began = time.perf_counter()
        generation = agent.collect(rollout, 1)
        agent.update(generation, 0.0)
        ours = generation.steps / (time.perf_counter() - began)
        rounds = max(1, generation.steps // slots)
        space = vector.vector.action_space
        space.seed(0)
        actions = [np.asarray(space.sample()) for _ in range(16)]
        vector.reset(list(range(slots)))
        began = time.perf_counter()
        for t in range(rounds):
            vector.step(actions[t % 16])
        return ours, rounds * slots / (time.perf_counter() - began)


def overhead(ours: bool, generations: int = 20, separable: bool = False) -> float:
    """Seconds of a generation's sampling and update at DIM parameters, the function's own time left out."""
    spent = 0.0
    if ours:
        cma, generator = CMA(torch.ones(DIM), 0.5, separable=separable), Generator().manual_seed(0)
        for _ in range(generations):
            began = time.perf_counter()
            theta = cma.members(torch.randn(cma.rates.members, DIM, dtype=torch.float64, generator=generator))
            spent += time.perf_counter() - began
            utility = -functions.sphere(theta)
            began = time.perf_counter()
            cma.update(theta, cma.credit(utility))
            spent += time.perf_counter() - began
        return spent / generations
    from cma import CMAEvolutionStrategy

    es = CMAEvolutionStrategy(np.ones(DIM), 0.5, {"seed": 1, "verbose": -9, "CMA_diagonal": separable})
    for _ in range(generations):
        began = time.perf_counter()
        points = es.ask()
        spent += time.perf_counter() - began
        values = functions.sphere(torch.from_numpy(np.array(points))).tolist()
        began = time.perf_counter()
        es.tell(points, values)
        spent += time.perf_counter() - began
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


def peer(python: str, env_id: str, steps: int) -> float | None:
    """sb3-contrib's ARS, the better of one process and two workers."""
    found = []
    for workers in (1, 2):
        done = subprocess.run(
            [python, "-c", PEER, env_id, str(MEMBERS), str(workers), str(steps)], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            found.append(json.loads(done.stdout.splitlines()[-1])["rate"])
    return max(found, default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default: %(default)s)")
    parser.add_argument("--peer-python", default="", help="an interpreter with sb3-contrib; none leaves it out")
    parser.add_argument("--peer-steps", type=int, default=20_000, help="environment steps of the peer (default: %(default)s)")
    parser.add_argument("--functions", action="store_true", help="evaluations of CMA-ES on test functions, and nothing else")
    wish = parser.parse_args()
    torch.set_num_threads(1)
    if wish.functions:
        test_functions(10, Console())
        return
    table = Table("environment", "ours, steps/s", "simulator, steps/s", "of simulator", "sb3-contrib", "ratio")
    for env_id, slots in ENVIRONMENTS.items():
        rounds = [population(env_id, slots) for _ in range(wish.repeats)]
        rate, alone = (statistics.median(column) for column in zip(*rounds, strict=True))
        theirs: Any = peer(wish.peer_python, env_id, wish.peer_steps) if wish.peer_python else None
        beside = (f"{theirs:,.0f}", f"{rate / theirs:.1f}") if theirs else ("—", "—")
        table.add_row(env_id, f"{rate:,.0f}", f"{alone:,.0f}", f"{rate / alone:.2f}", *beside)
    second = Table("CMA-ES, 1,000 parameters", "ours, ms a generation", "cma, ms a generation", "ratio")
    for separable in (False, True):
        times = [(overhead(True, separable=separable), overhead(False, separable=separable)) for _ in range(wish.repeats)]
        mine, theirs = (1000 * statistics.median(column) for column in zip(*times, strict=True))
        second.add_row("diagonal C" if separable else "full C", f"{mine:.1f}", f"{theirs:.1f}", f"{theirs / mine:.1f}")
    console = Console()
    console.print(table)
    console.print(second)


if __name__ == "__main__":
    main()
