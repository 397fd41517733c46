"""Processes judged by their average reward, with the exact gradient, Fisher matrix and natural gradient of a policy.

    η = Σ_s ρ(s) Σ_a π(a|s) R(s, a)       ρ = ρ P_π       h + η = R_π + P_π h       Q(s, a) = R(s, a) − η + Σ P h
    ∇η = Σ_s ρ(s) Σ_a ∇π(a|s) Q(s, a)     F = Σ_s ρ(s) Σ_a π(a|s) ∇log π ∇log πᵀ     natural gradient F⁻¹∇η

F is singular where parameters are redundant (a softmax's common logit); the pseudo-inverse then leaves those alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Generator, Tensor

Policy = Callable[[Tensor], Tensor]  # parameters -> π [state, action]


@dataclass(frozen=True)
class AverageProcess:
    """`transition [state, action, next state]`, `reward [state, action]`; every policy's chain is to have one stationary ρ."""

    transition: Tensor
    reward: Tensor

    @classmethod
    def random(cls, seed: int, states: int = 4, actions: int = 3) -> AverageProcess:
        g = Generator().manual_seed(seed)
        drawn = torch.randn(states, actions, states, generator=g, dtype=torch.float64)
        return cls(drawn.softmax(-1), torch.randn(states, actions, generator=g, dtype=torch.float64))

    def visits(self, pi: Tensor) -> Tensor:
        """ρ, live: the solution of ρ (1 − P + 1·1ᵀ) = 1ᵀ."""
        step = torch.einsum("sa,sax->sx", pi, self.transition)
        states = step.shape[0]
        one = torch.ones(states, states, dtype=pi.dtype)
        return torch.linalg.solve((torch.eye(states, dtype=pi.dtype) - step + one).T, one[0])

    def objective(self, pi: Tensor) -> Tensor:
        """η."""
        return self.visits(pi) @ (pi * self.reward).sum(-1)

    def action_value(self, pi: Tensor) -> Tensor:
        """Q, whose mean under ρ and π is 0."""
        step = torch.einsum("sa,sax->sx", pi, self.transition)
        states, visits = step.shape[0], self.visits(pi)
        average = (pi * self.reward).sum(-1) - self.objective(pi)
        system = torch.eye(states, dtype=pi.dtype) - step + visits.expand(states, states)
        return self.reward - self.objective(pi) + self.transition @ torch.linalg.solve(system, average)

    def gradient(self, policy: Policy, theta: Tensor) -> Tensor:
        """∇η by the policy-gradient theorem."""
        live = theta.detach().requires_grad_()
        pi = policy(live)
        fixed = pi.detach()
        total = (self.visits(fixed).unsqueeze(-1) * pi * self.action_value(fixed)).sum()
        return torch.autograd.grad(total, live)[0]

    def fisher(self, policy: Policy, theta: Tensor) -> Tensor:
        """F, of the flattened parameters."""
        each = scores(policy, theta)
        pi = policy(theta)
        return torch.einsum("s,sa,sai,saj->ij", self.visits(pi), pi, each, each)

    def natural(self, policy: Policy, theta: Tensor) -> Tensor:
        """F⁻¹∇η."""
        inverse = torch.linalg.pinv(self.fisher(policy, theta), hermitian=True, rtol=1e-11)
        return (inverse @ self.gradient(policy, theta).flatten()).view_as(theta)


def scores(policy: Policy, theta: Tensor) -> Tensor:
    """∇log π(a|s), `[state, action, parameters]`."""
    jacobian = torch.autograd.functional.jacobian(lambda t: policy(t).log(), theta.detach())
    assert isinstance(jacobian, Tensor)
    return jacobian.flatten(2)


def change(policy: Policy, theta: Tensor, direction: Tensor) -> Tensor:
    """dπ/dt along a direction of the parameters."""
    return torch.func.jvp(policy, (theta,), (direction,))[1]


# -- the paper's two examples ----------------------------------------------------------------------------------------


def two_states() -> AverageProcess:
    """Each state has a loop, worth 1 at the first and 2 at the second, and a move to the other, worth 0."""
    transition = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]], dtype=torch.float64)
    return AverageProcess(transition, torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=torch.float64))


def loops(scale: tuple[float, float] = (1.0, 1.0)) -> Policy:
    """P(loop | s) = σ(scale_s θ_s)."""
    factor = torch.tensor(scale, dtype=torch.float64)

    def policy(theta: Tensor) -> Tensor:
        loop = torch.sigmoid(factor * theta)
        return torch.stack([loop, torch.sigmoid(-factor * theta)], -1)

    return policy


@dataclass(frozen=True)
class Regulator:
    """x' = 0.7 x + u + ε, u ~ N(s₁θ₁ x + s₂θ₂, 1), ε ~ N(0, 1); the cost is E[x²] in the long run, 2 at best."""

    scale: tuple[float, float] = (1.0, 1.0)

    def moments(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of x."""
        carried = 0.7 + self.scale[0] * theta[0]
        return self.scale[1] * theta[1] / (1 - carried), 2 / (1 - carried**2)

    def cost(self, theta: Tensor) -> Tensor:
        mean, variance = self.moments(theta)
        return mean**2 + variance

    def uphill(self, theta: Tensor) -> Tensor:
        """−∇ cost."""
        live = theta.detach().requires_grad_()
        return -torch.autograd.grad(self.cost(live), live)[0]

    def natural(self, theta: Tensor) -> Tensor:
        """The actions' F = E[φφᵀ], φ = (s₁x, s₂)."""
        mean, variance = (m.detach() for m in self.moments(theta))
        one, two = self.scale
        rows = [[one**2 * (mean**2 + variance), one * two * mean], [one * two * mean, torch.tensor(two**2, dtype=theta.dtype)]]
        return torch.linalg.solve(torch.stack([torch.stack(row) for row in rows]), self.uphill(theta))


@dataclass(frozen=True)
class Flow:
    """dθ/dt = direction(θ), watched at `times` (the start left out)."""

    times: np.ndarray
    values: np.ndarray

    def reaches(self, level: float) -> float:
        """The first time at which the value has passed `level` for good, ∞ if it has not."""
        above = self.values >= level
        if not above[-1]:
            return float("inf")
        last_below = np.flatnonzero(~above)
        return float(self.times[last_below[-1] + 1] if len(last_below) else self.times[0])

    def stays(self, low: float, high: float) -> float:
        """The share of log-time, before `high` is reached, that is spent between `low` and `high`."""
        before = self.values[self.times < self.reaches(high)]
        return float((before > low).mean()) if len(before) else 0.0


def flow(direction: Policy, value: Policy, theta: Tensor, first: float, last: float, enough: float, count: int = 300) -> Flow:
    """The gradient flow from t = 0, at `count` times evenly spaced in log t. It ends where the value is `enough`, which
    all later times record: beyond, a policy without any chance left has a singular Fisher matrix."""
    times = np.geomspace(first, last, count)

    def arrived(_: float, at: np.ndarray) -> float:
        return float(value(torch.tensor(at))) - enough

    arrived.terminal = True  # type: ignore[attr-defined]
    found = solve_ivp(
        lambda _, at: direction(torch.tensor(at)).numpy(),
        (0.0, last),
        theta.numpy(),
        "LSODA",
        times,
        events=arrived,
        rtol=1e-8,
        atol=1e-10,
    )
    values = np.full(count, enough)
    values[: found.y.shape[1]] = [float(value(torch.tensor(at))) for at in found.y.T]
    return Flow(times, values)
