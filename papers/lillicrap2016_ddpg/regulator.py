"""A linear-quadratic regulator on which DDPG's gradients are exact, and what target networks do to a linear critic.

    s' = A s + B a + w,  w ~ N(0, W)     reward −(sᵀ Q s + aᵀ R a)     a = K s + σ ε,  ε ~ N(0, 1)

    V(s) = −(sᵀ P s + p)      Q(s, a) = −(xᵀ H x + h),  x = (s, a)      Σ = Σ_t γ^t E[s_t s_tᵀ]
    J(K, σ) = E[V(s_0)]       ∇_K J = Σ_t γ^t E[∇_K (K s_t) ∇_a Q(s_t, a)] at σ = 0

Means over states are means over points with their second moment, which is exact for what is quadratic in them.

    w ← w − α (A w − γ C w̄ − b),   w̄ ← w̄ + τ (w − w̄)      a linear critic's mean update: A = Φᵀ D Φ, C = Φᵀ D P Φ
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor, nn

from scg.testing.tabular import Process

KIND = torch.float64


@dataclass(frozen=True)
class LQR:
    a: Tensor  # [states, states]
    b: Tensor  # [states, actions]
    q: Tensor  # [states, states]
    r: Tensor  # [actions, actions]
    w: Tensor  # [states, states]
    start: Tensor  # [states, states], E[s_0 s_0ᵀ]
    gamma: float = 0.9

    @classmethod
    def random(cls, seed: int, states: int = 2, actions: int = 1) -> LQR:
        g = Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g, dtype=KIND)

        def positive(size: int) -> Tensor:
            root = draw(size, size)
            return root @ root.mT / size + 0.2 * torch.eye(size, dtype=KIND)

        a = draw(states, states)
        a = 0.9 * a / torch.linalg.matrix_norm(a, 2)  # so that K = 0 and its neighbours are stable
        return cls(a, draw(states, actions), positive(states), positive(actions), 0.1 * positive(states), positive(states))

    def gain(self, seed: int) -> Tensor:
        """A random K that keeps γ (A + B K)² below 1."""
        g = Generator().manual_seed(seed)
        k = torch.randn(self.b.shape[1], self.b.shape[0], generator=g, dtype=KIND)
        while torch.linalg.matrix_norm(self.a + self.b @ k, 2) > 1:
            k = k / 2
        return k

    def value(self, k: Tensor) -> Tensor:
        """P, live in K."""
        return self._sum((self.a + self.b @ k).mT, self.q + k.mT @ self.r @ k)

    def action_value(self, k: Tensor, scale: float = 0.0) -> tuple[Tensor, Tensor]:
        """H and h."""
        p, both = self.value(k), torch.cat([self.a, self.b], -1)
        each = self.gamma * (p * self.w).sum() + scale**2 * (self.r + self.gamma * self.b.mT @ p @ self.b).trace()
        tail = self.gamma * ((p * self.w).sum() + each / (1 - self.gamma))  # what noise costs from the next step on
        return torch.block_diag(self.q, self.r) + self.gamma * both.mT @ p @ both, tail

    def objective(self, k: Tensor, scale: float = 0.0) -> Tensor:
        """J, live in K."""
        p = self.value(k)
        each = self.gamma * (p * self.w).sum() + scale**2 * (self.r + self.gamma * self.b.mT @ p @ self.b).trace()
        return -((p * self.start).sum() + each / (1 - self.gamma))

    def gradient(self, k: Tensor, scale: float = 0.0) -> Tensor:
        live = k.clone().requires_grad_()
        return torch.autograd.grad(self.objective(live, scale), live)[0]

    def visits(self, k: Tensor, scale: float = 0.0) -> Tensor:
        """Σ of the policy that adds noise of `scale`."""
        noise = self.w + scale**2 * self.b @ self.b.mT
        return self._sum(self.a + self.b @ k, self.start + self.gamma / (1 - self.gamma) * noise)

    def _sum(self, m: Tensor, x: Tensor) -> Tensor:
        """Σ_t γ^t mᵗ x (mᵗ)ᵀ."""
        system = torch.eye(x.numel(), dtype=KIND) - self.gamma * torch.kron(m, m)
        return torch.linalg.solve(system, x.flatten()).view_as(x)


class Actor(nn.Module):
    """a = K s."""

    def __init__(self, k: Tensor) -> None:
        super().__init__()
        self.dim, self.k = k.shape[0], nn.Parameter(k.clone())

    def forward(self, obs: Tensor) -> Tensor:
        return obs @ self.k.mT


class Critic(nn.Module):
    """Q(s, a) = −(xᵀ H x + h): one critic, as the agents' are called."""

    def __init__(self, h: Tensor, constant: Tensor) -> None:
        super().__init__()
        self.h, self.constant = nn.Parameter(h.clone()), nn.Parameter(constant.clone())

    def first(self, obs: Tensor, action: Tensor) -> Tensor:
        x = torch.cat([obs, action], -1)
        return -((x @ self.h) * x).sum(-1) - self.constant

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        return self.first(obs, action).unsqueeze(-1)


def points(moment: Tensor) -> Tensor:
    """`[2n, n]`, equally likely, with mean 0 and this second moment."""
    root = torch.linalg.cholesky(moment) * len(moment) ** 0.5
    return torch.cat([root.mT, -root.mT])


def normal_grid(moment: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Gauss–Hermite nodes `[points, n]` and weights for N(0, moment): exact to degree 2 · nodes − 1."""
    x, w = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(nodes))
    n = len(moment)
    grid = torch.cartesian_prod(*[x] * n).reshape(-1, n)
    weight = torch.cartesian_prod(*[w / w.sum()] * n).reshape(-1, n).prod(-1)
    return grid @ torch.linalg.cholesky(moment).mT, weight


# -- a linear critic and its target ----------------------------------------------------------------------------------


def regression(seed: int, features: int = 4, states: int = 8, gamma: float = 0.95) -> tuple[Tensor, Tensor]:
    """A and γ C of a random process and policy, with random features, on states that are replayed evenly."""
    process, g = Process.random(seed, states, 2, gamma), Generator().manual_seed(seed + 1000)
    pi = torch.randn(states, 2, generator=g, dtype=KIND).softmax(-1)
    phi = torch.randn(states, features, generator=g, dtype=KIND)
    return phi.mT @ phi / states, gamma * phi.mT @ process.step(pi) @ phi / states


def radius(a: Tensor, c: Tensor, rate: float, tau: float) -> float:
    """The spectral radius of the update of (w, w̄): below 1 it converges."""
    one = torch.eye(len(a), dtype=a.dtype)
    online = torch.cat([one - rate * a, rate * c], -1)
    target = tau * online + (1 - tau) * torch.cat([torch.zeros_like(one), one], -1)
    return float(torch.linalg.eigvals(torch.cat([online, target])).abs().max())


def largest_rate(a: Tensor, c: Tensor, tau: float, most: float = 1.5) -> float:
    """Up to which rate the update converges, in units of 2/λ_max(A), the limit of a regression on fixed targets; 0: at none."""
    limit = 2 / float(torch.linalg.eigvalsh(a)[-1])
    shares = [most * (i + 1) / 30 for i in range(30)]
    unstable = next((share for share in shares if radius(a, c, share * limit, tau) >= 1), None)
    if unstable is None:
        return most
    stable = unstable - most / 30
    for _ in range(8):
        middle = (stable + unstable) / 2
        stable, unstable = (middle, unstable) if radius(a, c, middle * limit, tau) < 1 else (stable, middle)
    return stable if stable > 1e-6 and radius(a, c, stable * limit / 2, tau) < 1 else 0.0
