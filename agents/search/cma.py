"""CMA-ES: a Gaussian whose mean, covariance and step size follow the ranks of its samples.

    theta_e = m + σ y_e,  y_e ~ N(0, C),  ranked from the best (e = 1) to the worst (e = λ);        weights w₁ ≥ … ≥ w_λ

    m   ← m + σ y_w                                      y_w = Σ_{e ≤ μ} w_e y_e, weights that sum to 1
    p_σ ← (1 − c_σ) p_σ + √(c_σ (2 − c_σ) μ_eff) C^−½ y_w
    σ   ← σ exp(c_σ/d_σ (‖p_σ‖ / E‖N(0, I)‖ − 1))
    p_c ← (1 − c_c) p_c + h √(c_c (2 − c_c) μ_eff) y_w   h = 0 while ‖p_σ‖ is large
    C   ← (1 + c₁ δ(h) − c₁ − c_μ Σ w) C  +  c₁ p_c p_cᵀ  +  c_μ Σ_e w°_e y_e y_eᵀ
                                             rank one       rank μ

    w°_e = w_e, or w_e d / ‖C^−½ y_e‖² where w_e < 0 (active: the worst half shrinks C, which stays positive definite)

The step of m is the natural gradient of Σ w_e log p(theta_e), and weighted maximum likelihood; the rank-μ step is the natural
gradient in C (Akimoto et al. 2010). Only ranks enter, so any monotone change of the returns gives the same bits.

`separable` keeps C diagonal, for the thousands of parameters of a network: O(d), and rates (d + 2)/3 times as large.

Hansen (2016), "The CMA evolution strategy: a tutorial"; Ros & Hansen (2008).
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from scg.agents.search.credits import best_first


def default_population(dim: int) -> int:
    """λ = 4 + ⌊3 ln d⌋."""
    return 4 + int(3 * math.log(dim))


class Rates:
    """Weights and learning rates of the tutorial's table 1, for d parameters and λ members."""

    def __init__(self, dim: int, members: int, separable: bool = False, active: bool = True) -> None:
        self.dim, self.members = dim, members
        raw = math.log((members + 1) / 2) - torch.arange(1, members + 1, dtype=torch.float64).log()
        parents = members // 2
        best, worst = raw[:parents], raw[parents:].clamp_max(0)
        self.mass = float(best.sum() ** 2 / best.square().sum())  # μ_eff
        mass, n = self.mass, dim
        self.c_sigma = (mass + 2) / (n + mass + 5)
        self.damping = 1 + 2 * max(0.0, math.sqrt((mass - 1) / (n + 1)) - 1) + self.c_sigma
        self.c_path = (4 + mass / n) / (n + 4 + 2 * mass / n)
        faster = (n + 2) / 3 if separable else 1.0
        self.c_one = min(1.0, faster * 2 / ((n + 1.3) ** 2 + mass))
        self.c_mu = min(1 - self.c_one, faster * 2 * (0.25 + mass + 1 / mass - 2) / ((n + 2) ** 2 + mass))
        self.weights = torch.cat([best / best.sum(), torch.zeros_like(worst)])
        if active and self.c_mu > 0 and float(worst.sum()) < 0:
            opposed = float(worst.sum() ** 2 / worst.square().sum())  # μ_eff of the worst half
            total = min(
                1 + self.c_one / self.c_mu,
                1 + 2 * opposed / (mass + 2),
                (1 - self.c_one - self.c_mu) / (n * self.c_mu),
            )
            self.weights[parents:] = total * worst / -worst.sum()
        self.every = max(1, int(1 / (10 * n * (self.c_one + self.c_mu))))  # generations that share a decomposition
        self.length = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))  # E‖N(0, I)‖


