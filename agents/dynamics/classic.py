"""Classic control in torch: the pendulum, the cart-pole with a continuous force, the double integrator, linear-quadratic control.

Pendulum and cart-pole compute gymnasium's `Pendulum-v1` and `CartPole-v1` step for step (in float64 to rounding; the cart-pole's
two actions are the forces ±1 here). The cart-pole's reward is our own, for 1 at every step has no slope to follow.

Barto, Sutton & Anderson (1983) for the cart-pole's equations, as gymnasium has them.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from scg.agents.dynamics.base import Dynamics, gaussian, uniform
from scg.testing.lqr import LQR


class Pendulum(Dynamics):
    """`Pendulum-v1`: state (θ, θ̇), θ = 0 upright; obs (cos θ, sin θ, θ̇); torque 2 · action."""

    state_size, obs_size, action_size = 2, 3, 1
    gravity, dt, fastest, torque = 10.0, 0.05, 8.0, 2.0

    def start(self, batch: int, generator: Generator | None = None) -> Tensor:
        return uniform((-math.pi, -1.0), (math.pi, 1.0), batch, generator)

    def transition(self, state: Tensor, action: Tensor) -> Tensor:
        theta, speed = state.unbind(-1)
        u = self.torque * action.squeeze(-1).clamp(-1.0, 1.0)
        speed = speed + (1.5 * self.gravity * theta.sin() + 3.0 * u) * self.dt
        speed = speed.clamp(-self.fastest, self.fastest)
        return torch.stack([theta + speed * self.dt, speed], -1)

    def observe(self, state: Tensor) -> Tensor:
        theta, speed = state.unbind(-1)
        return torch.stack([theta.cos(), theta.sin(), speed], -1)

    def reward(self, state: Tensor, action: Tensor, after: Tensor) -> Tensor:
        theta, speed = state.unbind(-1)
        angle = torch.remainder(theta + math.pi, 2 * math.pi) - math.pi  # its square is continuous
        u = self.torque * action.squeeze(-1).clamp(-1.0, 1.0)
        return -(angle.square() + 0.1 * speed.square() + 0.001 * u.square())


class CartPole(Dynamics):
    """State (x, ẋ, θ, θ̇) = obs; force 10 · action. Ends at |x| > 2.4 or |θ| > 12°, as `CartPole-v1` does.

    reward = 1 − ½ (x / 2.4)² − ½ (θ / 12°)²
    """

    state_size = obs_size = 4
    action_size, horizon = 1, 500
    gravity, cart, pole, length, force, tau = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
    far, tilt = 2.4, 12 * 2 * math.pi / 360

    def start(self, batch: int, generator: Generator | None = None) -> Tensor:
        return uniform((-0.05,) * 4, (0.05,) * 4, batch, generator)

    def transition(self, state: Tensor, action: Tensor) -> Tensor:
        x, speed, theta, spin = state.unbind(-1)
        cos, sin, total = theta.cos(), theta.sin(), self.cart + self.pole
        push = self.force * action.squeeze(-1).clamp(-1.0, 1.0)
        pushed = (push + self.pole * self.length * spin.square() * sin) / total
        turning = (self.gravity * sin - cos * pushed) / (self.length * (4.0 / 3.0 - self.pole * cos.square() / total))
        sliding = pushed - self.pole * self.length * turning * cos / total
        tau = self.tau
        return torch.stack([x + tau * speed, speed + tau * sliding, theta + tau * spin, spin + tau * turning], -1)

    def reward(self, state: Tensor, action: Tensor, after: Tensor) -> Tensor:
        x, _, theta, _ = after.unbind(-1)
        return 1.0 - 0.5 * (x / self.far).square() - 0.5 * (theta / self.tilt).square()

    def ended(self, state: Tensor) -> Tensor:
        x, _, theta, _ = state.unbind(-1)
        return (x.abs() > self.far) | (theta.abs() > self.tilt)


class LinearQuadratic(Dynamics):
    """The regulator of `scg.testing.lqr`: s' = A s + B a + σ_w w, reward −(sᵀ Q s + aᵀ R a). Actions are not clipped.

    Its costs, gradients and values have closed forms there (`LQR.cost`, `LQR.gradient`, `LQR.values`).
    """

    stochastic = True
    a: Tensor
    b: Tensor
    q: Tensor
    r: Tensor
    noise: Tensor
    first: Tensor
    spread: Tensor

    def __init__(self, lqr: LQR) -> None:
        super().__init__()
        self.horizon, self.state_size, self.obs_size, self.action_size = lqr.horizon, lqr.states, lqr.states, lqr.actions
        for name in ("a", "b", "q", "r", "noise", "spread"):
            self.register_buffer(name, getattr(lqr, name))
        self.register_buffer("first", lqr.start)

    def start(self, batch: int, generator: Generator | None = None) -> Tensor:
        draw = torch.randn(batch, self.state_size, generator=generator, dtype=self.first.dtype)
        return self.first + self.spread * draw

    def transition(self, state: Tensor, action: Tensor) -> Distribution:
        return gaussian(state @ self.a.mT + action @ self.b.mT, self.noise)

    def reward(self, state: Tensor, action: Tensor, after: Tensor) -> Tensor:
        return -((state @ self.q) * state).sum(-1) - ((action @ self.r) * action).sum(-1)


class DoubleIntegrator(LinearQuadratic):
    """A unit mass pushed along a line, with additive noise: position and velocity, 0.1 s a step, cost x² + 0.1 ẋ² + 0.1 a²."""

    def __init__(self, noise: float = 0.02, horizon: int = 100) -> None:
        dt = 0.1
        a, b = torch.tensor([[1.0, dt], [0.0, 1.0]]), torch.tensor([[0.5 * dt * dt], [dt]])
        q, r = torch.tensor([1.0, 0.1]).diag(), torch.tensor([[0.1]])
        super().__init__(LQR(a, b, q, r, torch.full((2,), noise), torch.zeros(2), torch.ones(2), horizon, 1.0))
