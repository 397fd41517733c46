"""Agents that differentiate through dynamics: what is replayed, what is learned, and that runs end the same when they resume."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import pytest
import torch
from torch import Generator, Tensor

import scg
from scg.agents.bptt import BPTT
from scg.agents.common.model_based import ModelBased
from scg.agents.dynamics.classic import Pendulum
from scg.agents.dynamics.ensemble import Ensemble
from scg.agents.environments.envs import EnvironmentFault, make
from scg.agents.execution.options import OptionError
from scg.agents.experience.rollout import Rollout
from scg.agents.networks.squashed_normal import SquashedNormal
from scg.agents.shac import SHAC
from scg.agents.svg_k import SVGK
from scg.estimators import Pathwise

SMALL: dict[str, Any] = {"batch": 6, "hidden": (8,), "model_hidden": (8,), "members": 2, "fits": 2, "updates": 1}
LEARNED: dict[str, Any] = {**SMALL, "warmup": 12, "collect": 8}


def built(config: ModelBased) -> Any:
    env = gym.make("Pendulum-v1")
    return config.build(env.observation_space, env.action_space, Generator().manual_seed(0))


@pytest.mark.parametrize(
    "config",
    [
        BPTT(dynamics="pendulum", horizon=4, **SMALL),
        BPTT(dynamics="pendulum", horizon=4, window=2, **SMALL),
        SHAC(dynamics="pendulum", horizon=3, life=6, **SMALL),
        BPTT(horizon=4, **LEARNED),
        SHAC(horizon=3, **LEARNED),
        SVGK(k=2, **LEARNED),
    ],
    ids=["bptt", "truncated", "shac", "bptt, learned", "shac, learned", "svg-k"],
)
def test_an_update_moves_the_policy_and_a_copy_from_its_state_goes_on_with_the_same_bits(config: ModelBased) -> None:
    one, other = built(config), built(config)
    with make("Pendulum-v1", 1) as envs:
        rollout = Rollout(envs, [3], Generator().manual_seed(1))
        blocks = [one.collect(rollout, 100) for _ in range(2)]
    before = [p.detach().clone() for p in one.policy.parameters()]
    metrics = one.update(blocks[0], 0.0)
    assert all(torch.isfinite(torch.tensor(value)) for value in metrics.values())
    assert any(not torch.equal(p, q) for p, q in zip(before, one.policy.parameters(), strict=True))
    other.load_state_dict(one.state_dict())
    if other.memory is not None:
        other.memory.add(blocks[0])
    for agent in (one, other):
        agent.update(blocks[1], 0.5)
    for p, q in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(p, q)


def test_checkpointed_backpropagation_takes_the_same_step() -> None:
    config = BPTT(dynamics="pendulum", horizon=6, **SMALL)
    one, other = built(config), built(replace(config, checkpoint=2))
    for agent in (one, other):
        agent.update(None, 0.0)
    for p, q in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.usefixtures("double")
def test_the_policy_gradient_of_a_pendulum_is_that_of_differences() -> None:
    agent = built(BPTT(dynamics="pendulum", horizon=5, **SMALL))
    start, weight = Pendulum().start(6, Generator().manual_seed(2)), torch.ones(5, 1)

    def cost() -> Tensor:
        return agent.graph.surrogate(start=start, weight=weight, generator=Generator().manual_seed(4))

    parameter = agent.policy.heads.layers[-1].weight
    (slope,) = torch.autograd.grad(cost(), parameter)
    with torch.no_grad():
        values = []
        for step in (1e-5, -1e-5):
            parameter[0, 0] += step
            values.append(float(cost()))
            parameter[0, 0] -= step
    assert float(slope[0, 0]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)


@pytest.mark.usefixtures("double")
def test_recorded_steps_are_what_the_replayed_graph_passes_through() -> None:
    """Whatever the model predicts, the states are the recorded ones; the noise behind squashed actions is found again."""
    agent = built(SVGK(k=2, **LEARNED))
    action, state = torch.rand(2, 6, 1) - 0.5, torch.randn(2, 6, 4)
    trace = agent.graph.replay(
        {"action": action, "state": state, "start": torch.randn(6, 4), "weight": torch.ones(2, 1)}, after=0.9
    )
    torch.testing.assert_close(trace["state"].detach(), state)
    torch.testing.assert_close(trace["action"].detach(), action)
    loc, log_scale = torch.tensor([[0.3]]).requires_grad_(), torch.tensor([[-0.7]]).requires_grad_()
    noise = torch.randn(1, 1)
    made = (loc + log_scale.exp() * noise).tanh()
    again = SquashedNormal(loc, log_scale).reparameterised(made.detach())
    for x, y in zip(*(torch.autograd.grad(v.sum(), (loc, log_scale), retain_graph=True) for v in (made, again)), strict=True):
        torch.testing.assert_close(x, y)
    graph = scg.Graph()
    graph.stochastic(
        Pathwise(smooth=True), lambda loc, log_scale: SquashedNormal(loc, log_scale), name="a", parents=["loc", "log_scale"]
    )
    graph.cost(lambda a: a.sum(-1), name="loss", parents=["a"])
    graph.replay({"a": made.detach()}, loc=loc, log_scale=log_scale).surrogate().backward()
    torch.testing.assert_close(loc.grad, torch.autograd.grad(made.sum(), loc, retain_graph=True)[0])


@pytest.mark.usefixtures("double")
def test_an_ensemble_learns_a_linear_process_and_its_noise() -> None:
    g = Generator().manual_seed(0)
    model = Ensemble(2, 1, (16,), 3, g)
    obs, action = torch.randn(600, 2, generator=g), 2 * torch.rand(600, 1, generator=g) - 1
    scale = torch.tensor([0.1, 0.3])
    after = obs + torch.cat([obs[:, 1:], action], -1) * 0.5 + scale * torch.randn(600, 2, generator=g)
    reward = -obs.square().sum(-1)
    model.normalise(obs, action, after, reward)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(250):
        index = torch.randint(600, (3, 128), generator=g)
        loss = model.loss(obs[index], action[index], after[index], reward[index])
        optimiser.zero_grad(), loss.backward(), optimiser.step()
    found = model.transition(model.state(obs), action)
    expected = obs + torch.cat([obs[:, 1:], action], -1) * 0.5
    assert float((found.mean[:, :2].detach() - expected).square().mean().sqrt()) < 0.08
    assert found.stddev[:, :2].mean(0).tolist() == pytest.approx(scale.tolist(), rel=0.2)
    assert float((found.mean[:, 2].detach() - reward).abs().mean()) < 0.3


def test_rows_of_a_batch_keep_their_member_and_know_nothing_of_each_other() -> None:
    model = Ensemble(2, 1, (8,), 3, Generator().manual_seed(0))
    state, action = torch.randn(7, 3), torch.rand(7, 1)
    whole = model.transition(state, action).mean
    changed = state.clone()
    changed[3] += 1.0
    other = model.transition(changed, action).mean
    assert torch.equal(whole[[0, 1, 2, 4, 5, 6]], other[[0, 1, 2, 4, 5, 6]]) and not torch.equal(whole[3], other[3])
    for row in range(7):
        mean, _ = model.outputs(state[row : row + 1, :2], action[row : row + 1])
        expected = model.middle + model.spread * mean[row // 3, 0] + torch.cat([state[row, :2], torch.zeros(1)])
        torch.testing.assert_close(whole[row], expected)


def test_what_does_not_fit_is_refused() -> None:
    env = gym.make("CartPoleForce-v0")
    with pytest.raises(EnvironmentFault, match="Pendulum has 3 observed numbers"):
        BPTT(dynamics="pendulum").build(env.observation_space, env.action_space, Generator().manual_seed(0))
    with pytest.raises(OptionError, match="that is the agent svg"):
        SVGK(k=0)
    with pytest.raises(OptionError, match="learns its model"):
        SVGK(dynamics="pendulum")
