"""Normalisers: running moments of observations and returns, part of the networks and of every checkpoint.

    n ← n + m        μ ← μ + δ m/n        S ← S + Σ(x − x̄)² + δ² (n − m) m / n,        δ = x̄ − μ
    obs ↦ clip((obs − μ) / σ, ±10)                          reward ↦ clip(reward / σ_R, ±10),   R_t = γ R_{t−1} + reward_t

A block of m values at a time, exact for the whole stream (Chan, Golub & LeVeque 1983). Statistics stand still while a
block is collected and learned from, so the recorded log-density is the acting policy's; they absorb the block afterwards.
Evaluation uses the networks as they are: statistics are shared with it and never move there. Rewards are only scaled,
not centred: a constant taken from every reward would change which policy is best where episodes end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

LIMIT = 10.0  # normalised values are clipped to ± this
TINY = 1e-8


class Moments:
    """Count, mean and variance of a stream of `[*shape]` values, in float64 whatever the stream's type."""

    def __init__(self, shape: Sequence[int] = ()) -> None:
        self.count, self.mean, self.squares = 0, *(torch.zeros(tuple(shape), dtype=torch.float64) for _ in range(2))

    def absorb(self, values: Tensor) -> None:
        """`values` `[*any, *shape]`."""
        flat = values.detach().to("cpu", torch.float64).reshape(-1, *self.mean.shape)
        if not len(flat):
            return
        mean, before, self.count = flat.mean(0), self.count, self.count + len(flat)
        delta = mean - self.mean
        self.squares = self.squares + (flat - mean).square().sum(0) + delta.square() * (before * len(flat) / self.count)
        self.mean = self.mean + delta * (len(flat) / self.count)

    @property
    def variance(self) -> Tensor:
        return self.squares / max(self.count, 1)


class ObsNormaliser(nn.Module):
    """`obs [*batch, *shape] ↦ clip((obs − μ) / σ, ±10)`; clipping alone before the first `absorb`."""

    count: Tensor
    mean: Tensor
    squares: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        for name in ("mean", "squares"):
            self.register_buffer(name, torch.zeros(tuple(shape), dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("shift", torch.zeros(tuple(shape)))  # μ and 1/σ in the networks' type, ready to use
        self.register_buffer("scale", torch.ones(tuple(shape)))

    def forward(self, obs: Tensor) -> Tensor:
        return ((obs - self.shift) * self.scale).clamp(-LIMIT, LIMIT)

    def numpy(self) -> Callable[[np.ndarray], np.ndarray]:
        """`forward` on arrays with the statistics as they are now."""
        shift, scale = self.shift.numpy(), self.scale.numpy()

        def normalise(obs: np.ndarray) -> np.ndarray:
            x = obs - shift
            x *= scale
            return np.minimum(np.maximum(x, -LIMIT, out=x), LIMIT, out=x)

        return normalise

    @torch.no_grad()
    def absorb(self, obs: Tensor) -> None:
        """Take a block's observations `[*any, *shape]` into the statistics, in place."""
        moments = Moments(self.mean.shape)
        moments.count, moments.mean, moments.squares = int(self.count), self.mean.cpu(), self.squares.cpu()
        moments.absorb(obs)
        self.count.fill_(moments.count), self.mean.copy_(moments.mean), self.squares.copy_(moments.squares)
        self.shift.copy_(moments.mean)
        self.scale.copy_((moments.variance + TINY).rsqrt())


class RewardScale:
    """Rewards in units of the standard deviation of the running discounted return, environment by environment."""

    def __init__(self, gamma: float) -> None:
        self.gamma, self.moments = gamma, Moments()
        self.running: Tensor | None = None  # [batch] R after the last step seen

    def __call__(self, reward: Tensor, first: Tensor) -> Tensor:
        """The block's scaled rewards `[time, batch]`, its own returns absorbed first. Blocks come in their order."""
        running = torch.zeros(reward.shape[1], dtype=torch.float64) if self.running is None else self.running
        returns = np.empty(reward.shape)
        steps, goes_on = reward.cpu().double().numpy(), 1.0 - first.cpu().double().numpy()
        last = running.numpy()
        for t in range(len(steps)):
            last = returns[t] = self.gamma * goes_on[t] * last + steps[t]
        self.running = torch.from_numpy(returns[-1].copy())
        self.moments.absorb(torch.from_numpy(returns))
        return (reward * float((self.moments.variance + TINY).rsqrt())).clamp(-LIMIT, LIMIT)

    def state_dict(self) -> dict[str, Any]:
        return {**vars(self.moments), "running": self.running}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        state = dict(state)
        self.running = state.pop("running")
        vars(self.moments).update(state)
