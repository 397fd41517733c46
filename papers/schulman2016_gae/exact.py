"""The gradient that GAE(γ, λ) gives, by its mean and variance over every episode of a small process.

    g = ∇E[Σ_{t<T} c_t]                what is wanted: no discount
    g^γ = E[Σ_t A^γ(s_t, a_t) ∇log π]  what discounting leaves of it
    ĝ = Σ_t Â_t ∇log π(a_t|s_t)        one episode's, Â from a critic V̂_t(s)

The critic is the exact V^γ, or that with an error of its own at each time and state.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from scg.estimators.credit import GAE
from scg.testing.tabular import Process, each_gradient, episodes, every_path, gradient, replay

STATES, HORIZON = 5, 7
EXACT, WRONG = "exact critic", "critic with errors"


@dataclass(frozen=True)
class Moments:
    """Bias of the mean as a share of ‖g‖; the variance of one episode's gradient, as a multiple of ‖g‖²."""

    mean: Tensor
    bias: float
    variance: float

    def error(self, episodes: int) -> float:
        """The squared error of the mean of so many episodes."""
        return self.bias**2 + self.variance / episodes


def walk(states: int = STATES, slip: float = 0.2) -> Process:
    """Two actions, left and right, that sometimes do the other's work; only the ends pay, so that what is done matters late."""
    transition, reward = (torch.zeros(*shape, dtype=torch.float64) for shape in ((states, 2, states), (states, 2)))
    for s in range(states):
        left, right = max(s - 1, 0), min(s + 1, states - 1)
        for action, (aim, miss) in enumerate(((left, right), (right, left))):
            transition[s, action, aim] += 1 - slip
            transition[s, action, miss] += slip
    reward[0], reward[-1] = -1.0, 1.0
    return Process(transition, reward, torch.eye(states, dtype=torch.float64)[states // 2], 1.0)


class Exact:
    def __init__(self, seed: int = 0, error: float = 0.3) -> None:
        self.process = walk()
        generator = Generator().manual_seed(seed)
        shapes = ((STATES, 2), (HORIZON + 1, STATES))
        self.theta, noise = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes)
        self.noise = error * noise
        self.noise[-1] = 0.0  # after the end there is nothing to estimate
        self.pi = self.theta.softmax(-1)
        self.paths = every_path(self.process, self.pi, HORIZON)
        self.wanted = gradient(self.total_cost, self.theta)
        self.size = float(self.wanted.norm())

    def total_cost(self, theta: Tensor) -> Tensor:
        """E[Σ c_t], live."""
        pi, occupied, total = theta.softmax(-1), self.process.start, torch.zeros((), dtype=theta.dtype)
        for _ in range(HORIZON):
            total = total - occupied @ (pi * self.process.reward).sum(-1)
            occupied = occupied @ self.process.step(pi)
        return total

    def tables(self, gamma: float) -> tuple[Tensor, Tensor]:
        """V^γ_t(s) `[T + 1, state]` and Q^γ_t(s, a) in cost units."""
        values, actions = [torch.zeros(STATES, dtype=torch.float64)], []
        for _ in range(HORIZON):
            actions.append(-self.process.reward + gamma * self.process.transition @ values[-1])
            values.append((self.pi * actions[-1]).sum(-1))
        return torch.stack(values[::-1]), torch.stack(actions[::-1])

    def discounted(self, gamma: float) -> Tensor:
        """g^γ, by occupancies and action values."""
        _, q = self.tables(gamma)

        def weighed(theta: Tensor) -> Tensor:
            occupied, total = self.process.start, torch.zeros((), dtype=theta.dtype)
            for t in range(HORIZON):
                total = total + (occupied.unsqueeze(-1) * theta.softmax(-1) * q[t]).sum()
                occupied = occupied @ self.process.step(self.pi)
            return total

        return gradient(weighed, self.theta)

    def critic(self, gamma: float, kind: str) -> dict[str, Tensor]:
        """`value` and `next_value` at every step of every path."""
        table = self.tables(gamma)[0] + (self.noise if kind == WRONG else 0.0)
        t = torch.arange(HORIZON).unsqueeze(-1)
        return {"value": table[t, self.paths.states], "next_value": table[t + 1, self.paths.following]}

    def moments(self, gamma: float, lam: float, kind: str) -> Moments:
        graph = episodes(GAE(discount=gamma, lam=lam))
        each = each_gradient(graph, self.paths, self.theta, **self.critic(gamma, kind))
        mean = self.paths.mean(each)
        bias = float((mean - self.wanted).norm()) / self.size
        return Moments(mean, bias, float(self.paths.variance(each)) / self.size**2)

    def mixture_gap(self, gamma: float, lam: float) -> float:
        """Between the library's advantages and (1 − λ) Σ_n λ^{n−1} Â^(n), n-step advantages by hand, on all paths."""
        given = self.critic(gamma, WRONG)
        own = self.theta.expand(self.paths.p.numel(), -1, -1)
        ours = replay(episodes(GAE(discount=gamma, lam=lam)), self.paths, own, **given).credit("action")
        cost, (value, following) = -self.paths.rewards, given.values()
        mixed = torch.zeros_like(ours)
        for t in range(HORIZON):
            for n in range(1, HORIZON - t + 1):
                last = n == HORIZON - t  # from the end on, all n-step advantages are alike
                weight = lam ** (n - 1) * (1.0 if last else 1 - lam)
                seen = sum((gamma**k * cost[t + k] for k in range(n)), -value[t])
                mixed[t] += weight * (seen + (0.0 if last else gamma**n * following[t + n - 1]))
        return float((ours - mixed).abs().max())
