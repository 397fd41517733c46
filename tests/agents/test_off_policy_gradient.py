"""The off-policy policy gradient: exact per decision, biased as documented to first order, and its memory survives."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Generator

from scg.agents.a2c import a2c
from scg.agents.environments import envs
from scg.agents.experience.rollout import Rollout
from scg.agents.off_policy_gradient import OffPolicyGradient
from tests.agents.processes import Process
from tests.agents.test_actor_critics import (
    GAMMA,
    Policy,
    exact_critic,
    exact_gradient,
    expected_gradient,
    probabilities,
    weighed_by,
)


def expected(weights: Any, process: Process, policy: Policy, behaviour: Policy, critic_of: Policy, lam: float = 1.0) -> Any:
    config = OffPolicyGradient(weights=weights, gamma=GAMMA, lam=lam)
    critic = exact_critic(process, critic_of)
    return expected_gradient(process, a2c(policy, critic, config.credit()), policy, critic, behaviour)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("seed", [0, 1])
def test_per_decision_weights_give_the_exact_gradient_of_the_policy_that_did_not_act(seed: int) -> None:
    """Every path of the behaviour is summed; the critic is somebody else's, so it is only a baseline here."""
    process, policy, behaviour = Process.random(seed), Policy(seed + 10), Policy(seed + 20)
    found = expected("per-decision", process, policy, behaviour, critic_of=Policy(5))
    exact = exact_gradient(process, policy)
    assert torch.allclose(found, exact, rtol=1e-10, atol=1e-10)
    first_order = expected("first-order", process, policy, behaviour, critic_of=Policy(5))
    assert (first_order - exact).abs().max() > 1e-2  # the same check tells the two apart


@pytest.mark.usefixtures("double")
def test_the_first_order_form_sees_the_states_and_returns_of_the_behaviour() -> None:
    """Its documented mean: Σ_t Σ_s P_μ(s_t = s) Σ_a ∇π(a|s) Q^μ_t(s, a)."""
    process, policy, behaviour = Process.random(3), Policy(1), Policy(2)
    mu, pi = probabilities(behaviour).detach(), probabilities(policy)
    _, q = process.cost_to_go(mu, GAMMA)
    documented = weighed_by(process, mu, policy, lambda t: probabilities(policy) * q[t])
    found = expected("first-order", process, policy, behaviour, critic_of=behaviour)
    assert torch.allclose(found, documented, rtol=1e-10, atol=1e-10)
    assert pi.shape == mu.shape


@pytest.mark.usefixtures("double")
def test_where_the_policy_acted_itself_all_three_agree_with_the_exact_gradient() -> None:
    process, policy = Process.random(4), Policy(6)
    exact = exact_gradient(process, policy)
    for weights in ("per-decision", "first-order", "v-trace"):
        found = expected(weights, process, policy, copy.deepcopy(policy), critic_of=policy)
        assert torch.allclose(found, exact, rtol=1e-10, atol=1e-10), weights


@pytest.mark.parametrize("weights", ["per-decision", "first-order", "v-trace"])
def test_it_learns_from_several_blocks_and_goes_on_from_its_state(weights: Any) -> None:
    config = OffPolicyGradient(weights=weights, horizon=24, hidden=(8,), reuse=2, gradient_steps=2, value_epochs=1)
    with envs.make("CartPole-v1", 2) as vector:
        agent, other = (config.build(vector.obs_space, vector.action_space, Generator().manual_seed(0)) for _ in range(2))
        rollout = Rollout(vector, [0, 1], Generator().manual_seed(0))
        before = copy.deepcopy(agent.policy.state_dict())
        for _ in range(3):
            agent.update(agent.collect(rollout, 10_000), 0.0)
        assert len(agent.state["memory"]) == 2
        assert not torch.equal(before["logits.layers.0.weight"], agent.policy.state_dict()["logits.layers.0.weight"])
        other.load_state_dict(copy.deepcopy(agent.state_dict()))
        block = agent.collect(rollout, 10_000)
        assert agent.update(block, 0.5) == other.update(block, 0.5)
    for a, b in zip(agent.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(a, b)
