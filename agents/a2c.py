"""A2C: the policy gradient with a critic's advantages, one step on every short block of many environments.

    obs_t → (action_t ~ π) → reward_t                ∇ = mean_t A_t ∇ log π(action_t|obs_t)
    obs_t → value_t → ⟨(value_t − target_t)²⟩        target_t = A_t + value_t, recorded
    obs_t ┄→ ⟨−η entropy(π)⟩                         ┄→ has no gradient: no part of the return

A_t is GAE(γ, λ) in cost units: λ = 1 is the n-step return of the block, less the critic. The critic stands in for what
follows the block, a bias that vanishes as it learns; as a baseline it has none. RMSprop, as in the original.

Mnih et al. (2016), synchronous; Schulman et al. (2016) for A_t.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

import scg
from scg.agents.common.agent import Agent
from scg.agents.common.on_policy import (
    ActorCritic,
    OnPolicy,
    advantages,
    entropy,
    gain,
    regression,
    world,
)
from scg.agents.common.recorder import Recording
from scg.agents.common.recurrence import of_sequences, reads
from scg.agents.common.trust_region import distribution
from scg.agents.execution.options import check_options
from scg.agents.experience.rollout import Block, Rollout, Rows
from scg.agents.updates.metrics import Metrics
from scg.agents.updates.minibatches import replayed
from scg.agents.updates.optimiser import Optimiser, RMSprop
from scg.credit import Credit
from scg.estimators import ScoreFunction
from scg.trace import Trace


def a2c(
    policy: nn.Module, value: nn.Module, credit: Credit, entropy_bonus: float = 0.0, value_weight: float = 0.5
) -> scg.Graph:
    graph = scg.Graph()
    with graph.sequence(first="first"):
        world(graph, value)
        read = reads(graph, policy)
        graph.stochastic(ScoreFunction(), policy, name="action", parents=[read], credit=credit)
        gain(graph, policy)
        regression(graph, value, weight=value_weight)
        entropy(graph, policy, entropy_bonus)

    return graph


@dataclass(frozen=True)
class A2C(OnPolicy):
    """Hyperparameters. The defaults are the published ones for MuJoCo, with 16 environments."""

    horizon: int = 5
    """time steps of each block, in every environment"""
    lr: float = 7e-4
    """learning rate, falling linearly to zero"""
    entropy_bonus: float = 0.01
    """weight of the entropy"""
    value_weight: float = 0.5
    """weight of the critic's regression; matters to the clipping of the common gradient only"""
    max_grad_norm: float = 0.5
    """longer gradients are shortened to this"""
    standardise: bool = False
    """standardise the advantages of each block"""
    report: int = 1024
    """environment steps behind one row of metrics: a block of 80 is not worth one"""

    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, "report", at_least_zero="lr entropy_bonus value_weight max_grad_norm")

    def around(self, nets: ActorCritic, generator: Generator) -> Agent:
        graph = self.graph(nets)
        rmsprop = RMSprop(nets.parameters, self.max_grad_norm)
        learn = self.learner(nets, graph, rmsprop)

        def collect(rollout: Rollout, steps_left: int) -> Block:
            return nets.collect(rollout, steps_left, log_prob=False)

        def update(block: Block, progress: float) -> Metrics:
            rmsprop.rate.fill_(self.lr * (1 - progress))
            metrics = learn(block)
            if 10 * block.steps > self.report or int(rmsprop.count) % 10 == 0:  # it looks at ten steps, and takes a while
                metrics["grad_snr"] = rmsprop.signal_to_noise()
            return metrics

        return Agent(graph, nets.policy, collect, update, {**nets.state, "rmsprop": rmsprop}, report=self.report)

    def graph(self, nets: ActorCritic) -> scg.Graph:
        return a2c(nets.policy, nets.value, self.credit(), self.entropy_bonus, self.value_weight)

    def learner(
        self, nets: ActorCritic, graph: scg.Graph, optimiser: Optimiser, absorbs: bool = True
    ) -> Callable[[Block], Metrics]:
        """One whole update as a function: advantages, the networks' gradient, the optimiser's step, statistics."""

        learned = of_sequences(graph)

        def losses(given: Recording) -> tuple[Rows, Trace, Tensor]:
            rows = advantages(graph, nets.value, given, self.standardise, self.sequence)
            trace = replayed(learned, rows)
            return rows, trace, trace.surrogate(reduce="mean")

        def learn(given: Recording) -> Tensor:
            given = nets.scaled(given)
            rows, trace, loss = losses(given)
            norm = optimiser.step(torch.autograd.grad(loss, nets.parameters))
            if absorbs:
                nets.absorb(given)
            predicted, target = trace["value"].detach(), rows["target"]
            explained = 1 - (target - predicted).var(correction=0) / target.var(correction=0).clamp_min(1e-12)
            return torch.stack([explained, norm, distribution(trace, "action").entropy().mean().detach()])

        step = nets.updates.block(learn, check=lambda given: losses(nets.with_empty_target(given)))

        def update(block: Block) -> Metrics:
            values = step(nets.raw(block)).tolist()
            return dict(zip(["explained_variance", "grad_norm", "entropy"], values, strict=True))

        return update
