"""`normalise_obs` of the off-policy agents: one set of statistics, of every observation collected, that all networks use."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Generator, nn

from scg.agents import config_type
from scg.agents.common.agent import Agent
from scg.agents.common.off_policy import OffPolicy
from scg.agents.environments import envs
from scg.agents.execution.settings import EAGER, Execution
from scg.agents.experience.rollout import Rollout
from scg.agents.networks.normalisers import ObsNormaliser

ENVS = {"dqn": "CartPole-v1", "sac-discrete": "CartPole-v1"}
SMALL: dict[str, Any] = {"hidden": (8,), "warmup": 24, "horizon": 8, "updates": 2, "batch": 8, "replay": 64}
NAMES = ["ddpg", "double-q", "dqn", "naf", "sac", "sac-discrete", "sac-v1", "soft-q", "svg", "td3"]


def trained(name: str, blocks: int, execution: Execution = EAGER, **options: Any) -> tuple[Agent, Rollout]:
    vector = envs.make(ENVS.get(name, "Pendulum-v1"), 2)
    config = config_type(name)(**SMALL, **options)
    agent = config.build(vector.obs_space, vector.action_space, Generator().manual_seed(0), execution)
    rollout = Rollout(vector, [0, 1], Generator().manual_seed(0))
    for block in range(blocks):
        agent.update(agent.collect(rollout, 10**6), block / blocks)
    return agent, rollout


def normalisers(module: nn.Module) -> list[ObsNormaliser]:
    return [part for part in module.modules() if isinstance(part, ObsNormaliser)]


def modules(agent: Agent) -> dict[str, nn.Module]:
    return {name: part for name, part in agent.state.items() if isinstance(part, nn.Module)}


def test_every_off_policy_agent_is_here() -> None:
    from scg.agents import AGENTS

    newer = ["crossq", "redq", "tqc"]  # with networks of their own; their tests are beside their pages
    assert sorted(name for name in AGENTS if issubclass(config_type(name), OffPolicy)) == sorted([*NAMES, *newer])


@pytest.mark.parametrize("name", NAMES)
def test_all_networks_of_an_agent_share_the_statistics_of_all_that_was_collected(name: str) -> None:
    agent, _ = trained(name, 3, normalise_obs=True)
    assert agent.memory is not None
    (normaliser,) = normalisers(agent.policy)
    reading = [module for module in modules(agent).values() if any(x.endswith("shift") for x in module.state_dict())]
    assert len(reading) >= 2  # targets among them
    assert {found for module in reading for found in normalisers(module)} == {normaliser}
    obs = agent.memory.rows(torch.arange(len(agent.memory)))["obs"].double()  # none was overwritten
    assert int(normaliser.count) == 24 + 2 * 16
    assert len(obs) >= 24 + 16  # the newest wait for their n-step targets
    assert torch.allclose(normaliser.moments.mean, obs.mean(0), atol=0.2)


def test_what_is_replayed_is_seen_through_the_statistics_as_they_are_now() -> None:
    agent, _ = trained("td3", 2, normalise_obs=True)
    target, obs = modules(agent)["target_policy"], torch.tensor([[1.0, 0.0, 5.0]])
    before = target(obs)
    (normaliser,) = normalisers(target)
    normaliser.absorb(obs.expand(10_000, 3) + torch.randn(10_000, 3, generator=Generator().manual_seed(0)))
    raw = target.net(normaliser(obs)).tanh()
    assert not torch.allclose(before, target(obs)) and torch.equal(target(obs), raw)


def test_a_prefetched_block_is_collected_with_the_statistics_of_the_policy_that_collects_it() -> None:
    agent, rollout = trained("td3", 3, Execution(overlap=True), normalise_obs=True, noise=0.0)
    (normaliser,) = normalisers(agent.policy)
    frozen, weights = normaliser.shift.clone(), [p.detach().clone() for p in agent.policy.parameters()]
    block = agent.collect(rollout, 10**6)
    agent.update(block, 0.5)  # learns from earlier ones while this is collected
    assert not torch.equal(frozen, normaliser.shift)
    with torch.no_grad():
        for parameter, value in zip(agent.policy.parameters(), weights, strict=True):
            parameter.copy_(value)
        found = block.block()
        earlier = ((found.obs - frozen) * normaliser_scale(normaliser, found.obs)).clamp(-10, 10)
        assert torch.allclose(agent.policy.net(earlier).tanh(), found.action, atol=1e-5)


def normaliser_scale(normaliser: ObsNormaliser, block: torch.Tensor) -> torch.Tensor:
    """1/σ before `block` was absorbed."""
    n, m = int(normaliser.count), block[..., 0].numel()
    flat = block.reshape(m, -1).double()
    mean = (normaliser.moments.mean * n - flat.sum(0)) / (n - m)
    power = normaliser.moments.variance * n + n * normaliser.moments.mean.square() - flat.square().sum(0)
    return (power / (n - m) - mean.square() + 1e-8).rsqrt().float()


def test_without_the_option_nothing_is_normalised() -> None:
    agent, _ = trained("sac", 2)
    assert not any(normalisers(module) for module in modules(agent).values())
