"""The toy without sampling: its loss, its gradient, and the variance of its gradient's estimators.

    p = σ(θ),   q = 1 − p,   f(b) = (b − t)²,   Δ = f(1) − f(0) = 1 − 2t,   m = min(p, q)

    gradient                    p q Δ
    score function, baseline b  p q (q f(1) + p f(0) − b)²                 zero at b = q f(1) + p f(0)
    MuProp                      p q (p³ + q³)²                             f less its tangent at p is (b − p)²
    leave-one-out, n            Δ² (μ₄ − (n−3)/(n−1) p²q²) / n             μ₄ = p q (1 − 3 p q)
    ARM                         Δ² (⅔ (⅛ − (½ − m)³) − p²q²)
    DisARM                      p q Δ² ((1 − m)/2 − p q)

An estimator of one bit takes two values, p q (g(1) − g(0))²; leave-one-out is Δ times the sample variance of n bits, whose
own variance is a classic; the bits of ARM's pair differ where u is within m of an end. A control variate c of the noisy
logit z (a baseline, REBAR, RELAX) with the noise of z̃ in common, so that z̃ = z in value, leaves one integral over u:

    g(u) = (f(b) − c(z)) (b − p) + c'(z) (1 − ∂z̃/∂θ),      1 − ∂z̃/∂θ = q + p e^(−|z|) for b = 1,  p + q e^(−|z|) for b = 0

which is smooth on either side of z = 0. θ and t are tensors of any shape, one toy an element.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.optimize import brentq
from torch import Tensor
from torch.nn.functional import logsigmoid

Control = Callable[[Tensor], Tensor]
"""c of `z [points, *toys]`, of the same shape."""


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def cost(b: Tensor, t: Tensor) -> Tensor:
    return (b - t) ** 2


def loss(theta: Tensor, t: Tensor) -> Tensor:
    p = torch.sigmoid(theta)
    return p * (1 - t) ** 2 + (1 - p) * t**2


def gradient(theta: Tensor, t: Tensor) -> Tensor:
    return spread(theta) * (1 - 2 * t)


def spread(theta: Tensor) -> Tensor:
    """p q."""
    return torch.sigmoid(theta) * torch.sigmoid(-theta)


def best_baseline(theta: Tensor, t: Tensor) -> Tensor:
    """The constant that leaves the score function no variance at all."""
    p = torch.sigmoid(theta)
    return (1 - p) * (1 - t) ** 2 + p * t**2


def score_function(theta: Tensor, t: Tensor, baseline: Tensor | float = 0.0) -> Tensor:
    return spread(theta) * (best_baseline(theta, t) - baseline) ** 2


def mu_prop(theta: Tensor, t: Tensor) -> Tensor:
    pq = spread(theta)
    return (pq * (1 - 3 * pq) ** 2).expand_as(pq * t)


def leave_one_out(theta: Tensor, t: Tensor, n: int = 2) -> Tensor:
    pq = spread(theta)
    return (1 - 2 * t) ** 2 * (pq * (1 - 3 * pq) - (n - 3) / (n - 1) * pq**2) / n


def arm(theta: Tensor, t: Tensor) -> Tensor:
    m = torch.sigmoid(-theta.abs())
    return (1 - 2 * t) ** 2 * (2 / 3 * (1 / 8 - (0.5 - m) ** 3) - spread(theta) ** 2)


def disarm(theta: Tensor, t: Tensor) -> Tensor:
    pq = spread(theta)
    return pq * (1 - 2 * t) ** 2 * (torch.sigmoid(theta.abs()) / 2 - pq)


@dataclass(frozen=True)
class Noise:
    """Points of u with their probabilities: `z`, `b` (both `[points, *toys]`), and 1 − ∂z̃/∂θ."""

    z: Tensor
    b: Tensor
    lag: Tensor
    probability: Tensor


def noise(theta: Tensor, step: float = 0.1, width: float = 33.0) -> Noise:
    """The trapezoid rule over y, where u = q σ(y) below z = 0 and 1 − u = p σ(−y) above; z to rounding near 0 and ±∞."""
    theta = theta.detach()
    y = torch.arange(-width, width + step / 2, step, dtype=theta.dtype).reshape(-1, *[1] * theta.ndim)
    p, q = torch.sigmoid(theta), torch.sigmoid(-theta)
    below = logsigmoid(y) - torch.log1p(torch.exp(-theta) * torch.sigmoid(-y))
    above = torch.log1p(torch.exp(theta) * torch.sigmoid(y)) - logsigmoid(-y)
    weight = step * torch.sigmoid(y) * torch.sigmoid(-y)
    lag = torch.cat([p + q * torch.exp(below), q + p * torch.exp(-above)])
    z, b = torch.cat([below, above]), torch.cat([torch.zeros_like(below), torch.ones_like(above)])
    return Noise(z, b, lag, torch.cat([weight * q, weight * p]))


def at_noise(u: Noise, theta: Tensor, t: Tensor, control: Control) -> Tensor:
    """The estimate g(u) at each point, `[points, *toys]`."""
    with torch.enable_grad():
        z = u.z.detach().requires_grad_()
        c = control(z) + 0 * z  # a constant has a slope too
        (slope,) = torch.autograd.grad(c.sum(), z)
    score = u.b - torch.sigmoid(theta.detach())
    return (cost(u.b, t) - c.detach()) * score + slope * u.lag


def controlled(theta: Tensor, t: Tensor, control: Control) -> Tensor:
    """The variance with a control variate of the noisy logit."""
    u = noise(theta)
    g = at_noise(u, theta, t, control)
    return (u.probability * (g - gradient(theta.detach(), t)) ** 2).sum(0)


def relaxed_cost(t: Tensor, tau: Tensor | float, eta: Tensor | float = 1.0, shift: Tensor | float = 0.0) -> Control:
    """REBAR's control, η f(σ(z/τ + shift))."""
    return lambda z: eta * cost(torch.sigmoid(z / tau + shift), t)


