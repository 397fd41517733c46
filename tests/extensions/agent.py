"""A policy gradient with a learned baseline on one page, as somebody would write it who has read ARCHITECTURE.md.

obs_t → (action_t ~ π(·|obs_t)) → reward_t
obs_t → value(obs_t) → ⟨(value - cost_to_go)²⟩
"""

from dataclasses import dataclass

import gymnasium as gym
import torch
from torch import Generator, nn

import scg
from scg import ScoreFunction, prev
from scg.agents.common.agent import Agent, AgentConfig, check_options
from scg.agents.common.on_policy import gain, regression
from scg.agents.experience.rollout import Block, Rollout
from scg.agents.networks.critics import value_critic
from scg.agents.networks.policies import make_policy
from scg.agents.updates.factory import Updates
from scg.agents.updates.metrics import Metrics
from scg.agents.updates.optimiser import Adam


def graph_of(policy: nn.Module, value: nn.Module) -> scg.Graph:
    graph = scg.Graph()
    with graph.sequence(first="first"):
        graph.observed("first")
        graph.observed("obs", parents=[prev("obs"), prev("action")])
        graph.deterministic(value, name="value", parents=["obs"])
        graph.stochastic(
            ScoreFunction(), lambda obs: policy(obs), name="action", credit="cost_to_go", baseline="value", parents=["obs"]
        )
        graph.observed("reward", parents=["obs", "action"])
        graph.observed("cost_to_go", parents=["reward"])
        gain(graph, policy)
        regression(graph, value, target="cost_to_go")
    return graph


@dataclass(frozen=True)
class Mine(AgentConfig):
    horizon: int = 16
    """time steps of each block"""
    gamma: float = 0.9
    """discount"""
    lr: float = 1e-2
    """learning rate"""

    def __post_init__(self) -> None:
        check_options(self, "horizon", "lr", "gamma")

    def agent(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator, updates: Updates) -> Agent:
        policy = updates.place(make_policy(obs_space, action_space, (16,), generator))
        value = updates.place(value_critic(obs_space, (16,), generator, 1.0))
        graph = graph_of(policy, value)
        optimiser = Adam([*policy.parameters(), *value.parameters()])
        optimiser.rate.fill_(self.lr)
        step = updates.minibatch(graph, optimiser)

        def collect(rollout: Rollout, steps_left: int) -> Block:
            return rollout.collect(policy, min(self.horizon, -(-steps_left // rollout.envs.batch)))

        def update(block: Block, progress: float) -> Metrics:
            given = {**block.given("first", "obs", "action", "reward"), "cost_to_go": block.cost_to_go(value, self.gamma)}
            step({name: x.to(updates.device) for name, x in given.items()}, torch.arange(block.reward.shape[1]))
            return {"grad_norm": step.mean_norm()}

        return Agent(graph, policy, collect, update, {"policy": policy, "value": value, "optimiser": optimiser})
