"""Masks of actions: one masked distribution for acting, exploring, log-probabilities, entropies and targets."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Generator
from torch.distributions import Categorical

import scg
from scg.agents.dqn import DQN, dqn
from scg.agents.environments import envs
from scg.agents.environments.faults import EnvironmentFailed, EnvironmentFault
from scg.agents.environments.flat_space import FlatObservation, FlatSpace, checked_mask
from scg.agents.experience.rollout import Rollout
from scg.agents.networks.legal import Legal
from scg.agents.networks.policies import make_policy
from scg.agents.networks.q_heads import QHeads
from scg.agents.ppo import PPO
from scg.agents.sac_discrete import DiscreteSAC
from scg.estimators import Enumeration

SPACE = FlatSpace(spaces.Box(0.0, 1.0, (3,), np.float32), 4)


def observations(count: int) -> torch.Tensor:
    generator = Generator().manual_seed(0)
    obs, mask = torch.rand(count, 3, generator=generator), torch.rand(count, 4, generator=generator) < 0.5
    mask[:, 2] |= ~mask.any(-1)
    return torch.cat([obs, mask.to(obs.dtype)], -1)


def policy_of(hidden: int = 8) -> Any:
    policy = make_policy(SPACE, spaces.Discrete(4), [hidden], Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=Generator().manual_seed(2)))
    return policy


def test_the_masked_distribution_is_the_policy_conditioned_on_what_is_allowed() -> None:
    policy, obs = policy_of(), observations(20)
    free = Categorical(logits=policy.logits(obs[:, :3])).probs
    conditioned = free * obs[:, 3:] / (free * obs[:, 3:]).sum(-1, keepdim=True)
    pi = policy(obs)
    torch.testing.assert_close(pi.probs, conditioned)
    entropy = -(conditioned * conditioned.clamp_min(1e-30).log()).sum(-1)
    torch.testing.assert_close(pi.entropy(), entropy)


def test_the_masked_policy_gradient_is_the_sum_over_allowed_actions() -> None:
    """Enumeration, and the mean of the likelihood ratio over all actions, against a sum by hand that never sees the others."""
    torch.set_default_dtype(torch.float64)
    try:
        policy, obs = policy_of(), observations(6)
        cost = torch.randn(6, 4, generator=Generator().manual_seed(3))
        by_hand = torch.zeros(())
        for row, costs in zip(obs, cost, strict=True):
            allowed = row[3:].bool()
            by_hand = by_hand + (policy.logits(row[:3])[allowed].softmax(-1) * costs[allowed]).sum() / 6
        wanted = torch.autograd.grad(by_hand, policy.parameters())

        def gradient(estimator: Any) -> tuple[torch.Tensor, ...]:
            graph = scg.Graph()
            graph.stochastic(estimator, policy, name="action", parents=["obs"])
            graph.cost(
                lambda action, cost: cost.expand(*action.shape, 4).gather(-1, action.unsqueeze(-1)).squeeze(-1),
                name="loss",
                parents=["action", "cost"],
            )
            trace = graph.sample(obs=obs, cost=cost)
            return torch.autograd.grad(trace.surrogate(), policy.parameters())

        for mine, exact in zip(gradient(Enumeration()), wanted, strict=True):
            torch.testing.assert_close(mine, exact)
        score = [torch.zeros_like(exact) for exact in wanted]
        with torch.no_grad():
            probs = policy(obs).probs
        for action in range(4):  # E[c ∇log π] = Σ π(a) c(a) ∇log π(a), action by action
            for i in range(6):
                loss = probs[i, action] * cost[i, action] * policy(obs[i]).log_prob(torch.tensor(action)) / 6
                for total, part in zip(score, torch.autograd.grad(loss, policy.parameters()), strict=True):
                    total += part
        for mine, exact in zip(score, wanted, strict=True):
            torch.testing.assert_close(mine, exact)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "settings", [PPO(horizon=32), DQN(warmup=64, horizon=32, epsilon_last=1.0), DiscreteSAC(warmup=64, horizon=32)]
)
def test_no_forbidden_action_is_taken_while_exploring_or_at_last(settings: Any) -> None:
    with envs.make("HiddenDoors-v0", 4) as vector:
        agent = settings.build(vector.obs_space, vector.action_space, Generator().manual_seed(0))
        rollout = Rollout(vector, [1, 2, 3, 4], Generator().manual_seed(5))
        for _ in range(3):
            block = agent.collect(rollout, 10**6)
            agent.update(block, 0.0)
            mask = vector.obs_space.mask(block.obs)
            assert mask.sum(-1).eq(2).all() and mask.gather(-1, block.action.unsqueeze(-1)).all()
        for deterministic in (True, False):
            block = rollout.episodes(agent.policy, deterministic=deterministic, log_prob=False)
            assert [episode.length for episode in block.episodes] == [16] * 4


def test_exploring_dqn_draws_allowed_actions_equally_often() -> None:
    with envs.make("HiddenDoors-v0", 8) as vector:
        agent = DQN(warmup=4000).build(vector.obs_space, vector.action_space, Generator().manual_seed(0))
        block = agent.collect(Rollout(vector, list(range(8)), Generator().manual_seed(5)), 10**6)
        mask = vector.obs_space.mask(block.obs)
        lower = block.action == mask.argmax(-1)  # of the two
        assert abs(float(lower.float().mean()) - 0.5) < 4 * 0.5 / len(lower.flatten()) ** 0.5


def test_dqns_target_is_the_maximum_over_what_the_next_state_allows() -> None:
    critic, other = (QHeads(_encoder(), spaces.Discrete(4), [8], Generator().manual_seed(s), SPACE) for s in (0, 1))
    next_obs = observations(10)
    zero = torch.zeros(10)
    for double in (True, False):
        trace = dqn(critic, other, double).sample(
            obs=observations(10), action=next_obs[:, 3:].argmax(-1), reward=zero, discount=zero + 0.5, next_obs=next_obs
        )
        free = [net.net(next_obs[:, :3]).detach() for net in (critic, other)]
        for row in range(10):
            allowed = next_obs[row, 3:].nonzero().flatten().tolist()
            chooser = free[0 if double else 1][row]
            best = max(allowed, key=lambda a: float(chooser[a]))
            torch.testing.assert_close(trace["target"][row], 0.5 * free[1][row, best])


def _encoder():
    from scg.agents.networks.encoder import Encoder

    return Encoder(SPACE)


def test_masks_of_several_choices_lie_end_to_end() -> None:
    space = FlatSpace(spaces.Box(0.0, 1.0, (1,), np.float32), 5)  # of 2 and 3 choices
    legal = Legal(space, [2, 3])
    obs = torch.tensor([[0.3, 1.0, 0.0, 0.0, 1.0, 1.0]])
    moved = legal(torch.zeros(1, 2, 3), obs)
    assert (moved[0, 0, :2] == 0).tolist() == [True, False] and (moved[0, 1] == 0).tolist() == [False, True, True]
    assert np.array_equal(legal(np.zeros((1, 2, 3), np.float32), obs.numpy()), moved.numpy())


class Maskless(gym.Env):
    """Says that it has masks, and gives what its class says."""

    metadata: ClassVar[dict[str, Any]] = {"action_mask": True, "render_modes": []}
    given: ClassVar[Any] = None
    observation_space, action_space = spaces.Discrete(3), spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return 0, {} if self.given is None else {"action_mask": self.given}


gym.register("Maskless-v0", entry_point=Maskless)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (None, 'info has no "action_mask"'),
        ([1], "1 entries, the action space has 2 choices"),
        ([0, 0], "allows no action"),
    ],
)
def test_wrong_masks_are_refused(given: Any, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Maskless, "given", given)
    with envs.make("Maskless-v0", 1) as one, pytest.raises(EnvironmentFailed, match=says):
        one.reset([0])


def test_an_episode_may_end_where_nothing_is_allowed() -> None:
    assert checked_mask([0, 0], 2, over=True).tolist() == [True, True]


def test_masks_are_for_discrete_actions() -> None:
    with pytest.raises(EnvironmentFault, match="masks are for discrete actions"):
        make_policy(SPACE, spaces.Box(-1.0, 1.0, (2,)), [4])
    with pytest.raises(ValueError, match="masks are for discrete actions"):
        FlatObservation(gym.make("Pendulum-v1"), masks=True)


def test_a_masked_policy_learns_what_one_without_masks_cannot() -> None:
    def score(env: str) -> float:
        with envs.make(env, 8) as vector:
            agent = PPO(lr=3e-3, horizon=64, epochs=4, normalise_obs=False).build(
                vector.obs_space, vector.action_space, Generator().manual_seed(0)
            )
            rollout = Rollout(vector, list(range(8)), Generator().manual_seed(1))
            for i in range(10):
                agent.update(agent.collect(rollout, 10**6), i / 10)
            block = rollout.episodes(agent.policy, each=4, deterministic=True, log_prob=False)
            return float(np.mean([episode.total for episode in block.episodes]))

    assert score("HiddenDoors-v0") > 0.65 > 0.2 > score("HiddenDoorsUnmasked-v0")
