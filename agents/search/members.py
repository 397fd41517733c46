"""Where members are evaluated: in the run's own environments, or spread over the workers of an executor.

    (distribution, seed, generation, jobs) ─► worker: theta_e = members(ξ(seed, g, e)) ─► episodes ─► returns

A member travels as its index: the worker regenerates its perturbation, so a message holds the distribution once, and not a
vector for every member. An episode depends on (parameters, seed) alone and sums are taken in the order of the jobs, so the
returns have the same bits on any executor and any number of workers. A worker keeps its environments from one generation to
the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import Any

import numpy as np

from scg.agents.environments import envs
from scg.agents.environments.recipe import Recipe, look_here
from scg.agents.execution.threads import torch_threads
from scg.agents.experience.acting import one_blas_thread
from scg.agents.experience.rollout import Rollout
from scg.agents.search.perturbations import Perturbations
from scg.agents.search.policies import SearchPolicy
from scg.agents.search.population import Job, Played, Returns, evaluate_population, gathered, play

PIECES = 4  # a worker's share of a large population is taken in so many pieces, so that slow ones do not delay it


@dataclass(frozen=True)
class Members:
    """The members of one generation, made from their indices."""

    distribution: Any
    noise: Perturbations
    generation: int

    def theta(self, member: int) -> np.ndarray:
        """The parameters `[d]` of one member."""
        return self.distribution.members(self.noise.rows(self.generation, [member]))[0].numpy()


def evaluated(rollout: Rollout, policy: SearchPolicy, members: Members, count: int, jobs: Sequence[Job], limit: int) -> Returns:
    """The returns of a generation of `count` members, on the rollout's executor where that has other processes."""
    vector, executor = rollout.envs, rollout.executor
    if executor is None or not executor.elsewhere:
        return evaluate_population(vector, policy.crowd(vector.batch), members.theta, count, jobs, limit)
    size = share(len(jobs), executor.workers, vector.batch)
    pieces = [jobs[at : at + size] for at in range(0, len(jobs), size)]
    how = vector.recipe, min(size, vector.batch), vector.bins, vector.step_timeout
    tasks = [(how, policy, members, piece, limit) for piece in pieces]
    done, failures, steps = dict[int, Any](), dict[int, tuple[int, str]](), 0
    for number, played in enumerate(executor.map(_played, tasks)):
        done.update({number * size + job: found for job, found in played.done.items()})
        for member, (job, message) in played.failures.items():
            failures.setdefault(member, (number * size + job, message))  # the pieces come in their order
        steps += played.steps
    return gathered(count, jobs, Played(done, failures, steps), vector.obs_space.shape or ())


def share(jobs: int, workers: int, slots: int) -> int:
    """How many jobs a task has: a worker's share, in up to `PIECES` where each still fills the slots."""
    return min(ceil(jobs / workers), max(slots, ceil(jobs / (PIECES * workers))))


def _played(
    how: tuple[Recipe, int, int, float], policy: SearchPolicy, members: Members, jobs: Sequence[Job], limit: int
) -> Played:
    """On a worker: some jobs of a generation."""
    with torch_threads(1), one_blas_thread():
        vector = _environments(*how)
        return play(vector, policy.crowd(vector.batch), members.theta, jobs, limit)


@lru_cache(maxsize=2)
def _environments(recipe: Recipe, slots: int, bins: int, step_timeout: float) -> envs.Environments:
    """A worker's environments, open as long as the worker lives."""
    look_here()
    return envs.make(recipe, slots, bins=bins, step_timeout=step_timeout)