class Shape(Protocol):
    """C, and what is done with it."""

    def spread(self, noise: Tensor) -> Tensor: ...  # C^½ noise, [n, d]
    def whiten(self, y: Tensor) -> Tensor: ...  # C^−½ y, [*, d]
    def move(self, keep: float, vectors: Tensor, weights: Tensor, every: int) -> None: ...  # C ← keep C + Σ weights v vᵀ
    def reset(self) -> None: ...  # C = I
    def widths(self) -> Tensor: ...  # √C_jj
    def condition(self) -> float: ...  # largest over smallest eigenvalue
    def distribution(self, mean: Tensor, sigma: Tensor) -> Distribution: ...


class Diagonal(nn.Module):
    """C = diag(c)."""

    variance: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("variance", torch.ones(dim, dtype=torch.float64))

    def spread(self, noise: Tensor) -> Tensor:
        return noise * self.variance.sqrt()

    def whiten(self, y: Tensor) -> Tensor:
        return y / self.variance.sqrt()

    def reset(self) -> None:
        self.variance.fill_(1)

    def move(self, keep: float, vectors: Tensor, weights: Tensor, every: int) -> None:
        self.variance.mul_(keep).add_(weights @ vectors.square())

    def widths(self) -> Tensor:
        return self.variance.sqrt()

    def condition(self) -> float:
        return float(self.variance.max() / self.variance.min())

    def distribution(self, mean: Tensor, sigma: Tensor) -> Distribution:
        return Independent(Normal(mean, sigma * self.variance.sqrt(), validate_args=False), 1, validate_args=False)


class Full(nn.Module):
    """C = B diag(ℓ²) Bᵀ. The decomposition is renewed so rarely that it costs O(d²) a member; samples and lengths use the same
    one."""

    covariance: Tensor
    basis: Tensor
    lengths: Tensor
    age: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("covariance", torch.eye(dim, dtype=torch.float64))
        self.register_buffer("basis", torch.eye(dim, dtype=torch.float64))
        self.register_buffer("lengths", torch.ones(dim, dtype=torch.float64))
        self.register_buffer("age", torch.zeros((), dtype=torch.int64))

    def spread(self, noise: Tensor) -> Tensor:
        return (noise * self.lengths) @ self.basis.T

    def whiten(self, y: Tensor) -> Tensor:
        return ((y @ self.basis) / self.lengths) @ self.basis.T

    def reset(self) -> None:
        for matrix in (self.covariance, self.basis):
            nn.init.eye_(matrix)
        self.lengths.fill_(1)
        self.age.zero_()

    def move(self, keep: float, vectors: Tensor, weights: Tensor, every: int) -> None:
        self.covariance.mul_(keep).addmm_(vectors.T * weights, vectors)
        self.age += 1
        if self.age >= every:
            self.decompose()

    def decompose(self) -> None:
        self.age.zero_()
        self.covariance.copy_((self.covariance + self.covariance.T) / 2)
        values, basis = torch.linalg.eigh(self.covariance)
        self.lengths.copy_(values.clamp_min(1e-300).sqrt())
        self.basis.copy_(basis)

    def widths(self) -> Tensor:
        return self.covariance.diagonal().sqrt()

    def condition(self) -> float:
        return float((self.lengths.max() / self.lengths.min()) ** 2)

    def distribution(self, mean: Tensor, sigma: Tensor) -> Distribution:
        factor = sigma * (self.basis * self.lengths) @ self.basis.T  # the symmetric root: L with L Lᵀ = σ² C
        return MultivariateNormal(mean, covariance_matrix=factor @ factor.T, validate_args=False)


