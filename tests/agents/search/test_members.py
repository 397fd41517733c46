"""Members on an executor: pieces of a generation join to what one process finds, failures and statistics included."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from scg.agents.environments import envs
from scg.agents.environments.faults import EnvironmentFailed
from scg.agents.experience.rollout import Rollout
from scg.agents.search import members
from scg.agents.search.distributions import DiagonalGaussian
from scg.agents.search.members import Members, evaluated
from scg.agents.search.perturbations import Perturbations
from scg.agents.search.policies import NetworkPolicy
from scg.agents.search.population import Job, Returns
from scg.executors import InProcess

from . import worlds  # noqa: F401  registers them


class Elsewhere(InProcess):
    """Tasks run here, but as if they were sent: their arguments and results are pickled."""

    elsewhere = True

    def __init__(self, workers: int) -> None:
        super().__init__()
        self.workers = workers

    def stream(self, function: Any, tasks: Any, seed: int = 0) -> Iterator[tuple[int, Any]]:
        sent = pickle.loads(pickle.dumps(list(tasks)))
        found = list(super().stream(function, sent, seed))
        yield from pickle.loads(pickle.dumps(found))[::-1]  # the last one ends first


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    members._environments.cache_clear()


@dataclass
class Given:
    """Members whose linear policies give these values, whatever they observe."""

    values: list[float]
    size: int

    def members(self, noise: Tensor) -> Tensor:
        theta = torch.zeros(1, self.size, dtype=torch.float64)
        theta[0, -1] = self.values[int(noise[0, 0])]
        return theta


@dataclass(frozen=True)
class Numbers:
    """In place of noise: the member's number."""

    def rows(self, generation: int, which: list[int]) -> Tensor:
        return torch.tensor([which], dtype=torch.float64)


def equal(one: Returns, other: Returns) -> bool:
    return (
        one.utility.tobytes() == other.utility.tobytes()
        and one.episodes == other.episodes
        and one.failures == other.failures
        and one.steps == other.steps
        and all(np.array_equal(mine, theirs) for mine, theirs in zip(one.seen, other.seen, strict=True))
    )


@pytest.mark.parametrize("workers", [2, 3, 20])
def test_pieces_of_a_generation_join_to_the_same_bits(workers: int) -> None:
    with envs.make("CartPole-v1", 3) as vector:
        policy = NetworkPolicy(vector.obs_space, vector.action_space, (4,), Generator().manual_seed(0))
        noise = Perturbations(3, len(policy.start), mirrored=True)
        crowd = Members(DiagonalGaussian(policy.start, 0.5, learn_scale=False), noise, 5)
        jobs = [Job(member, episode, 100 + 7 * episode + member) for member in range(7) for episode in range(2)]
        here, there = (
            evaluated(Rollout(vector, range(3), Generator(), executor), policy, crowd, 7, jobs, 1000)
            for executor in (None, Elsewhere(workers))
        )
        assert equal(here, there)
        later = Members(crowd.distribution, noise, 6)
        assert not equal(here, evaluated(Rollout(vector, range(3), Generator()), policy, later, 7, jobs, 1000))


def test_a_member_that_fails_in_a_piece_costs_that_member() -> None:
    with envs.make("Fragile-v0", 2) as vector:
        policy = NetworkPolicy(vector.obs_space, vector.action_space, (), Generator().manual_seed(0))
        crowd = Members(Given([0.5, -1.0, 0.25, -2.0, -3.0], len(policy.start)), Numbers(), 0)  # type: ignore[arg-type]
        jobs = [Job(member, episode, member + episode) for member in range(5) for episode in range(2)]
        here, there = (
            evaluated(Rollout(vector, range(2), Generator(), executor), policy, crowd, 5, jobs, 1000)
            for executor in (None, Elsewhere(3))
        )
    assert equal(here, there)
    assert sorted(there.failures) == [1, 3, 4] and there.failures[1] == "step 2: RuntimeError: the motor is hot"
    assert np.isnan(there.utility[[1, 3, 4]]).all() and there.utility[0] == 2.0


def test_an_endless_episode_is_an_error_from_a_worker_too() -> None:
    with envs.make("Fragile-v0", 2) as vector:
        policy = NetworkPolicy(vector.obs_space, vector.action_space, (), Generator().manual_seed(0))
        crowd = Members(Given([0.5, 0.5], len(policy.start)), Numbers(), 0)  # type: ignore[arg-type]
        with pytest.raises(EnvironmentFailed, match="an episode has not ended after 2 steps"):
            evaluated(Rollout(vector, range(2), Generator(), Elsewhere(2)), policy, crowd, 2, [Job(0, 0, 0), Job(1, 0, 1)], 2)


def test_the_errors_of_environments_can_be_sent() -> None:
    error = EnvironmentFailed(3, "reward has nan", "step 5")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is EnvironmentFailed and str(again) == str(error)
    assert (again.index, again.found, again.when) == (3, "reward has nan", "step 5")