def mean_field(theta: Tensor, tau: Tensor | float) -> Tensor:
    """The shift θ τ/(1 + τ) of Tucker et al. (2017, “Rethinking the relaxation”): τ → ∞ leaves σ(θ) = p, where σ(z/τ) would leave ½.

    It moves with θ, but as much for z̃ as for z: with common noise its share of the gradient cancels.
    """
    return theta.detach() * tau / (1 + tau)


def best_strength(theta: Tensor, t: Tensor, tau: Tensor | float, shift: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """η that leaves REBAR least variance at that temperature, and this variance as a share of the score function's.

    Its variance is a parabola in η through the score function's at η = 0: the share is 1 − correlation².
    """
    u = noise(theta)
    plain = at_noise(u, theta, t, torch.zeros_like)
    change = plain - at_noise(u, theta, t, relaxed_cost(t, tau, 1.0, shift))
    covariance, square = ((u.probability * change * x).sum(0) for x in (plain, change))
    return covariance / square, 1 - covariance**2 / square / score_function(theta, t)


def right_signs(theta: Tensor, t: Tensor, control: Control) -> Tensor:
    """The probability that an estimate has the sign of the gradient."""
    u = noise(theta)
    right = at_noise(u, theta, t, control) * gradient(theta.detach(), t) > 0
    return (u.probability * right).sum(0)


def concrete_gradient(theta: Tensor, t: Tensor, temperature: float) -> Tensor:
    """E[∇ f(σ(z/τ))], what the Concrete relaxation follows in place of the gradient."""
    u = noise(theta)
    x = torch.sigmoid(u.z / temperature)
    return (u.probability * 2 * (x - t) * x * (1 - x) / temperature).sum(0)


def concrete_variance(theta: Tensor, t: Tensor, temperature: float) -> Tensor:
    """The variance of ∇ f(σ(z/τ)), about its own mean, which is not the gradient."""
    u = noise(theta)
    x = torch.sigmoid(u.z / temperature)
    g = 2 * (x - t) * x * (1 - x) / temperature
    return (u.probability * (g - (u.probability * g).sum(0)) ** 2).sum(0)


def concrete_optimum(t: float, temperature: float) -> float:
    """Where descent from θ = 0 ends: the first θ below at which the relaxed gradient vanishes; −∞ if it is positive down to −12."""
    target = scalar(t)

    def slope(theta: float) -> float:
        return float(concrete_gradient(scalar(theta), target, temperature))

    grid = torch.linspace(0, -12, 241, dtype=torch.float64)
    below = (concrete_gradient(grid, target, temperature) < 0).nonzero()
    if not len(below):
        return -math.inf
    first = int(below[0])
    return float(brentq(slope, float(grid[first]), float(grid[first - 1])))
