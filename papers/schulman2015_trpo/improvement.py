"""Policy iteration by a surrogate, exactly: three ways to choose a step, on policies that cannot tell all states apart.

    π_θ(a|s) ∝ exp(φ(s)·θ_a)        θ ← θ + h F⁻¹∇η,        h the best of a grid for

    bound     M_π(π_θ) = L_π(π_θ) − C max_s KL          the paper's Algorithm 1: η cannot fall
    region    L_π(π_θ), where max_s KL ≤ δ              TRPO's constraint
    nothing   L_π(π_θ)

Fewer features than states: with a parameter for every state and action, the greatest L is policy iteration, which never
falls either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from scg.testing.tabular import Process, divergence, policy_gradient

BOUND, REGION, NOTHING = "bound, C = 4εγ/(1−γ)²", "region, max KL ≤ δ", "L alone"
STEPS = [0.0, *(2.0**k for k in range(-30, 13))]


@dataclass(frozen=True)
class Setting:
    process: Process
    features: Tensor

    @classmethod
    def random(cls, seed: int, states: int = 6, actions: int = 3, features: int = 2, gamma: float = 0.9) -> Setting:
        generator = Generator().manual_seed(seed)
        drawn = torch.randn(states, features, generator=generator, dtype=torch.float64)
        return cls(Process.random(seed, states, actions, gamma), drawn)

    def policy(self, theta: Tensor) -> Tensor:
        return (self.features @ theta).softmax(-1)

    def start(self) -> Tensor:
        return torch.zeros(self.features.shape[1], self.process.actions, dtype=torch.float64)

    def natural(self, theta: Tensor) -> Tensor:
        """F⁻¹∇η, F the Fisher matrix at the states that π meets."""
        gradient = policy_gradient(self.process, self.policy, theta)
        pi, visits = self.policy(theta), self.process.visits(self.policy(theta))
        score = torch.eye(self.process.actions, dtype=pi.dtype) - pi.unsqueeze(1)  # [state, action, logit]
        each = (self.features[:, None, :, None] * score[:, :, None, :]).flatten(2)
        fisher = torch.einsum("s,sa,sai,saj->ij", visits, pi, each, each)
        return (torch.linalg.pinv(fisher, hermitian=True, rtol=1e-10) @ gradient.flatten()).view_as(theta)


def judges(delta: float) -> dict[str, Callable[[Process, Tensor, Tensor], float]]:
    def region(process: Process, pi: Tensor, new: Tensor) -> float:
        return float(process.local(pi, new)) if divergence(pi, new).max() <= delta else -float("inf")

    return {
        BOUND: lambda process, pi, new: float(process.minorant(pi, new)),
        REGION: region,
        NOTHING: lambda process, pi, new: float(process.local(pi, new)),
    }


@dataclass(frozen=True)
class Course:
    """η before and after each iteration, and the largest KL of each."""

    returns: Sequence[float]
    kl: Sequence[float]

    @property
    def falls(self) -> int:
        return sum(b < a - 1e-10 for a, b in zip(self.returns, self.returns[1:], strict=False))

    @property
    def deepest(self) -> float:
        return max((a - b for a, b in zip(self.returns, self.returns[1:], strict=False)), default=0.0)


def improve(setting: Setting, judge: Callable[[Process, Tensor, Tensor], float], iterations: int) -> Course:
    process, theta = setting.process, setting.start()
    returns, kl = [float(process.objective(setting.policy(theta)))], []
    for _ in range(iterations):
        pi, direction = setting.policy(theta), setting.natural(theta)
        size = max(STEPS, key=lambda h: judge(process, pi, setting.policy(theta + h * direction)))
        theta = theta + size * direction
        new = setting.policy(theta)
        kl.append(float(divergence(pi, new).max()))
        returns.append(float(process.objective(new)))
    return Course(returns, kl)
