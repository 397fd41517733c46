"""Normalisers: running moments of observations and returns, part of the networks and of every checkpoint.

    n ← n + m        μ ← μ + δ m/n        S ← S + Σ(x − x̄)² + δ² (n − m) m / n,        δ = x̄ − μ
    obs ↦ clip((obs − μ) / σ, ±10)          reward ↦ (reward + γ c' − c) / σ_R,   R_t = γ R_{t−1} + reward_t + γ c' − c

A block of m values at a time, exact for the whole stream (Chan, Golub & LeVeque 1983). Statistics stand still while a
block is collected and learned from, so the recorded log-density is the acting policy's; they absorb the block afterwards.
Evaluation uses the networks as they are: statistics are shared with it and never move there. No reward is clipped, which
would make rewards equal that differ, and no constant is taken away, which would change which policy is best where
episodes end: what returns have in common is a potential c, which a termination pays back.

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
# Returns that deviate by less than this share of the rewards' size are scaled by that share: rewards of 1 ± 1e-9 are constant.
NARROW = 1e-3
ENOUGH = 3  # episodes that terminate at one length make it the length of the task


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
    """Rewards less what the clock alone predicts, in units of the deviation of their running discounted return.

        reward_t ↦ (reward_t + γ [not terminated_t] c(age_t + 1) − c(age_t)) / σ
        c(age) = r̄ (1 + g + g² + …)        g = γ (1 − share of steps that terminate); the sum ends where the episode does

    c predicts the return for one who knows the mean reward r̄ and the step of the episode alone. It is the potential of a
    shaping, so the order of policies stays, whatever c is (Ng, Harada & Russell 1999): what each step loses, a termination
    pays back. An offset of every reward moves c, and neither σ nor what the critic has to learn.

    The sum has an end where most terminations came at the greatest length seen, as in a task of so many steps. A critic that
    cannot see the clock is wrong there by a whole return, in advantages a noise of a thousand times the reward.
    """

    running: Tensor
    age: Tensor
    longest: Tensor
    ends: Tensor
    last: Tensor

    def __init__(self, gamma: float, batch: int | None = None) -> None:
        super().__init__()
        self.gamma, self.moments, self.rewards = gamma, Moments(), Moments()
        # [batch] R after the last step seen; one number, until the first block says how many environments there are
        self.register_buffer("running", torch.zeros((batch,) if batch else (), dtype=torch.float64))
        self.register_buffer("age", torch.zeros((batch,) if batch else (), dtype=torch.int64))  # steps since the episode began
        for name in ("longest", "ends", "last"):  # most steps of an episode; terminations; those at the longest
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, reward: Tensor, first: Tensor, terminated: Tensor) -> Tensor:
        """The block's scaled rewards `[time, batch]`, the block absorbed first. Blocks come in their order."""
        if self.running.ndim == 0:
            self.running, self.age = (x.expand(reward.shape[1]).clone() for x in (self.running, self.age))
        age = self._ages(first)
        self._count(age, terminated)
        self.rewards.absorb(reward)
        ahead = self.gamma * (~terminated).to(torch.float64) * self.potential(age + 1)
        shaped = reward.to(torch.float64) + ahead - self.potential(age)
        goes_on = self.gamma * (~first).to(torch.float64)
        # R_t = γ R_{t-1} + reward_t is the affine scan of the block read backwards, into which R_{-1} enters at its start.
        steps = torch.cat([shaped[:1] + goes_on[:1] * self.running, shaped[1:]])
        returns = scan.affine(goes_on.flip(0), steps.flip(0)).flip(0)
        self.running.copy_(returns[-1])
        self.moments.absorb(returns)
        return (shaped / self.deviation).to(reward.dtype)

    def _ages(self, first: Tensor) -> Tensor:
        """`[time, batch]`, how many steps of its episode are before each one."""
        time = torch.arange(len(first), device=first.device).unsqueeze(-1)
        age = time - torch.where(first, time, -self.age).cummax(0).values
        self.age.copy_(age[-1] + 1)
        return age

    def _count(self, age: Tensor, terminated: Tensor) -> None:
        longest = torch.maximum(self.longest, age.max() + 1)
        self.last.mul_(longest == self.longest).add_((terminated & (age + 1 == longest)).sum())
        self.longest.copy_(longest)
        self.ends += terminated.sum()

    @property
    def deviation(self) -> Tensor:
        """σ, but no less than a thousandth of the rewards' size; 1 where every reward was 0."""
        floor = NARROW**2 * (self.rewards.mean.square() + self.rewards.variance)
        deviation = torch.maximum(self.moments.variance, floor).sqrt()
        return torch.where(deviation > 0, deviation, torch.ones_like(deviation))

    def potential(self, age: Tensor) -> Tensor:
        """c, in the rewards' own units, after `age` steps of an episode."""
        timed = (self.last >= ENOUGH) & (2 * self.last > self.ends)
        by_chance = torch.where(timed, self.ends - self.last, self.ends)
        goes_on = 1 - by_chance.to(torch.float64) / self.rewards.count.clamp_min(1)
        g = (self.gamma * goes_on).clamp_max(1 - 1e-4)  # γ = 1 and nothing has ended yet
        rest = torch.where(timed, 1 - g ** (self.longest - age).clamp_min(0), torch.ones_like(g))
        return self.rewards.mean * rest / (1 - g)

    def begin(self) -> None:
        """Other episodes, in other environments: what is known of returns stays."""
        self.running, self.age = self.running.new_zeros(()), self.age.new_zeros(())

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *rest: object) -> None:  # type: ignore[override]
        for name in ("running", "age"):
            setattr(self, name, torch.zeros_like(state_dict[prefix + name], device=self.ends.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)  # type: ignore[arg-type]
