"""Normalisers: running moments of observations and returns, part of the networks and of every checkpoint.

    n ← n + m        μ ← μ + δ m/n        S ← S + Σ(x − x̄)² + δ² (n − m) m / n,        δ = x̄ − μ
    obs ↦ clip((obs − μ) / σ, ±10)                          reward ↦ reward / σ_R,   R_t = γ R_{t−1} + reward_t

A block of m values at a time, exact for the whole stream (Chan, Golub & LeVeque 1983). Statistics stand still while a
block is collected and learned from, so the recorded log-density is the acting policy's; they absorb the block afterwards.
Evaluation uses the networks as they are: statistics are shared with it and never move there. Rewards are only scaled:
a constant taken from every reward would change which policy is best where episodes end, and a clip would make rewards
equal that differ. What all returns have in common, `RewardScale.centre`, is added to the critic's output instead.

Statistics are tensors, changed in place, so that an update which contains them can be compiled in one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from scg import scan

LIMIT = 10.0  # normalised observations are clipped to ± this
TINY = 1e-8
NARROW = 1e-3  # returns that deviate by less than this share of their size are scaled by that share: 1 ± 1e-9 is constant


class Moments(nn.Module):
    """Count, mean and variance of a stream of `[*shape]` values, in float64 whatever the stream's type."""

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, shape: Sequence[int] = ()) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        for name in ("mean", "squares"):
            self.register_buffer(name, torch.zeros(tuple(shape), dtype=torch.float64))

    @torch.no_grad()
    def absorb(self, values: Tensor) -> None:
        """`values` `[*any, *shape]`."""
        flat = values.to(torch.float64).reshape(-1, *self.mean.shape)
        if len(flat):
            mean = flat.mean(0)
            self.join(len(flat), mean, (flat - mean).square().sum(0))

    @torch.no_grad()
    def join(self, more: int, mean: Tensor, squares: Tensor) -> None:
        """Take in `more` values by their mean and sum of squared deviations."""
        before = self.count.to(torch.float64)
        share = more / (before + more)
        delta = mean - self.mean
        self.squares += squares + delta.square() * (before * share)
        self.mean += delta * share
        self.count += more

    @property
    def variance(self) -> Tensor:
        return self.squares / self.count.clamp_min(1)


class ObsNormaliser(nn.Module):
    """`obs [*batch, *shape] ↦ clip((obs − μ) / σ, ±10)`; clipping alone before the first `absorb`."""

    shift: Tensor
    scale: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.moments = Moments(shape)
        self.register_buffer("shift", torch.zeros(tuple(shape)))  # μ and 1/σ in the networks' type, ready to use
        self.register_buffer("scale", torch.ones(tuple(shape)))

    @property
    def count(self) -> Tensor:
        return self.moments.count

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
        self.moments.absorb(obs)
        self._refresh()

    @torch.no_grad()
    def absorb_sums(self, count: int, total: np.ndarray, squares: np.ndarray) -> None:
        """The same of `count` observations, by their sum and sum of squares `[*shape]`, in float64."""
        if count:
            mean = torch.from_numpy(total / count)
            self.moments.join(count, mean, torch.from_numpy(squares - total * (total / count)).clamp_min(0))
            self._refresh()

    def _refresh(self) -> None:
        self.shift.copy_(self.moments.mean)
        self.scale.copy_((self.moments.variance + TINY).rsqrt())


class RewardScale(nn.Module):
    """Rewards in units of the standard deviation of the running discounted return, environment by environment.

    A positive factor and no clip, so rewards that differ stay different, by an offset of any size too.
    """

    running: Tensor
    total: Tensor
    ends: Tensor

    def __init__(self, gamma: float, batch: int | None = None) -> None:
        super().__init__()
        self.gamma, self.moments = gamma, Moments()
        # [batch] R after the last step seen; one number, until the first block says how many environments there are
        self.register_buffer("running", torch.zeros((batch,) if batch else (), dtype=torch.float64))
        self.register_buffer("total", torch.zeros((), dtype=torch.float64))  # of all rewards
        self.register_buffer("ends", torch.zeros((), dtype=torch.int64))  # terminations

    @torch.no_grad()
    def forward(self, reward: Tensor, first: Tensor, terminated: Tensor) -> Tensor:
        """The block's scaled rewards `[time, batch]`, its own returns absorbed first. Blocks come in their order."""
        self.total += reward.to(torch.float64).sum()
        self.ends += terminated.sum()
        if self.running.ndim == 0:
            self.running = self.running.expand(reward.shape[1]).clone()
        goes_on = self.gamma * (~first).to(torch.float64)
        # R_t = γ R_{t-1} + reward_t is the affine scan of the block read backwards, into which R_{-1} enters at its start.
        steps = torch.cat([reward[:1].to(torch.float64) + goes_on[:1] * self.running, reward[1:].to(torch.float64)])
        returns = scan.affine(goes_on.flip(0), steps.flip(0)).flip(0)
        self.running.copy_(returns[-1])
        self.moments.absorb(returns)
        return (reward.to(torch.float64) / self.deviation).to(reward.dtype)

    @property
    def deviation(self) -> Tensor:
        """σ_R, but no less than a thousandth of the returns' size; 1 where every return was 0."""
        variance, mean = self.moments.variance, self.moments.mean
        deviation = torch.maximum(variance, NARROW**2 * (mean.square() + variance)).sqrt()
        return torch.where(deviation > 0, deviation, torch.ones_like(deviation))

    @property
    def centre(self) -> Tensor:
        """The best constant critic of the scaled rewards: the mean of its temporal differences is 0.

            c = mean(reward + γ [not terminated] c) / σ_R            c = mean(reward) / (1 − γ (1 − share terminated)) / σ_R

        A constant in every reward moves c alone, and no advantage, in one-step episodes and in endless ones.
        """
        count = self.moments.count.clamp_min(1).to(torch.float64)
        ahead = (1 - self.gamma * (1 - self.ends / count)).clamp_min(1e-4)  # γ = 1 and nothing has ended yet
        return self.total / count / ahead / self.deviation

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *rest: object) -> None:  # type: ignore[override]
        self.running = torch.zeros_like(state_dict[prefix + "running"], device=self.running.device)
        super()._load_from_state_dict(state_dict, prefix, *rest)  # type: ignore[arg-type]
