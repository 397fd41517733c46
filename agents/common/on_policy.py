"""On-policy actor-critics: the nodes and objectives that their graphs share, and the advantages.

    obs_t → (action_t) → reward_t, obs_{t+1}
    obs_t → value_t → ⟨(value_t − target_t)²⟩            target_t = A_t + value_t, recorded

`world` declares the environment's part of the graph, `gain`, `regression` and `entropy` the objectives; each agent's page
adds its action. The credit of an action sums all later rewards. Costs of the *policy* at a state (entropy, KL) read its
distribution given the observation as a constant, so that they are no part of the return of earlier actions; it is the action's
own, so the network runs once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import gymnasium as gym
import torch
from torch import Generator, Tensor, nn

import scg
from scg import detach, prev
from scg.agents.common.actor_critic import ActorCritic, ActorCriticOptions
from scg.agents.common.agent import Agent, check_options
from scg.agents.common.recorder import Recording
from scg.agents.common.recurrence import ahead, charged, in_sequences, reads
from scg.agents.execution.settings import EAGER, Execution
from scg.agents.experience.rollout import Rows
from scg.agents.networks.recurrent import seen
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
class OnPolicy(ActorCriticOptions):
    """Hyperparameters that every on-policy actor-critic has, besides those of its networks."""

    lam: float = 0.95
    """λ of the advantages: 1 is Monte Carlo, 0 one step and the critic"""
    sequence: int = 16
    """steps that a recurrent network's gradient goes back"""

    compile_from: ClassVar[int | None] = 200_000  # 13 s of compilation: PPO saves 0.13 ms a step

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, at_least_one="sequence", unit="lam")

    def credit(self) -> GAE:
        return GAE(discount=self.gamma, lam=self.lam)

    def build(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator, execution: Execution = EAGER) -> Agent:
        self.check(execution)
        return self.around(ActorCritic(self, obs_space, action_space, generator, execution), generator)

    def around(self, nets: ActorCritic, generator: Generator) -> Agent:
        """The agent's own graph and update, with these networks."""
        raise NotImplementedError


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
