"""Populations: the same returns however they are split, and a member's failure costs that member."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Generator

from scg.agents.environments import envs
from scg.agents.environments.faults import EnvironmentFailed
from scg.agents.search.perturbations import Perturbations
from scg.agents.search.policies import NetworkPolicy
from scg.agents.search.population import Job, Returns, evaluate_population

from . import worlds  # noqa: F401  registers them


def biases(policy: NetworkPolicy, values: list[float]) -> np.ndarray:
    """Linear policies that give `values`, whatever they observe."""
    theta = np.zeros((len(values), len(policy.start)))
    theta[:, -1] = values
    return theta


def run(env_id: str, slots: int, theta: np.ndarray, policy: NetworkPolicy, jobs: list[Job], threads: int = 1) -> Returns:
    with envs.make(env_id, slots, threads=threads) as vector:
        vector.reset(list(range(slots)))
        return evaluate_population(vector, policy.crowd(slots), lambda member: theta[member], len(theta), jobs)


def network(env_id: str, hidden: tuple[int, ...] = ()) -> NetworkPolicy:
    with envs.make(env_id, 1) as one:
        return NetworkPolicy(one.obs_space, one.action_space, hidden, Generator().manual_seed(0))


@pytest.mark.parametrize(("env_id", "hidden"), [("CartPole-v1", (8,)), ("InvertedPendulum-v5", (16, 16)), ("Hopper-v5", ())])
def test_returns_do_not_depend_on_slots_or_threads(env_id: str, hidden: tuple[int, ...]) -> None:
    policy = network(env_id, hidden)
    noise = Perturbations(3, len(policy.start)).rows(0, range(7)).numpy()
    theta = policy.start.numpy() + 0.3 * noise
    jobs = [Job(member, episode, 100 + 7 * episode + member) for member in range(7) for episode in range(2)]
    first = run(env_id, 1, theta, policy, jobs)
    for slots, threads in ((3, 1), (5, 2), (16, 2)):
        other = run(env_id, slots, theta, policy, jobs, threads)
        assert other.utility.tobytes() == first.utility.tobytes()
        assert other.episodes == first.episodes
        assert other.steps == first.steps == sum(episode.length for episode in first.episodes)
        assert all(np.array_equal(mine, theirs) for mine, theirs in zip(other.seen, first.seen, strict=True))


def test_a_member_is_the_policy_that_evaluation_runs() -> None:
    policy = network("InvertedPendulum-v5", (8,))
    theta = policy.start + 0.3 * torch.randn(len(policy.start), dtype=torch.float64, generator=Generator().manual_seed(1))
    obs = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    policy.hold(theta)
    w1, b1 = theta[:32].view(4, 8).float(), theta[32:40].float()
    w2, b2 = theta[40:48].view(8, 1).float(), theta[48:].float()
    expected = (torch.from_numpy(obs) @ w1 + b1).tanh() @ w2 + b2
    assert torch.allclose(policy(torch.from_numpy(obs)), expected, atol=1e-6)
    assert np.array_equal(policy.numpy_actor()(obs[:1], None), policy.numpy_actor()(obs, None)[:1])


def test_each_kind_of_failure_costs_one_member() -> None:
    policy = network("Fragile-v0")
    theta = biases(policy, [2.0, -1.0, -2.0, -3.0, np.nan, 3.0])
    jobs = [Job(member, 0, member) for member in range(6)]
    for slots in (1, 4):
        found = run("Fragile-v0", slots, theta, policy, jobs)
        assert found.utility[[0, 5]].tolist() == [8.0, 12.0]
        assert np.isnan(found.utility[1:5]).all()
        assert found.failures[1] == "step 2: RuntimeError: the motor is hot"
        assert all("not finite" in found.failures[member] for member in (2, 3, 4))
        assert len(found.episodes) == 2


def test_an_environment_that_cannot_be_reset_costs_its_member() -> None:
    policy = network("Fragile-v0")
    jobs = [Job(0, 0, 1), Job(0, 1, 13), Job(1, 0, 1), Job(1, 1, 2)]
    found = run("Fragile-v0", 2, biases(policy, [1.0, 2.0]), policy, jobs)
    assert found.failures == {0: "reset: OSError: no such seed"}
    assert np.isnan(found.utility[0]) and found.utility[1] == 8.0


def test_a_time_limit_ends_an_episode() -> None:
    policy = network("FragileLimited-v0")
    found = run("FragileLimited-v0", 2, biases(policy, [1.0, 2.0, 3.0]), policy, [Job(m, 0, m) for m in range(3)])
    assert found.utility.tolist() == [3.0, 6.0, 9.0]


def test_the_rest_of_a_vector_still_raises() -> None:
    with envs.make("Fragile-v0", 2) as vector:
        vector.reset([0, 1])
        vector.step(np.full((2, 1), -1.0))
        with pytest.raises(EnvironmentFailed, match="environment [01]: step raised RuntimeError: .*motor"):
            vector.step(np.full((2, 1), -1.0))


def test_observations_are_counted_once_each() -> None:
    policy = network("Fragile-v0")
    found = run("Fragile-v0", 2, biases(policy, [1.0, 2.0, -1.0]), policy, [Job(m, 0, m) for m in range(3)])
    count, total, squares = found.seen
    starts = np.stack([np.random.Generator(np.random.PCG64(seed)).uniform(0.5, 1.0, 2).astype(np.float32) for seed in (0, 1)])
    assert count == 8
    assert total == pytest.approx(4 * starts.astype(float).sum(0))
    assert squares == pytest.approx(4 * (starts.astype(float) ** 2).sum(0))
