"""REINFORCE's gradient: against a loss written by hand, and against the exact gradient of a small decision process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import pytest
import torch
from torch import Generator, Tensor, nn
from torch.distributions import Distribution

from scg.agents.environments import envs
from scg.agents.experience.rollout import Rollout, discounted_cost
from scg.agents.reinforce import Reinforce, reinforce
from scg.estimators.baselines import MovingAverage
from tests.agents.processes import ACTIONS, END, HORIZON, STATES, Linear, Process, categorical, gaussian, gradient_of

pytestmark = pytest.mark.usefixtures("double")


@pytest.mark.parametrize(("make", "discrete"), [(categorical, True), (gaussian, False)])
def test_the_graphs_gradient_is_the_hand_written_losss(make: Callable[[Tensor], Distribution], discrete: bool) -> None:
    g = Generator().manual_seed(0)
    policy, value = Linear(3, 2, make, 1), Linear(3, 1, lambda x: x.squeeze(-1), 2)
    obs, cost_to_go = torch.randn(7, 5, 3, generator=g), torch.randn(7, 5, generator=g)
    action = torch.randint(2, (7, 5), generator=g) if discrete else torch.randn(7, 5, 2, generator=g)
    first = torch.rand(7, 5, generator=g) < 0.3
    given = {"first": first, "obs": obs, "action": action, "reward": torch.randn(7, 5, generator=g)}
    trace = reinforce(policy, value).replay({**given, "cost_to_go": cost_to_go})

    trace.surrogate("gain", reduce="mean").backward()
    found, nothing = gradient_of(policy), gradient_of(value)
    policy.zero_grad()
    advantage = (cost_to_go - value(obs)).detach()
    (advantage * policy(obs).log_prob(action)).mean().backward()
    assert torch.allclose(found, gradient_of(policy), rtol=1e-12, atol=1e-14)
    assert not nothing.any()  # the actor's objective leaves nothing in the critic

    policy.zero_grad(), value.zero_grad()
    trace.surrogate("regression", reduce="mean").backward()
    found, nothing = gradient_of(value), gradient_of(policy)
    value.zero_grad()
    (value(obs) - cost_to_go).square().mean().backward()
    assert torch.allclose(found, gradient_of(value), rtol=1e-12, atol=1e-14)
    assert not nothing.any()


Credit = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def expected_gradient(
    process: Process,
    policy: nn.Module,
    value: nn.Module,
    gamma: float,
    credit: Credit,
    steps: int = HORIZON,
    baseline: str | nn.Module | None = "value",
) -> Tensor:
    """E[∇ surrogate], summed over every path. `credit(reward, terminated, truncated, continuation)` is cost_to_go."""
    graph, pi = reinforce(policy, value, baseline), policy(torch.eye(STATES)).probs.detach()
    exact_value, _ = process.cost_to_go(pi, gamma)
    policy.zero_grad()
    total = torch.zeros_like(gradient_of(policy))
    for states, actions, last in process.paths(steps):
        s, a = torch.tensor(states), torch.tensor(actions)
        probability = (pi[s, a] * process.transition[s, a, torch.tensor([*states[1:], last])]).prod()
        reward = process.reward[s, a][:, None]
        cut, no = torch.zeros_like(reward, dtype=torch.bool), torch.zeros_like(reward, dtype=torch.bool)
        cut[-1] = True
        ended = last == END
        continuation = torch.where(cut, exact_value[len(actions), last], 0.0) if not ended else torch.zeros_like(reward)
        given = {
            "first": torch.arange(len(s))[:, None] == 0,
            "obs": torch.eye(STATES)[s][:, None],
            "action": a[:, None],
            "reward": reward,
            "cost_to_go": credit(reward, cut if ended else no, no if ended else cut, continuation),
        }
        policy.zero_grad()
        graph.replay(given).surrogate("gain", reduce="sum").backward()
        total += probability * gradient_of(policy)
    return total


def recorded(gamma: float) -> Credit:
    return lambda reward, terminated, truncated, after: discounted_cost(-reward, terminated, truncated, after, gamma)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_its_expectation_is_the_exact_policy_gradient(gamma: float, seed: int) -> None:
    process = Process.random(seed)
    policy, value = Linear(STATES, ACTIONS, categorical, seed), Linear(STATES, 1, lambda x: x.squeeze(-1), seed + 9)
    exact = process.exact_gradient(policy, gamma)
    found = expected_gradient(process, policy, value, gamma, recorded(gamma))
    assert exact.norm() > 0.05
    assert torch.allclose(found, exact, rtol=1e-10, atol=1e-12)


def test_undiscounted_it_is_the_gradient_of_the_expected_cost() -> None:
    process, policy = Process.random(0), Linear(STATES, ACTIONS, categorical, 0)
    policy.zero_grad()
    pi = policy(torch.eye(STATES)).probs
    process.cost_to_go(pi, 1.0)[0][0, 0].backward()  # autograd through the dynamic programme itself
    found = gradient_of(policy)
    assert torch.allclose(found, process.exact_gradient(policy, 1.0), rtol=1e-12)


def test_a_block_cut_short_stays_exact_when_the_critic_is_exact() -> None:
    process = Process.random(1)
    policy, value = Linear(STATES, ACTIONS, categorical, 1), Linear(STATES, 1, lambda x: x.squeeze(-1), 2)
    found = expected_gradient(process, policy, value, 0.9, recorded(0.9), steps=2)
    assert torch.allclose(found, process.exact_gradient(policy, 0.9, steps=2), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("mistake", "steps"),
    [
        pytest.param(lambda r, te, tr, v: torch.cat([recorded(0.9)(r, te, tr, v)[1:], 0 * r[:1]]), HORIZON, id="off by one"),
        pytest.param(lambda r, te, tr, v: recorded(0.9)(-r, te, tr, v), HORIZON, id="reward taken for cost"),
        pytest.param(lambda r, te, tr, v: recorded(0.9)(r, te | tr, 0 * tr > 0, 0 * v), 2, id="truncation not continued"),
        pytest.param(lambda r, te, tr, v: recorded(0.9)(r, te, tr, v + 1.0 * te), HORIZON, id="termination continued"),
    ],
)
def test_a_biased_twin_is_caught(mistake: Credit, steps: int) -> None:
    process = Process.random(1)
    policy, value = Linear(STATES, ACTIONS, categorical, 1), Linear(STATES, 1, lambda x: x.squeeze(-1), 2)
    exact = process.exact_gradient(policy, 0.9, steps)
    found = expected_gradient(process, policy, value, 0.9, mistake, steps)
    assert (found - exact).norm() > 0.01 * exact.norm()  # the tests above hold to 1e-10


def test_the_baseline_changes_the_variance_and_not_the_mean() -> None:
    process, policy = Process.random(2), Linear(STATES, ACTIONS, categorical, 2)
    means = [
        expected_gradient(process, policy, Linear(STATES, 1, lambda x: x.squeeze(-1), seed), 0.9, recorded(0.9))
        for seed in (1, 2)
    ]
    assert torch.allclose(means[0], means[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("level", [None, -1.3])
def test_no_baseline_and_a_running_level_leave_the_exact_gradient(level: float | None) -> None:
    process, policy = Process.random(2), Linear(STATES, ACTIONS, categorical, 2)
    average = None
    if level is not None:
        average = MovingAverage()
        average.update(torch.tensor(level))
    value = Linear(STATES, 1, lambda x: x.squeeze(-1), 1)
    found = expected_gradient(process, policy, value, 0.9, recorded(0.9), baseline=average)
    assert torch.allclose(found, process.exact_gradient(policy, 0.9), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("baseline", ["none", "mean", "optimal"])
def test_levels_follow_the_blocks_that_were_learned_from(baseline: Any) -> None:
    """The first block meets the level 0; the second the first's mean, plain or weighed by ‖∇ log π‖²."""
    config = Reinforce(baseline=baseline, horizon=12, hidden=(4,), lr=0.0, value_lr=0.0)
    with envs.make("Pendulum-v1", 2) as vector:
        agent = config.build(vector.obs_space, vector.action_space, Generator().manual_seed(0))
        rollout = Rollout(vector, [0, 1], Generator().manual_seed(0))
        block = agent.collect(rollout, 10_000)
        metrics = agent.update(block, 0.0)
    if baseline == "none":
        assert "baseline" not in metrics
        return
    value = agent.state["value"]
    cost = block.cost_to_go(value, config.gamma).flatten()
    weight = torch.ones_like(cost)
    if baseline == "optimal":
        for i, (obs, action) in enumerate(zip(block.obs.flatten(0, 1), block.action.flatten(0, 1), strict=True)):
            agent.policy.zero_grad()
            agent.policy(obs).log_prob(action).backward()
            weight[i] = gradient_of(agent.policy).square().sum()
    assert metrics["baseline"] == pytest.approx(float((weight * cost).sum() / weight.sum()), rel=1e-9)
    assert "baseline" in agent.state_dict()


