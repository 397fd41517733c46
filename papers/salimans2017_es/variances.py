"""Variances of evolution strategies' gradients, in closed form, and of the estimates that the agent's own graph makes.

    F(θ + σε) = c + σ g·ε + ½ σ² εᵀHε,    return = F + η,  Var η = s²,    ε ~ N(0, I) in d dimensions

    plain       F ε / σ                       trace Var = [c² d + (σ²|g|² + c σ² tr H)(d + 2) + ¼ σ⁴ (tr² H + 2 tr H²)(d + 4)] / σ² − |g|²
    mirrored    (F₊ − F₋) ε / 2σ = (g·ε) ε     trace Var = (d + 1) |g|²                                        a pair

because E[p(ε) |ε|²] = (d + k) E[p(ε)] for p homogeneous of degree k. Noise of the returns adds, to the mean over n members:

                fresh η for every member       one η for a generation (common random numbers)
    plain       s² d / n σ²                    s² d / n σ²           it multiplies the mean of ε, which is not 0
    mirrored    s² d / n σ²                    0                     it cancels in every pair

Horizon: T actions θ + ζ_t, ζ ~ N(0, 1), whose mean ā earns R = −(ā − 1)² + η. The score of an episode is Σ ζ_t, of variance T; that of a
perturbed θ is ε/σ whatever T is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from scg.agents.search.distributions import DiagonalGaussian
from scg.agents.search.perturbations import Perturbations
from scg.agents.search.specification import search_graph, surrogate


@dataclass(frozen=True)
class Quadratic:
    """F around θ, and the noise of a return."""

    value: float
    slope: Tensor  # [d]
    curvature: Tensor  # [d, d]
    noise: float = 0.0
    sigma: float = 0.3

    @classmethod
    def random(cls, dim: int, noise: float, seed: int = 0) -> Quadratic:
        generator = Generator().manual_seed(seed)
        draw = torch.randn(dim, dim + 1, generator=generator, dtype=torch.float64)
        return cls(2.0, draw[:, 0] / dim**0.5, (draw[:, 1:] + draw[:, 1:].T) / 2, noise)

    @property
    def dim(self) -> int:
        return len(self.slope)

    def __call__(self, offset: Tensor) -> Tensor:
        """F `[*]` at `offset [*, d]` from θ."""
        return self.value + offset @ self.slope + ((offset @ self.curvature) * offset).sum(-1) / 2

    def variance(self, mirrored: bool, common: bool, members: int) -> float:
        """Trace of the covariance of the mean over `members`."""
        d, s2, g2, h = self.dim, self.sigma**2, float(self.slope @ self.slope), self.curvature
        trace, square = float(h.trace()), float((h * h).sum())
        added = 0.0 if mirrored and common else self.noise**2 * d / (members * s2)
        if mirrored:
            return (d + 1) * g2 / (members / 2) + added
        c = self.value
        second = c * c * d + (s2 * g2 + c * s2 * trace) * (d + 2) + s2 * s2 / 4 * (trace**2 + 2 * square) * (d + 4)
        return (second / s2 - g2) / members + added

    def estimates(self, mirrored: bool, common: bool, members: int, count: int, seed: int) -> np.ndarray:
        """`count` gradients `[count, d]`, each by the graph of the search agents."""
        distribution = DiagonalGaussian(torch.zeros(self.dim), self.sigma, learn_scale=False)
        graph, unit = search_graph(distribution, "returns"), Perturbations(seed, self.dim, mirrored=mirrored)
        generator, found = Generator().manual_seed(seed), list[np.ndarray]()
        for number in range(count):
            theta = distribution.members(unit.rows(number, range(members)))
            noise = torch.randn(1 if common else members, generator=generator, dtype=torch.float64)
            returns = self(theta) + self.noise * noise
            distribution.mean.grad = None
            surrogate(graph, "returns", theta, returns, returns).backward()
            assert distribution.mean.grad is not None
            found.append(-distribution.mean.grad.numpy().copy())
        return np.stack(found)


def horizon(steps: int, theta: float, noise: float, sigma: float = 0.5) -> dict[str, float]:
    """Variance of one episode's gradient: of the policy gradient without and with the baseline E[R], and of ES (its baseline too)."""
    x, w = np.polynomial.hermite_e.hermegauss(20)
    w = w / w.sum()

    def variance(mean_action: np.ndarray, score: np.ndarray, baseline: bool) -> float:
        reward = -((mean_action - 1.0) ** 2)
        level = float(w @ reward) if baseline else 0.0
        first, second = (reward - level) * score, ((reward - level) ** 2 + noise**2) * score**2
        return float(w @ second - (w @ first) ** 2)

    actions, perturbed = theta + x / steps**0.5, theta + sigma * x
    return {
        "policy gradient": variance(actions, x * steps**0.5, False),
        "policy gradient, baseline": variance(actions, x * steps**0.5, True),
        "ES": variance(perturbed, x / sigma, False),
        "ES, baseline": variance(perturbed, x / sigma, True),
    }
