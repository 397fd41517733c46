"""Two contacts at which a pathwise gradient is wrong, or useless, while the likelihood ratio is right.

    Wall    a ball is thrown at an angle and flies over a wall, or hits it and drops: the distance jumps at one angle.
            ∇ E[d(a)] has a term  [jump of d] · p(a*)  that no derivative of d at a sample sees: pathwise is biased
    Push    a pusher meets a block: block' = max(block, pusher'). Continuous, so pathwise is unbiased; but where no sample
            reaches the block every sample's derivative is 0: no direction to go, though E's derivative is not 0

Suh, Simchowitz, Zhang & Tedrake (2022), "Do differentiable simulators give better policy gradients?", sections 3 and 4.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from scg.agents.dynamics.base import Dynamics


class Wall(Dynamics):
    """One throw: action −1 is horizontal, 1 straight up; the reward is the distance, at most 10 (v²/g = 10 m).

    The wall is 2 m high, 5 m away. A throw that would land before it, or flies over it, lands at 10 sin 2θ; any other at 5.
    """

    state_size = obs_size = action_size = 1
    horizon = 1
    reach, away, high = 10.0, 5.0, 2.0

    def start(self, batch: int, generator: Generator | None = None) -> Tensor:
        return torch.zeros(batch, 1)

    def angle(self, action: Tensor) -> Tensor:
        return (1.0 + action.clamp(-0.999, 0.999)) * (math.pi / 4)

    def transition(self, state: Tensor, action: Tensor) -> Tensor:
        theta = self.angle(action)
        free = self.reach * (2 * theta).sin()
        slope = theta.tan()
        at_wall = self.away * slope - self.away**2 * (1 + slope.square()) / (2 * self.reach)
        stopped = (free > self.away) & (at_wall <= self.high)
        return torch.where(stopped, self.away, free)

    def reward(self, state: Tensor, action: Tensor, after: Tensor) -> Tensor:
        return after.squeeze(-1)

    def jumps(self) -> list[float]:
        """The actions at which the distance jumps: where the ball grazes the wall's top."""
        a, b = self.away**2 / (2 * self.reach), self.away
        root = math.sqrt(b * b - 4 * a * (a + self.high))
        return [math.atan((b + sign * root) / (2 * a)) / (math.pi / 4) - 1.0 for sign in (-1, 1)]


class Push(Dynamics):
    """State (pusher, block) on a line, from (−1, 0); the pusher moves by 0.3 · action, and the block with it once they touch.

    reward = −(block' − 1)² − 0.01 action²
    """

    state_size = obs_size = 2
    action_size, horizon, stride = 1, 20, 0.3

    def start(self, batch: int, generator: Generator | None = None) -> Tensor:
        return torch.tensor([-1.0, 0.0]).expand(batch, 2).clone()

    def transition(self, state: Tensor, action: Tensor) -> Tensor:
        pusher, block = state.unbind(-1)
        pusher = pusher + self.stride * action.squeeze(-1).clamp(-1.0, 1.0)
        return torch.stack([pusher, torch.maximum(block, pusher)], -1)

    def reward(self, state: Tensor, action: Tensor, after: Tensor) -> Tensor:
        return -(after[..., 1] - 1.0).square() - 0.01 * action.squeeze(-1).square()