class CMA(nn.Module):
    """The search distribution and its memory. Returns are maximised."""

    size: Tensor
    sigma: Tensor
    path: Tensor
    path_sigma: Tensor
    generation: Tensor
    _rates: Rates | None = None

    def __init__(self, mean: Tensor, sigma: float, members: int = 0, separable: bool = False, active: bool = True) -> None:
        super().__init__()
        mean = mean.detach().double().clone()
        dim, self.first_sigma, self.kind = len(mean), sigma, (separable, active)
        self.mean = nn.Parameter(mean)
        self.shape: Any = Diagonal(dim) if separable else Full(dim)
        self.register_buffer("size", torch.tensor(members or default_population(dim)))
        self.register_buffer("sigma", torch.tensor(sigma, dtype=torch.float64))
        self.register_buffer("path", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("path_sigma", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("generation", torch.zeros((), dtype=torch.int64))

    @property
    def rates(self) -> Rates:
        """For the present population."""
        if self._rates is None or self._rates.members != int(self.size):
            self._rates = Rates(len(self.mean), int(self.size), *self.kind)
        return self._rates

    @torch.no_grad()
    def restart(self, mean: Tensor, members: int) -> None:
        """Restart at another mean, with another population."""
        self.size.fill_(members)
        self.mean.copy_(mean)
        self.sigma.fill_(self.first_sigma)
        self.shape.reset()
        for buffer in (self.path, self.path_sigma, self.generation):
            buffer.zero_()

    def forward(self) -> Distribution:
        return self.shape.distribution(self.mean, self.sigma)

    @property
    def scale(self) -> Tensor:
        """Standard deviation of each parameter."""
        return self.sigma * self.shape.widths()

    @torch.no_grad()
    def members(self, noise: Tensor) -> Tensor:
        """`theta [n, d]` for unit normal noise `[n, d]`."""
        return self.mean.detach() + self.sigma * self.shape.spread(noise)

    @torch.no_grad()
    def credit(self, utility: Tensor) -> Tensor:
        """Each member's weight `[n]` by its rank; ties by order."""
        weight = torch.zeros(len(utility), dtype=torch.float64)
        weight[best_first(utility)] = self.rates.weights
        return weight

    @torch.no_grad()
    def update(self, theta: Tensor, weight: Tensor) -> None:
        """One generation: `theta [n, d]` with their `credit`."""
        r, n = self.rates, self.rates.dim
        y = (theta - self.mean) / self.sigma
        step = weight.clamp_min(0) @ y
        self.mean.add_(self.sigma * step)
        self.generation += 1
        whitened = self.shape.whiten(torch.cat([step[None], y]))
        self.path_sigma.mul_(1 - r.c_sigma).add_(math.sqrt(r.c_sigma * (2 - r.c_sigma) * r.mass) * whitened[0])
        speed = float(self.path_sigma.norm())
        settled = math.sqrt(1 - (1 - r.c_sigma) ** (2 * int(self.generation)))
        straight = float(speed / settled < (1.4 + 2 / (n + 1)) * r.length)  # h
        self.path.mul_(1 - r.c_path).add_(straight * math.sqrt(r.c_path * (2 - r.c_path) * r.mass) * step)
        lengths = whitened[1:].square().sum(-1)
        rank_mu = torch.where(weight < 0, weight * n / lengths.clamp_min(1e-300), weight)
        missing = (1 - straight) * r.c_path * (2 - r.c_path)
        keep = 1 + r.c_one * missing - r.c_one - r.c_mu * float(weight.sum())
        weights = torch.cat([torch.tensor([r.c_one], dtype=torch.float64), r.c_mu * rank_mu])
        self.shape.move(keep, torch.cat([self.path[None], y]), weights, r.every)
        self.sigma.mul_(math.exp(min(1.0, r.c_sigma / r.damping * (speed / r.length - 1))))

    def stalled(self, smallest: float = 1e-12) -> str:
        """The reason to stop, or "": steps below `smallest`, a degenerate covariance, or a mean that steps do not change."""
        scale = self.scale
        if float(scale.max()) < smallest and float((self.sigma * self.path).abs().max()) < smallest:
            return f"steps are below {smallest}"
        if self.shape.condition() > 1e14:
            return "the covariance has condition 1e14"
        if bool((self.mean.detach() == self.mean.detach() + 0.2 * scale).any()):
            return "steps are below the mean's precision"
        return ""
