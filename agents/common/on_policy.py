"""On-policy actor-critics: the nodes and objectives that their graphs share, their networks, and the advantages.

    obs_t → (action_t) → reward_t, obs_{t+1}
    obs_t → value_t → ⟨(value_t − target_t)²⟩            target_t = A_t + value_t, recorded

`world` declares the environment's part of the graph, `gain`, `regression` and `entropy` the objectives; each agent's page
adds its action. The credit of an action sums all later rewards. Costs of the *policy* at a state (entropy, KL) read
`detach("obs")`, so that they are no part of the return of earlier actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import gymnasium as gym
import torch
from torch import Generator, Tensor, nn

import scg
from scg import detach, prev
from scg.agents.common.agent import Agent, AgentConfig, check_options
from scg.agents.common.recorder import Recorder, Recording
from scg.agents.execution.settings import EAGER, Execution
from scg.agents.experience.rollout import Rows
from scg.agents.networks.critics import value_critic
from scg.agents.networks.encoder import obs_normaliser
from scg.agents.networks.normalisers import RewardScale
from scg.agents.networks.policies import PolicyKind, make_policy
from scg.agents.updates.factory import Updates
from scg.estimators.credit import GAE


def world(graph: scg.Graph, value: nn.Module) -> None:
    """The recorded environment and the critic; to be called inside `graph.sequence(first="first")`."""
    graph.observed("first")
    graph.observed("terminated")
    graph.observed("obs", parents=[prev("obs"), prev("action")])
    graph.observed("next_obs", parents=["obs", "action"])
    graph.observed("reward", parents=["obs", "action"])
    graph.deterministic(value, name="value", parents=["obs"])
    graph.observed("next_value", parents=["next_obs"])  # recorded: no gradient, and minibatches need not compute it
    graph.observed("target")  # a constant of the recording: as a child of the action it would be weighed by π/μ


def gain(graph: scg.Graph, policy: nn.Module) -> None:
    """The return, which trains the policy."""
    graph.reward(lambda reward: reward, name="gain", trains=policy)


def regression(graph: scg.Graph, value: nn.Module, target: str = "target", weight: float = 1.0) -> None:
    """`weight · (value − target)²`, which trains the critic; `target` is a recorded node."""

    def square(value: Tensor, target: Tensor) -> Tensor:
        return weight * (value - target).square()

    graph.cost(square, name="regression", parents=["value", detach(target)], trains=value)


def entropy(graph: scg.Graph, policy: nn.Module, weight: float) -> None:
    """`weight · H(π)` at each state, which trains the policy; none with `weight` 0."""
    if weight:
        graph.reward(lambda obs: weight * policy(obs).entropy(), name="entropy", parents=[detach("obs")], trains=policy)


@dataclass(frozen=True)
class OnPolicy(AgentConfig):
    """Hyperparameters that every on-policy actor-critic has."""

    horizon: int = 256
    """time steps of each block, in every environment"""
    gamma: float = 0.99
    """discount"""
    lam: float = 0.95
    """λ of the advantages: 1 is Monte Carlo, 0 one step and the critic"""
    hidden: tuple[int, ...] = (64, 64)
    """widths of the hidden layers of policy and critic"""
    policy: PolicyKind = "gaussian"
    """distribution of continuous actions"""
    log_scale: float = -0.5
    """initial log-scale of continuous actions; a Beta policy has none"""
    normalise_obs: bool = True
    """normalise observations by their running moments"""
    scale_reward: bool = True
    """shape rewards by what the clock predicts, divide by the running standard deviation of the discounted return"""

    compile_from: ClassVar[int | None] = 200_000  # 13 s of compilation: PPO saves 0.13 ms a step

    def __post_init__(self) -> None:
        check_options(self, at_least_one="horizon", unit="gamma lam")

    def credit(self) -> GAE:
        return GAE(discount=self.gamma, lam=self.lam)

    def build(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator, execution: Execution = EAGER) -> Agent:
        self.check(execution)
        return self.around(ActorCritic(self, obs_space, action_space, generator, execution), generator)

    def around(self, nets: ActorCritic, generator: Generator) -> Agent:
        """The agent's own graph and update, with these networks."""
        raise NotImplementedError


class ActorCritic(Recorder):
    """The recorder of an actor-critic: policy, critic and normalisers as an `OnPolicy` config says."""

    def __init__(
        self,
        config: OnPolicy,
        obs_space: gym.Space,
        action_space: gym.Space,
        generator: Generator,
        execution: Execution = EAGER,
    ) -> None:
        self.config = config
        self.normaliser = obs_normaliser(obs_space) if config.normalise_obs else None
        policy = make_policy(
            obs_space, action_space, config.hidden, generator, self.normaliser, config.policy, config.log_scale
        )
        self.value = value_critic(obs_space, config.hidden, generator, normaliser=self.normaliser)
        scale = RewardScale(config.gamma) if config.scale_reward else None
        super().__init__(policy, self.value, config.horizon, Updates(execution), scale)

    @property
    def parameters(self) -> list[Tensor]:
        return [*self.policy.parameters(), *self.value.parameters()]


def standardised(advantage: Tensor) -> Tensor:
    """`(A − mean A) / std A` over the block. The mean acts as a constant baseline and the scale as a
    factor of the learning rate, so the direction of the expected gradient stays (up to each step's share 1/n in the mean)."""
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8) if advantage.numel() > 1 else advantage


def advantages(graph: scg.Graph, value: nn.Module, given: Recording, standardise: bool = True) -> Rows:
    """The recording with its advantages and the critic's targets, every (time, batch) pair a row: `[1, rows, …]`.

    Credit needs the order of time and is computed here, once; minibatches of rows may then be shuffled.
    """
    with torch.no_grad():
        following = value(given["next_obs"])
    trace = graph.replay({**given, "next_value": following})
    credit, predicted = trace.credit("action"), trace["value"].detach()
    rows = trace.pairs(torch.arange(credit.numel(), device=credit.device))
    rows["action.credit"] = (standardised(credit) if standardise else credit).flatten().unsqueeze(0)
    rows["target"] = (credit + predicted).flatten().unsqueeze(0)
    return rows


def predicted(value: nn.Module, rows: dict[str, Tensor]) -> Tensor:
    """The critic at every row, without gradient."""
    with torch.no_grad():
        return value(rows["obs"])
