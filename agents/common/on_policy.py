"""On-policy actor-critics: the nodes and objectives that their graphs share, their networks, and the advantages.

    obs_t → (action_t) → reward_t, obs_{t+1}
    obs_t → value_t → ⟨(value_t − target_t)²⟩            target_t = A_t + value_t, recorded

`world` declares the environment's part of the graph, `gain`, `regression` and `entropy` the objectives; each agent's page
adds its action. The credit of an action sums all later rewards. Costs of the *policy* at a state (entropy, KL) read its
distribution given the observation as a constant, so that they are no part of the return of earlier actions; it is the action's
own, so the network runs once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import gymnasium as gym
import torch
from torch import Generator, Tensor, nn

import scg
from scg import detach, prev
from scg.agents.common.agent import Agent, AgentConfig, OptionError, check_options
from scg.agents.common.recorder import Recorder, Recording
from scg.agents.common.recurrence import ahead, charged, in_sequences, reads
from scg.agents.execution.settings import EAGER, Execution
from scg.agents.experience.rollout import Rows
from scg.agents.networks.critics import value_critic
from scg.agents.networks.encoder import obs_normaliser
from scg.agents.networks.networks import refused, takes_normaliser, with_whole_path
from scg.agents.networks.normalisers import RewardScale
from scg.agents.networks.policies import PolicyKind, make_policy
from scg.agents.networks.recurrent import seen
from scg.agents.updates.factory import Updates
from scg.agents.updates.minibatches import replayed
from scg.estimators.credit import GAE


def world(graph: scg.Graph, value: nn.Module) -> None:
    """The recorded environment and the critic; to be called inside `graph.sequence(first="first")`."""
    graph.observed("first")
    graph.observed("terminated")
    graph.observed("obs", parents=[prev("obs"), prev("action")])
    graph.observed("next_obs", parents=["obs", "action"])
    graph.observed("reward", parents=["obs", "action"])
    if reads(graph, value) == "obs":
        graph.deterministic(value, name="value", parents=["obs"])
    else:  # the memory has read `obs`: what the critic knows includes it, which decides what its estimates separate
        # Detached: the action's parameters are in part the critic's, whose error must not be among what actions answer for.
        graph.deterministic(lambda obs, memory: value(memory), name="value", parents=[detach("obs"), "memory"])
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
    """`weight · H(π)` at each state, which trains the policy; none with `weight` 0. To be called after "action" is declared."""
    if weight:
        graph.reward(lambda pi: weight * pi.entropy(), name="entropy", parents=[charged(graph, "action")], trains=policy)


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
    network: str = "mlp"
    """before the hidden layers: mlp, residual, cnn, gru, lstm, cnn+gru, …, or path/to/file.py:name"""
    features: int = 128
    """width of a network other than mlp"""
    sequence: int = 16
    """steps that a recurrent network's gradient goes back"""
    normalise_obs: bool = True
    """normalise observations by their running moments"""
    scale_reward: bool = True
    """shape rewards by what the clock predicts, divide by the running standard deviation of the discounted return"""

    compile_from: ClassVar[int | None] = 200_000  # 13 s of compilation: PPO saves 0.13 ms a step
    remembers: ClassVar[bool] = False
    """whether its updates know recurrent networks"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "network", with_whole_path(self.network))
        check_options(self, at_least_one="horizon features sequence", unit="gamma lam")

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
        before = config.normalise_obs and takes_normaliser(config.network)
        self.normaliser = obs_normaliser(obs_space) if before else None
        network = config.network, config.features
        policy = make_policy(
            obs_space, action_space, config.hidden, generator, self.normaliser, config.policy, config.log_scale, *network
        )
        memory = getattr(policy, "memory", None)
        self.value = value_critic(obs_space, config.hidden, generator, 1.0, self.normaliser, *network, memory)
        if memory is not None:
            if not config.remembers:
                raise OptionError(refused(config.network, type(config).__name__))
            execution = replace(execution, compile=False)  # stretches between episodes' starts have no fixed lengths
        scale = RewardScale(config.gamma) if config.scale_reward else None
        super().__init__(policy, self.value, config.horizon, Updates(execution), scale)

    @property
    def parameters(self) -> list[Tensor]:
        return list(dict.fromkeys([*self.policy.parameters(), *self.value.parameters()]))  # a memory is in both


def standardised(advantage: Tensor) -> Tensor:
    """`(A − mean A) / std A` over the block. The mean acts as a constant baseline and the scale as a
    factor of the learning rate, so the direction of the expected gradient stays (up to each step's share 1/n in the mean)."""
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8) if advantage.numel() > 1 else advantage


def advantages(graph: scg.Graph, value: nn.Module, given: Recording, standardise: bool = True, sequence: int = 16) -> Rows:
    """The recording with its advantages and the critic's targets, every (time, batch) pair a row: `[1, rows, …]`.

    Credit needs the order of time and is computed here, once; minibatches of rows may then be shuffled. With a memory the
    rows are sequences of `sequence` steps, `[sequence, rows, …]`, which start from the memory of the step before.
    """
    with torch.no_grad():
        following = value(ahead(value, given))
    trace = replayed(graph, {**given, "next_value": following})
    credit, predicted = trace.credit("action"), trace["value"].detach()
    computed = {"action.credit": standardised(credit) if standardise else credit, "target": credit + predicted}
    if "memory_start" in given:
        return in_sequences(graph, trace, {**given, "next_value": following, **computed}, sequence)
    rows = trace.pairs(torch.arange(credit.numel(), device=credit.device))
    return {**rows, **{name: x.flatten().unsqueeze(0) for name, x in computed.items()}}


def predicted(value: nn.Module, rows: dict[str, Tensor]) -> Tensor:
    """The critic at every row, without gradient."""
    with torch.no_grad():
        return value(seen(value, rows))
