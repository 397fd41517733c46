"""A user's agents: one from a function, one that adds a cost to PPO's page, one that adds it to the graph `ppo` returns."""

from __future__ import annotations

from dataclasses import dataclass

from layers import HIDDEN
from torch import Tensor

import scg
from scg import ScoreFunction, detach, prev
from scg.agents import Adam, Agent, Callback, agent, make_policy, on_policy, value_critic
from scg.agents.ddpg import DDPG
from scg.agents.ppo import PPO, ppo
from scg.estimators.credit import GAE


class Halves(Callback):
    """Metrics of one's own."""

    def after_update(self, now, metrics):
        return {"half_gain": metrics["gain"] / 2}

    def after_evaluation(self, now, evaluation):
        return {"half_return": evaluation.mean / 2}


@agent
def simple(obs_space, action_space, generator, lr: float = 1e-2, horizon: int = 16) -> Agent:
    """REINFORCE."""
    policy = make_policy(obs_space, action_space, HIDDEN, generator)
    graph = scg.Graph()
    with graph.sequence(first="first"):
        graph.observed("first")
        graph.observed("obs", parents=[prev("obs"), prev("action")])
        graph.stochastic(ScoreFunction(), policy, name="action", parents=["obs"])
        graph.observed("reward", parents=["obs", "action"])
        graph.observed("cost_to_go", parents=["reward"])
        graph.reward(lambda reward: reward, name="gain", trains=policy)
    objectives = {"gain": Adam(policy.parameters(), rate=lr)}
    return on_policy(graph, policy=policy, objectives=objectives, horizon=horizon, callbacks=[Halves()])


@dataclass(frozen=True)
class Smooth(PPO):
    """PPO, whose policy is also charged for its squared probabilities."""

    weight: float = 0.1
    """of that cost"""
    hidden: tuple[int, ...] = HIDDEN
    """widths of the hidden layers"""

    def graph(self, nets, penalty=None):
        graph = super().graph(nets, penalty)
        with graph.sequence():

            @graph.cost(trains=nets.policy)
            def evenness(obs: Tensor = detach("obs")) -> Tensor:
                return self.weight * nets.policy(obs).probs.square().sum(-1)

        return graph


@agent
def smooth(obs_space, action_space, generator, updates, weight: float = 0.1) -> Agent:
    """The same from the graph that `ppo` returns."""
    policy = make_policy(obs_space, action_space, HIDDEN, generator)
    value = value_critic(obs_space, HIDDEN, generator)
    graph = ppo(policy, value, GAE(discount=0.99, lam=0.95))
    with graph.sequence():

        @graph.cost(trains=policy)
        def evenness(obs: Tensor = detach("obs")) -> Tensor:
            return weight * policy(obs).probs.square().sum(-1)

    both = Adam([*policy.parameters(), *value.parameters()], max_norm=0.5, rate=1e-3)
    return on_policy(
        graph, policy=policy, value=value, objectives={"gain": both, "regression": both}, horizon=16, epochs=2, minibatch=32,
        scale_reward=True, generator=generator, updates=updates,
    )  # fmt: skip


@agent
def sees(obs_space, action_space, generator, updates, lr: float = 1e-3, features: int = 16) -> Agent:
    """PPO's graph on convolutions of one's own, for policy and critic each."""
    policy = make_policy(obs_space, action_space, HIDDEN, generator, network="layers:pictures", features=features)
    value = value_critic(obs_space, HIDDEN, generator, network="layers:pictures", features=features)
    both = Adam([*policy.parameters(), *value.parameters()], max_norm=0.5, rate=lr)
    return on_policy(
        ppo(policy, value, GAE(discount=0.95, lam=0.9)), policy=policy, value=value,
        objectives={"gain": both, "regression": both}, horizon=16, epochs=4, minibatch=32, generator=generator, updates=updates,
    )  # fmt: skip


@agent
def remembers(obs_space, action_space, generator, lr: float = 3e-3, features: int = 32) -> Agent:
    """The same on a GRU of one's own, which policy and critic share."""
    policy = make_policy(obs_space, action_space, HIDDEN, generator, network="layers:remembered", features=features)
    value = value_critic(obs_space, HIDDEN, generator, memory=policy.memory)
    both = Adam(dict.fromkeys([*policy.parameters(), *value.parameters()]), max_norm=0.5, rate=lr)
    return on_policy(
        ppo(policy, value, GAE(discount=0.9, lam=0.9), entropy_bonus=0.01), policy=policy, value=value,
        objectives={"gain": both, "regression": both}, horizon=36, sequence=18, epochs=4, minibatch=144, scale_reward=True,
        generator=generator,
    )  # fmt: skip


@dataclass(frozen=True)
class Narrow(DDPG):
    """DDPG with small networks."""

    hidden: tuple[int, ...] = HIDDEN
    """widths of the hidden layers"""


number = 3


def plain(obs_space, action_space, generator):
    return None