@pytest.mark.parametrize("horizon", [16, 0])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_one_update_moves_policy_and_critic(env_id: str, horizon: int) -> None:
    torch.set_default_dtype(torch.float32)
    with envs.make(env_id, 2) as vector:
        config = Reinforce(horizon=horizon, hidden=(8,))
        agent = config.build(vector.obs_space, vector.action_space, Generator().manual_seed(0))
        rollout = Rollout(vector, [0, 1], Generator().manual_seed(0))
        before = [p.clone() for p in agent.policy.parameters()]
        metrics = agent.update(agent.collect(rollout, 10_000), 0.0)
        assert all((p != q).any() for p, q in zip(before, agent.policy.parameters(), strict=True))
        assert metrics["actor_grad_norm"] > 0
        assert metrics["critic_grad_norm"] > 0


def test_the_environment_is_known_to_depend_on_the_action() -> None:
    with envs.make("CartPole-v1", 1) as vector:
        graph = Reinforce(hidden=(8,)).build(vector.obs_space, vector.action_space, Generator().manual_seed(0)).graph
    assert isinstance(vector.action_space, gym.spaces.Discrete)
    assert graph.ancestors("gain") == ("action",)
    assert "action" in graph.ancestors("value")  # through the next observation: at lag 1 and later, never at lag 0
    lags = graph.lags("action", "value")
    assert lags is not None
    assert lags.lo == 1
