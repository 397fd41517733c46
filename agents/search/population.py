"""The returns of a population: whole episodes of many members at once, in the slots of a vector environment.

    jobs (member, episode, seed) ─► slots ─► crowd.act ─► envs.step ─► U(member) = mean over its episodes

A free slot takes the next job: the member's parameters are generated from its seed, and the environment is reset with the seed
of the job. So an episode depends on (parameters, seed) alone, not on the number of slots, their order, or threads.

A member fails when its environment raises, or when one of its actions, observations or rewards is not finite. Its return is
then NaN, its other episodes are dropped, and the other members continue; the credit decides how a NaN counts. Moments of the
observations are summed episode by episode and joined in the order of the jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from scg.agents.environments.envs import Environments
from scg.agents.environments.faults import EnvironmentFailed, StepTimeout, described
from scg.agents.experience.rollout import Episode
from scg.agents.search.policies import Crowd

LIMITED = "A return needs whole episodes: register the environment with max_episode_steps."


class Job(NamedTuple):
    member: int
    episode: int
    seed: int


@dataclass(frozen=True)
class Returns:
    """What a generation's episodes gave."""

    utility: np.ndarray  # [members] mean return; NaN where one failed
    steps: int
    episodes: list[Episode]  # of the episodes that ended, in the order of the jobs
    failures: dict[int, str]  # member → its first error
    seen: tuple[int, np.ndarray, np.ndarray]  # observations: count, sum, sum of squares


class Played(NamedTuple):
    """What came of some jobs, by their index."""

    done: dict[int, tuple[Episode, np.ndarray, np.ndarray]]
    failures: dict[int, tuple[int, str]]  # member → (job, message)
    steps: int


def evaluate_population(
    envs: Environments, crowd: Crowd, theta: Callable[[int], np.ndarray], members: int, jobs: Sequence[Job], limit: int = 0
) -> Returns:
    """Run every job. `theta(member)` gives its parameters `[d]`. EnvironmentFailed by an episode of more than `limit` steps (0: none)."""
    return gathered(members, jobs, play(envs, crowd, theta, jobs, limit), envs.obs_space.shape or ())


def play(envs: Environments, crowd: Crowd, theta: Callable[[int], np.ndarray], jobs: Sequence[Job], limit: int = 0) -> Played:
    """Run every job in the slots of `envs`."""
    slots = envs.batch
    shape = envs.obs_space.shape or ()
    obs = np.zeros((slots, *shape), envs.obs_space.dtype)
    running: list[int] = [-1] * slots  # the job in each slot
    active = np.zeros(slots, bool)
    total, length = np.zeros(slots), np.zeros(slots, np.int64)
    first, second = np.zeros((slots, *shape)), np.zeros((slots, *shape))
    done: dict[int, tuple[Episode, np.ndarray, np.ndarray]] = {}
    failures: dict[int, tuple[int, str]] = {}  # member → (job, message)
    steps, upcoming = 0, 0

    def fail(job: int, message: str) -> None:
        member = jobs[job].member
        if member not in failures or job < failures[member][0]:
            failures[member] = job, message

    def fill(slot: int) -> None:
        """The next job whose environment starts; without any the slot stays idle."""
        nonlocal upcoming
        active[slot] = False
        while upcoming < len(jobs) and not active[slot]:
            job, upcoming = upcoming, upcoming + 1
            try:
                obs[slot] = envs.restart(slot, jobs[job].seed)
                crowd.load(slot, theta(jobs[job].member))
                running[slot], active[slot] = job, True
            except StepTimeout:
                raise
            except Exception as error:
                fail(job, f"reset: {described(error.__cause__ or error)}")
        total[slot], length[slot], first[slot], second[slot] = 0.0, 0, 0.0, 0.0

    with envs.one_by_one() as faults:
        for slot in range(slots):
            fill(slot)
        while active.any():
            with np.errstate(over="ignore", invalid="ignore"):
                action = crowd.act(obs)
            wide = obs.astype(np.float64)
            first += wide
            second += wide * wide
            good = np.isfinite(action).reshape(slots, -1).all(-1)
            if not good.all():
                action = np.where(good.reshape(-1, *[1] * (action.ndim - 1)), action, 0).astype(action.dtype)
            step = envs.step(action, active)
            total += step.reward
            length += 1
            steps += int(np.count_nonzero(active))
            if limit and (active & (length > limit)).any():
                endless = int(np.flatnonzero(active & (length > limit))[0])
                raise EnvironmentFailed(endless, f"an episode has not ended after {limit:,} steps. {LIMITED}")
            good &= np.isfinite(total) & np.isfinite(step.next_obs).reshape(slots, -1).all(-1)
            obs[:] = step.obs
            for slot in np.flatnonzero(active & (step.terminated | step.truncated | ~good)).tolist():
                job = running[slot]
                if slot in faults:
                    error = faults.pop(slot)
                    fail(job, f"step {length[slot]}: {described(error.__cause__ or error)}")
                elif not good[slot]:
                    fail(job, f"step {length[slot]}: an action, observation or reward is not finite")
                else:
                    done[job] = Episode(float(total[slot]), int(length[slot])), first[slot].copy(), second[slot].copy()
                fill(slot)
    return Played(done, failures, steps)


def gathered(members: int, jobs: Sequence[Job], played: Played, shape: tuple[int, ...]) -> Returns:
    """Returns of the members, summed in the order of the jobs. `shape` is an observation's."""
    done, steps = played.done, played.steps
    failures = {member: message for member, (_, message) in played.failures.items()}
    sums, counts = np.zeros(members), np.zeros(members)
    seen, first, second = 0, np.zeros(shape), np.zeros(shape)
    for job in sorted(done):
        episode, one, two = done[job]
        sums[jobs[job].member] += episode.total
        counts[jobs[job].member] += 1
        seen, first, second = seen + episode.length, first + one, second + two
    utility = np.divide(sums, counts, out=np.full(members, np.nan), where=counts > 0)
    utility[list(failures)] = np.nan
    return Returns(utility, steps, [done[job][0] for job in sorted(done)], failures, (seen, first, second))
