"""Speed-up against workers: a generation's cost measured on one and two processes, and a model beyond.

    T(W) = max_w Σ_{members of w} t_e  +  u  +  latency · ⌈log₂ W⌉            members are handed out as workers become free

t_e are the processor times of members' episodes, u that of the update; every worker regenerates all perturbations, and is sent one
number a member, its return. The latency of a message is an assumption of the model, and stated.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
from torch import Generator

from scg.agents.common.agent import Agent
from scg.agents.environments import envs
from scg.agents.es import ES
from scg.agents.experience.acting import one_blas_thread
from scg.agents.experience.rollout import Rollout
from scg.agents.search.population import Job, evaluate_population

LATENCY = 1e-3  # seconds a message, within a data centre


def started(vector: envs.Environments, members: int) -> tuple[Agent, Rollout]:
    config = ES(population=members, scenarios="fresh")
    agent = config.build(vector.obs_space, vector.action_space, Generator().manual_seed(0))
    return agent, Rollout(vector, list(range(vector.batch)), Generator().manual_seed(0))


def costs(env_id: str, members: int) -> tuple[list[float], float]:
    """Processor seconds of each member's episode, from its length and the time of all, and of the update."""
    with one_blas_thread(), envs.make(env_id, 16) as vector:
        agent, rollout = started(vector, members)
        agent.update(agent.collect(rollout, 1), 0.0)
        began = time.process_time()
        generation = agent.collect(rollout, 1)
        collected = time.process_time() - began
        began = time.process_time()
        agent.update(generation, 0.0)
        updated = time.process_time() - began
    step = collected / generation.steps
    return [step * episode.length for episode in generation.episodes], updated


def part(env_id: str, members: Sequence[int], seed: int) -> tuple[list[float], float]:
    """What one worker does: the returns of its members, regenerated from the seed, and the wall-clock seconds."""
    with one_blas_thread(), envs.make(env_id, 16) as vector:
        config = ES(population=2, scenarios="fresh")
        search = config.search(vector.obs_space, vector.action_space, Generator().manual_seed(seed))
        noise = search.perturbations(mirrored=True)
        jobs = [Job(i, 0, envs.seeds(seed, "scenario", 1, member)[0]) for i, member in enumerate(members)]
        crowd = search.policy.crowd(vector.batch)
        began = time.perf_counter()
        found = evaluate_population(vector, crowd, lambda i: config.scale * noise.row(0, members[i]), len(members), jobs)
        return found.utility.tolist(), time.perf_counter() - began


def measured(env_id: str, members: int, rounds: int) -> tuple[list[float], bool]:
    """Speed-up of two processes over one in each of alternating rounds; whether their returns are the same bits."""
    ratios, same = [], True
    halves = [range(0, members // 2), range(members // 2, members)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(part, [env_id] * 2, [range(2)] * 2, [0, 0]))  # imports and compiled code
        for seed in range(rounds):
            alone, alone_seconds = pool.submit(part, env_id, range(members), seed).result()
            two = list(pool.map(part, [env_id] * 2, halves, [seed] * 2))
            ratios.append(alone_seconds / max(seconds for _, seconds in two))
            same = same and alone == two[0][0] + two[1][0]
    return ratios, same


def makespan(times: Sequence[float], workers: int) -> float:
    """The end of the last worker, each taking the next member as it becomes free."""
    free = [0.0] * min(workers, len(times))
    for seconds in times:
        heapq.heappush(free, heapq.heappop(free) + seconds)
    return max(free)


def model(times: Sequence[float], update: float, workers: int) -> float:
    """The speed-up over one worker."""
    alone = sum(times) + update
    return alone / (makespan(times, workers) + update + LATENCY * math.ceil(math.log2(max(workers, 1))))


def enlarged(times: Sequence[float], members: int) -> list[float]:
    """A larger population's times, drawn from the measured ones."""
    return np.random.default_rng(0).choice(times, members).tolist()
