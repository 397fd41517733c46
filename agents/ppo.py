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

import gymnasium as gym
import torch
from torch import Generator, Tensor, nn
from torch.distributions import Distribution, kl_divergence

import scg
from scg import detach
from scg.agents.common.agent import Agent
from scg.agents.common.on_policy import ActorCritic, OnPolicy, advantages, predicted, world
from scg.agents.execution.options import check_options
from scg.agents.experience.rollout import Block
from scg.agents.updates.metrics import Metrics, explained_variance
from scg.agents.updates.minibatches import MinibatchUpdate, Shuffle
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

        @graph.stochastic(Clipped(clip) if clip else ScoreFunction(), credit=credit)
        def action(obs: Tensor) -> Distribution:
            return policy(obs)

        @graph.reward(trains=policy)
        def gain(reward: Tensor) -> Tensor:
            return reward

        @graph.cost(trains=value)
        def regression(value: Tensor, target: Tensor = detach("target")) -> Tensor:
            return value_weight * (value - target).square()

        if entropy_bonus:

            @graph.reward(trains=policy)
            def entropy(obs: Tensor = detach("obs")) -> Tensor:
                return entropy_bonus * policy(obs).entropy()

        if penalty is not None:
            before, beta = penalty

            @graph.cost(trains=policy)
            def nearness(obs: Tensor = detach("obs")) -> Tensor:
                return beta * kl_divergence(before(obs), policy(obs))

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
    compile: bool = False
    """compile the minibatch update: two and a half times the speed, after 13 s (3 s once it is cached)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, "epochs minibatch", "lr clip kl_penalty kl_stop entropy_bonus value_weight max_grad_norm")

    def multiplier(self) -> Beta:
        """The weight of the KL penalty, and how it follows the KL."""
        return Beta(self.kl_penalty, self.kl_target, self.device)

    def build(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator) -> Agent:
        nets = ActorCritic(self, obs_space, action_space, generator)
        policy, value = nets.policy, nets.value
        beta, before = self.multiplier(), copy.deepcopy(policy).requires_grad_(False)
        penalty = (before, beta.value) if self.kl_penalty else None
        graph = ppo(policy, value, self.credit(), self.clip, self.entropy_bonus, penalty, self.value_weight)
        adam = Adam([*policy.parameters(), *value.parameters()], self.max_grad_norm)
        shuffle = Shuffle(generator)
        costs = ["gain", "regression", *["entropy"] * bool(self.entropy_bonus), *["nearness"] * bool(penalty)]
        descent = MinibatchUpdate(graph, costs, adam, self.compile)

        def update(block: Block, progress: float) -> Metrics:
            adam.rate.fill_(self.lr * (1 - progress))
            given = nets.recording(block)
            before.load_state_dict(policy.state_dict())
            epochs, norm = 0, 0.0
            rows = advantages(graph, value, given)
            metrics = {"explained_variance": explained_variance(predicted(value, rows), rows["target"])}
            for epoch in range(self.epochs):
                if epoch and self.recompute:
                    rows = advantages(graph, value, given)
                norm += descent.epoch(rows, shuffle(block.steps, self.minibatch), self.whole(block))
                epochs += 1
                if self.kl_stop or beta.every_epoch:
                    kl = distance(before, policy, rows)["kl"]
                    if beta.every_epoch:
                        beta.adapt(kl)
                    if self.kl_stop and kl > self.kl_stop * self.kl_target:
                        break
            moved = distance(before, policy, rows, self.clip)
            metrics |= {**moved, "grad_norm": norm / epochs, "grad_snr": adam.signal_to_noise(), "epochs": epochs}
            if self.kl_penalty:
                metrics["beta"] = float(beta.value) if beta.every_epoch else beta.adapt(moved["kl"])
            nets.absorb(given)
            return metrics

        return Agent(graph, policy, nets.collect, update, {**nets.state, "adam": adam, "shuffle": shuffle, "beta": beta})


class Beta:
    """The weight of the KL penalty, doubled or halved where an update's KL leaves [target/1.5, 1.5 target]."""

    every_epoch = False  # or once an update

    def __init__(self, initial: float, target: float, device: str = "cpu") -> None:
        self.value, self.target = torch.tensor(float(initial), device=device), target

    def adapt(self, kl: float) -> float:
        if kl > 1.5 * self.target:
            self.value.mul_(2.0)
        elif kl < self.target / 1.5:
            self.value.div_(2.0)
        return float(self.value.clamp_(1e-6, 1e6))

    def state_dict(self) -> dict[str, Tensor]:
        return {"value": self.value.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.value.copy_(state["value"])


def distance(before: nn.Module, policy: nn.Module, rows: dict[str, Tensor], clip: float = 0.0) -> Metrics:
    """How far an update went, over its whole block: exact mean KL(before‖policy), share of clipped ratios, entropy."""
    with torch.no_grad():
        pi = policy(rows["obs"])
        ratio = (pi.log_prob(rows["action"]) - rows["action.log_prob"]).exp()
        return {
            "kl": float(kl_divergence(before(rows["obs"]), pi).mean()),
            "clip_fraction": float(((ratio - 1).abs() > clip).float().mean()) if clip else 0.0,
            "entropy": float(pi.entropy().mean()),
        }
