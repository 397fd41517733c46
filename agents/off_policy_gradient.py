"""Off-policy policy gradient: blocks of the last few policies are learned from again, weighed by importance ratios.

    obs_t → (action_t ~ π) → reward_t                ρ_t = π(action_t|obs_t) / μ(action_t|obs_t),  μ the policy that acted
    obs_t → value_t → ⟨(value_t − target_t)²⟩        on the newest block only

    per decision    ∇ = E_μ[Σ_t (Π_{k ≤ t} ρ_k) Q̂_t ∇log π_t],    Q̂_t corrected by the later ratios     exact for π
    first order     ∇ ≈ E_μ[Σ_t ρ_t Â_t ∇log π_t]                  at the states of μ, with the returns of μ
    v-trace         the same, with truncated ratios in Â_t          at the states of μ, with the returns of (nearly) π

Which one it is, is the action's credit and nothing else. Products of ratios grow or vanish exponentially in time, so "per
decision" is for short episodes, and its blocks are whole ones; the first-order form is the start of TRPO and PPO.

Precup, Sutton & Singh (2000); Degris, White & Sutton (2012); Espeholt et al. (2018).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from scg.agents.a2c import a2c
from scg.agents.common.agent import Agent
from scg.agents.common.on_policy import ActorCritic, OnPolicy, advantages, predicted, standardised
from scg.agents.common.recorder import Recording
from scg.agents.execution.options import check_options
from scg.agents.experience.rollout import Block, Rollout, Rows
from scg.agents.updates.metrics import Metrics, explained_variance
from scg.agents.updates.minibatches import MinibatchUpdate, Shuffle
from scg.agents.updates.optimiser import Adam
from scg.credit import Credit
from scg.estimators.credit import GAE, EarlierRatios, VTrace

NEVER = math.inf  # a truncation level that no ratio reaches


@dataclass(frozen=True)
class OffPolicyGradient(OnPolicy):
    """Hyperparameters."""

    weights: Literal["per-decision", "first-order", "v-trace"] = "first-order"
    """how older policies' steps are weighed; "per-decision" collects whole episodes"""
    reuse: int = 4
    """blocks to learn from, the newest included"""
    episodes: int = 1
    """episodes of every environment in a block of whole ones"""
    lr: float = 3e-4
    """learning rate of the policy, falling linearly to zero"""
    gradient_steps: int = 4
    """gradient steps of the policy on the blocks, its ratios computed anew before each"""
    value_lr: float = 1e-3
    """learning rate of the critic, falling linearly to zero"""
    value_epochs: int = 5
    """passes of the critic over the newest block"""
    minibatch: int = 128
    """steps in each of the critic's minibatches"""
    max_grad_norm: float = 0.5
    """longer gradients of the policy are shortened to this"""
    ratio_stop: float = 2.0
    """no further step once the newest block's mean |ρ − 1| exceeds this"""

    compile_from: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, "reuse episodes gradient_steps value_epochs minibatch", "lr value_lr max_grad_norm ratio_stop")

    def credit(self) -> Credit:  # type: ignore[override]
        if self.weights == "per-decision":
            return EarlierRatios(VTrace(discount=self.gamma, rho_bar=NEVER, c_bar=NEVER))
        if self.weights == "v-trace":
            return VTrace(discount=self.gamma, lam=self.lam, rho_bar_gradient=NEVER)
        return GAE(discount=self.gamma, lam=self.lam)

    def around(self, nets: ActorCritic, generator: Generator) -> Agent:
        policy, value = nets.policy, nets.value
        graph = a2c(policy, value, self.credit())
        actor = Adam(policy.parameters(), self.max_grad_norm)
        critic, shuffle, memory = Adam(value.parameters()), Shuffle(generator), Recordings(self.reuse)
        regressed = a2c(policy, value, GAE(discount=self.gamma, lam=self.lam))
        regression = nets.updates.minibatch(regressed, critic, ["regression"], self.minibatch)
        gain = MinibatchUpdate(graph, actor, ["gain"])  # eager: its rows grow with the memory

        def collect(rollout: Rollout, steps_left: int) -> Block:
            if self.weights == "per-decision":
                return rollout.episodes(policy, self.episodes)
            return nets.collect(rollout, steps_left)

        def update(block: Block, progress: float) -> Metrics:
            actor.rate.fill_(self.lr * (1 - progress)), critic.rate.fill_(self.value_lr * (1 - progress))
            newest = nets.recording(block)
            memory.append(newest)
            fresh = advantages(regressed, value, newest, standardise=False)
            metrics = {
                "explained_variance": explained_variance(predicted(value, fresh), fresh["target"]),
            }
            for taken in range(1, self.gradient_steps + 1):
                rows = joined([advantages(graph, value, given, standardise=False) for given in memory])
                rows["action.credit"] = standardised(rows["action.credit"])
                gain(rows, torch.arange(rows["obs"].shape[1]))
                moved = _moved(nets.policy, newest)
                metrics |= {"steps": taken, "ratio": moved}
                if moved > self.ratio_stop:
                    break
            for _ in range(self.value_epochs):
                for minibatch in shuffle(block.steps, self.minibatch):
                    regression(fresh, minibatch)
            metrics |= {"grad_norm": gain.mean_norm(), "value_grad_norm": regression.mean_norm()}
            nets.absorb(newest)
            return {**metrics, "grad_snr": actor.signal_to_noise(), "entropy": float(-newest["action.log_prob"].mean())}

        state = {**nets.state, "actor": actor, "critic": critic, "shuffle": shuffle, "memory": memory}
        return Agent(graph, policy, collect, update, state)


class Recordings(deque[Recording]):
    """The last blocks, as graphs replay them; part of a checkpoint."""

    def __init__(self, count: int) -> None:
        super().__init__(maxlen=count)

    def state_dict(self) -> dict[str, Any]:
        return {"blocks": [dict(block) for block in self]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.clear()
        self.extend(state["blocks"])


def joined(parts: list[Rows]) -> Rows:
    """Rows `[1, rows, …]` of several blocks as one."""
    return {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}


def _moved(policy: torch.nn.Module, given: Recording) -> float:
    """Mean |ρ − 1| on a block."""
    with torch.no_grad():
        log_ratio: Tensor = policy(given["obs"]).log_prob(given["action"]) - given["action.log_prob"]
        return float((log_ratio.exp() - 1).abs().mean())
