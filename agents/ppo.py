"""PPO: several epochs of minibatches on one block, held near the policy that collected it by a clip, a penalty, or both.

    obs_t → (action_t ~ π) → reward_t                K_t = max(r A_t, clip(r, 1 ± ε) A_t),    r = π/μ at action_t
    obs_t → value_t → ⟨(value_t − target_t)²⟩        target_t = A_t + value_t, recorded
    obs_t ┄→ ⟨β KL(μ‖π)⟩, ⟨−η entropy(π)⟩            ┄→ has no gradient: no part of the return

A_t is GAE(γ, λ) in cost units, where the pessimistic choice is the maximum, standardised over the block. β follows the
KL that the last update made, aiming at `kl_target`:  β ← 2β if KL > 1.5 target,  β ← β/2 if KL < target/1.5.
The clip and the minibatches make the gradient biased away from r = 1, on purpose; at r = 1 it is the policy gradient's.

Schulman et al. (2017); Schulman et al. (2016) for A_t.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.distributions import Distribution, kl_divergence

import scg
from scg import detach
from scg.agents.common.agent import Agent
from scg.agents.common.on_policy import (
    ActorCritic,
    OnPolicy,
    advantages,
    entropy,
    gain,
    predicted,
    regression,
    world,
)
from scg.agents.common.recurrence import charged, of_sequences, reads
from scg.agents.execution.options import check_options
from scg.agents.experience.rollout import Block
from scg.agents.networks.recurrent import seen
from scg.agents.updates.metrics import Metrics, explained_variance
from scg.agents.updates.minibatches import Shuffle, columns
from scg.agents.updates.optimiser import Adam
from scg.estimators import Clipped, ScoreFunction
from scg.estimators.credit import GAE


def ppo(
    policy: nn.Module,
    value: nn.Module,
    credit: GAE,
    clip: float = 0.2,
    entropy_bonus: float = 0.0,
    penalty: tuple[nn.Module, Tensor] | None = None,
    value_weight: float = 0.25,
) -> scg.Graph:
    """`clip` 0 leaves the ratio unclipped; `penalty` is the policy before the update and the scalar β."""
    graph = scg.Graph()
    with graph.sequence(first="first"):
        world(graph, value)
        read = reads(graph, policy)
        estimator = Clipped(clip) if clip else ScoreFunction()
        graph.stochastic(estimator, policy, name="action", parents=[read], credit=credit)
        gain(graph, policy)
        regression(graph, value, weight=value_weight)
        entropy(graph, policy, entropy_bonus)

        if penalty is not None:
            before, beta = penalty

            def nearness(was: Tensor, pi: Distribution) -> Tensor:
                return beta * kl_divergence(before(was), pi)

            recorded = "obs" if read == "obs" else "remembered"  # what the policy before the update read
            if recorded not in graph.nodes:
                graph.observed(recorded)
            graph.cost(nearness, name="nearness", parents=[detach(recorded), charged(graph, "action")], trains=policy)

    return graph


@dataclass(frozen=True)
class PPO(OnPolicy):
    """Hyperparameters. The defaults are the published ones for MuJoCo, eight environments side by side."""

    lr: float = 3e-4
    """learning rate, falling linearly to zero"""
    epochs: int = 10
    """passes over each block"""
    minibatch: int = 64
    """steps in each minibatch"""
    clip: float = 0.2
    """the ratio is clipped to 1 ± this; 0 does not clip"""
    kl_penalty: float = 0.0
    """initial weight β of the KL penalty, adapted to kl_target; 0 has no penalty"""
    kl_target: float = 0.01
    """what the penalty and early stopping aim at"""
    kl_stop: float = 0.0
    """skip the remaining epochs once the KL exceeds this many times kl_target; 0 never stops early"""
    entropy_bonus: float = 0.0
    """weight of the entropy"""
    value_weight: float = 0.25
    """weight of the critic's regression; matters to the clipping of the common gradient only"""
    max_grad_norm: float = 0.5
    """longer gradients are shortened to this"""
    recompute: bool = False
    """recompute the advantages with the new critic before every epoch"""

    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, "epochs minibatch", "lr clip kl_penalty kl_stop entropy_bonus value_weight max_grad_norm")

    def multiplier(self) -> Beta:
        """The weight of the KL penalty, and how it follows the KL."""
        return Beta(self.kl_penalty, self.kl_target)

    def graph(self, nets: ActorCritic, penalty: tuple[nn.Module, Tensor] | None = None) -> scg.Graph:
        """What is trained. A page of one's own adds its costs here: every one that the graph has is in the update."""
        return ppo(nets.policy, nets.value, self.credit(), self.clip, self.entropy_bonus, penalty, self.value_weight)

    def around(self, nets: ActorCritic, generator: Generator) -> Agent:
        policy, value = nets.policy, nets.value
        beta, before = nets.updates.place(self.multiplier()), copy.deepcopy(policy).requires_grad_(False)
        penalty = (before, beta.value) if self.kl_penalty else None
        graph = self.graph(nets, penalty)
        adam, shuffle = Adam(nets.parameters, self.max_grad_norm), Shuffle(generator)
        step = nets.updates.minibatch(of_sequences(graph), adam, size=self.minibatch)

        def update(block: Block, progress: float) -> Metrics:
            adam.rate.fill_(self.lr * (1 - progress))
            given = nets.recording(block)
            before.load_state_dict(policy.state_dict())
            if "remembered" in graph.nodes:
                given["remembered"] = seen(before, given)
            rows = advantages(graph, value, given, sequence=self.sequence)
            metrics = {"explained_variance": explained_variance(predicted(value, rows), rows["target"])}
            for epoch in range(self.epochs):
                if epoch and self.recompute:
                    rows = advantages(graph, value, given, sequence=self.sequence)
                for minibatch in shuffle(*columns(rows, self.minibatch)):
                    step(rows, minibatch)  # the surrogate's gradient, clipped; a step of Adam
                metrics["epochs"] = epoch + 1
                if beta.every_epoch:
                    beta.adapt(distance(before, policy, rows)["kl"])
                if self.kl_stop and distance(before, policy, rows)["kl"] > self.kl_stop * self.kl_target:
                    break
            moved = distance(before, policy, rows, self.clip)
            if self.kl_penalty and not beta.every_epoch:
                beta.adapt(moved["kl"])
            nets.absorb(given)
            metrics |= {**moved, "grad_norm": step.mean_norm(), "grad_snr": adam.signal_to_noise()}
            return {**metrics, "beta": float(beta.value)} if self.kl_penalty else metrics

        return Agent(graph, policy, nets.collect, update, {**nets.state, "adam": adam, "shuffle": shuffle, "beta": beta})


class Beta(nn.Module):
    """The weight of the KL penalty, doubled or halved where an update's KL leaves [target/1.5, 1.5 target]."""

    every_epoch = False  # or once an update

    value: Tensor

    def __init__(self, initial: float, target: float) -> None:
        super().__init__()
        self.target = target
        self.register_buffer("value", torch.tensor(float(initial)))

    def adapt(self, kl: float) -> float:
        if kl > 1.5 * self.target:
            self.value.mul_(2.0)
        elif kl < self.target / 1.5:
            self.value.div_(2.0)
        return float(self.value.clamp_(1e-6, 1e6))


def distance(before: nn.Module, policy: nn.Module, rows: dict[str, Tensor], clip: float = 0.0) -> Metrics:
    """How far an update went, over its whole block: exact mean KL(before‖policy), share of clipped ratios, entropy."""
    with torch.no_grad():
        pi = policy(seen(policy, rows))
        ratio = (pi.log_prob(rows["action"]) - rows["action.log_prob"]).exp()
        return {
            "kl": float(kl_divergence(before(seen(before, rows)), pi).mean()),
            "clip_fraction": float(((ratio - 1).abs() > clip).float().mean()) if clip else 0.0,
            "entropy": float(pi.entropy().mean()),
        }
