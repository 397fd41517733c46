"""Soft policies on tabular processes, exactly: what return and entropy are worth together, and what improves them.

    V = (I − γ P_π)⁻¹ (R_π + α H(π))      Q = R + γ P V                                    soft values of π
    T^π Q = R + γ P Σ_a π(a|·) (Q(·, a) − α log π(a|·))                                    has them as its fixed point
    π_new(·|s) ∝ exp(Q(s, ·)/α)                                                            is the least KL(π' ‖ exp(Q/α)/Z)
    Q* = R + γ P α log Σ_a exp(Q*(·, a)/α)                                                 soft Bellman equation

The paper's rewards scaled by c are a temperature α = 1/c.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.distributions import Categorical

from scg.agents.networks.critics import Temperature
from scg.agents.sac_discrete import sac_discrete
from scg.testing.tabular import Process, one_hot


def entropy(pi: Tensor) -> Tensor:
    """Of every state's distribution, in nats."""
    return -torch.xlogy(pi, pi).sum(-1)


def soft_process(process: Process, pi: Tensor, alpha: float) -> Process:
    """The process whose rewards are those and the entropy: the soft values are its ordinary ones."""
    return Process(process.transition, process.reward + alpha * entropy(pi).unsqueeze(-1), process.start, process.gamma)


def soft_value(process: Process, pi: Tensor, alpha: float) -> Tensor:
    return soft_process(process, pi, alpha).value(pi)


def soft_action_value(process: Process, pi: Tensor, alpha: float) -> Tensor:
    """Without the entropy of the state in which the action is taken."""
    return process.reward + process.gamma * process.transition @ soft_value(process, pi, alpha)


def greedy(q: Tensor, alpha: float) -> Tensor:
    """π ∝ exp(Q/α)."""
    return (q / alpha).softmax(-1)


def excess(pi: Tensor, q: Tensor, alpha: float) -> Tensor:
    """KL(π(·|s) ‖ exp(Q(s, ·)/α)/Z) of every state, the equation that an improvement minimises."""
    return (torch.xlogy(pi, pi) - pi * (q / alpha).log_softmax(-1)).sum(-1)


def optimal_action_value(process: Process, alpha: float, tolerance: float = 1e-14) -> Tensor:
    """Q* by iterating the soft Bellman equation, which no policy is needed for."""
    q = torch.zeros_like(process.reward)
    while True:
        ahead = process.reward + process.gamma * process.transition @ (alpha * (q / alpha).logsumexp(-1))
        if float((ahead - q).abs().max()) <= tolerance * max(1.0, float(ahead.abs().max())):
            return ahead
        q = ahead


def policy_iteration(process: Process, alpha: float, pi: Tensor, tolerance: float = 1e-13) -> tuple[Tensor, list[float]]:
    """Evaluate and improve until nothing moves. The last policy, and the largest change of Q at each iteration."""
    q, moved = soft_action_value(process, pi, alpha), list[float]()
    while not moved or moved[-1] > tolerance * max(1.0, float(q.abs().max())):
        pi = greedy(q, alpha)
        better = soft_action_value(process, pi, alpha)
        moved.append(float((better - q).abs().max()))
        q = better
    return pi, moved


class Backup:
    """T^π by the agent's own target: `sac_discrete` on every transition, averaged over the next states."""

    def __init__(self, process: Process, pi: Tensor, alpha: float) -> None:
        states, actions = process.reward.shape
        every = torch.meshgrid(torch.arange(states), torch.arange(actions), torch.arange(states), indexing="ij")
        state, action, following = (index.flatten() for index in every)
        temperature = Temperature(alpha).double()
        with torch.no_grad():
            temperature.log.fill_(math.log(alpha))  # not as float32 has it
        self.process, self.critics = process, TableCritics(process.reward)
        self.graph = sac_discrete(TablePolicy(pi), self.critics, self.critics, temperature)  # type: ignore[arg-type]
        self.given: dict[str, Any] = {
            "obs": one_hot(state, states),
            "action": action,
            "reward": process.reward[state, action],
            "discount": torch.full(state.shape, process.gamma, dtype=torch.float64),
            "next_obs": one_hot(following, states),
        }

    def __call__(self, q: Tensor) -> Tensor:
        with torch.no_grad():
            self.critics.table.copy_(q)
            target = self.graph.sample(**self.given)["target"]
        return (self.process.transition * target.view(self.process.transition.shape)).sum(-1)


class TablePolicy(nn.Module):
    """A row of probabilities for each one-hot state."""

    def __init__(self, pi: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(pi.log())

    def forward(self, obs: Tensor) -> Categorical:
        return Categorical(logits=obs @ self.logits)


class TableCritics(nn.Module):
    """One table as both critics, `[*batch, actions, 2]`."""

    def __init__(self, q: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(q.clone())

    def forward(self, obs: Tensor) -> Tensor:
        values = obs @ self.table
        return torch.stack([values, values], -1)


def random_policy(process: Process, generator: Generator, spread: float = 2.0) -> Tensor:
    drawn = torch.randn(process.states, process.actions, generator=generator, dtype=torch.float64)
    return (spread * drawn).softmax(-1)
