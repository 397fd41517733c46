"""Is the mean of a stream of estimates the exact value? A sequential answer with two stated error rates.

Every observation is a mean of many independent draws. After 32, 64, 128, … of them a confidence interval is laid
around each entry's bias; the levels of all looks and entries add up to `false_alarm` (a union bound), so with
probability 1 - false_alarm every interval of the whole test covers its true bias. Hence, at the first look that decides,

    biased      an entry's interval excludes 0                                 wrong with probability ≤ false_alarm
    unbiased    every entry's interval lies inside ± its detectable bias       wrong with probability ≤ false_alarm
    undecided   `max_draws` were not enough for either
    not finite  a draw was nan or infinite: no mean can be right

so "unbiased" says that a bias of the detectable size would have been found. Look k of K gets the share 2^(k-K) of the
level: early looks, where means of skewed draws are least normal, can hardly decide anything but gross errors.

Intervals are Student's, corrected for skewness (Hall 1992): weights of rare samples make skewed draws. What n draws have not
seen is in no interval: outcomes that are together less probable than λ/n, λ = -log(level), may all be missing (at λ = 3 this
is the "rule of three"). An exact oracle knows how much of the derivative lies in such outcomes (`Oracle.unseen`), and that
much more an entry must be off before it counts as biased. Two guards where nothing is known: entries of which one
observation makes up most of the variance decide nothing, and a constant that differs from the exact value counts as biased
only after `PATIENCE` first looks' worth of draws. Assumed: draws are independent and have three moments. Estimates whose own
weights are heavy-tailed (importance ratios) are covered as far as the correction goes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from scg.testing.oracle import Oracle
from scg.testing.parameters import Block

Verdict = Literal["unbiased", "biased", "undecided", "not finite"]
FIRST = 32  # observations at the first look
PATIENCE = 16  # times the first look, before a constant counts as biased
DOMINANT = 1 / 3  # of the sum of squares: one observation's share that makes an interval incredible


@dataclass(frozen=True)
class Outcome:
    """Where a sequential test ended: per flat entry, and overall."""

    verdict: Verdict
    draws: int
    mean: Tensor
    se: Tensor
    half: Tensor
    spread: Tensor
    allowed: Tensor
    floored: Tensor
    verdicts: tuple[Verdict, ...]

    def worst(self, index: Tensor, exact: Tensor) -> int:
        """The entry of a block that the verdict hangs on."""
        bad = [i for i in index.tolist() if self.verdicts[i] in ("biased", "not finite")] or index.tolist()
        score = ((self.mean - exact).abs() / self.half.clamp_min(1e-300))[bad]
        return bad[int(score.argmax())]


class Moments:
    """Running mean, central sums of squares and cubes, and extremes of rows `[k, entries]` (Pébay 2008)."""

    def __init__(self, entries: int) -> None:
        self.count = 0
        self.mean = torch.zeros(entries, dtype=torch.float64)
        self.squares, self.cubes = torch.zeros_like(self.mean), torch.zeros_like(self.mean)
        self.low, self.high = torch.full_like(self.mean, math.inf), torch.full_like(self.mean, -math.inf)

    def add(self, rows: Tensor) -> None:
        n, k = self.count, rows.shape[0]
        total, mean = n + k, rows.mean(0)
        gap, centred = mean - self.mean, rows - mean
        squares = centred.square().sum(0)
        self.cubes += centred.pow(3).sum(0) + gap.pow(3) * (n * k * (n - k) / total**2)
        self.cubes += 3 * gap * (n * squares - k * self.squares) / total
        self.squares += squares + gap.square() * (n * k / total)
        self.mean = self.mean + gap * (k / total)
        self.count = total
        self.low, self.high = torch.minimum(self.low, rows.amin(0)), torch.maximum(self.high, rows.amax(0))

    @property
    def deviation(self) -> Tensor:
        return (self.squares / (self.count - 1)).sqrt()

    @property
    def skewness(self) -> Tensor:
        """Of the mean: that of one observation over √n."""
        return self.cubes / self.squares.pow(1.5).clamp_min(1e-300)

    @property
    def dominance(self) -> Tensor:
        """The share of the sum of squares that the most extreme observation makes up."""
        extreme = torch.maximum((self.high - self.mean).abs(), (self.mean - self.low).abs())
        return extreme.square() / self.squares.clamp_min(1e-300)


@dataclass(frozen=True)
class Interval:
    """The confidence interval around each entry's bias, by what lies surely outside it."""

    bias: Tensor
    slack: Tensor
    se: Tensor
    skewness: Tensor
    quantile: float

    def above(self, level: Tensor) -> Tensor:
        """Whether the true bias is surely larger than `level`."""
        return corrected((self.bias - self.slack - level) / self.se, self.skewness) > self.quantile

    def below(self, level: Tensor) -> Tensor:
        """Whether it is surely smaller."""
        return corrected((self.bias + self.slack - level) / self.se, self.skewness) < -self.quantile


def judge(
    draw: Callable[[int], Tensor],
    per_row: int,
    oracle: Oracle,
    blocks: list[Block],
    *,
    false_alarm: float,
    detectable: float,
    floor: float,
    max_draws: int,
    epsilon: float,
    patient: bool = True,
) -> Outcome:
    """Run the test. `draw(k)` gives k independent observations `[k, entries]`, each the mean of `per_row` draws.

    patient   False: stop undecided at the first look from which neither verdict is in sight
    """
    entries = len(oracle.exact)
    looks = max(1, int(math.log2(max(max_draws // per_row, FIRST) / FIRST)) + 1)
    moments = Moments(entries)
    for look in range(looks):
        rows = draw(FIRST * 2**look - moments.count)
        if not torch.isfinite(rows).all():
            found = torch.isfinite(rows).all(0).tolist()
            nan: tuple[Verdict, ...] = tuple("undecided" if ok else "not finite" for ok in found)
            empty = torch.full((entries,), math.nan, dtype=torch.float64)
            drawn = (moments.count + len(rows)) * per_row
            return Outcome("not finite", drawn, rows.mean(0), empty, empty, empty, empty, torch.isnan(oracle.exact), nan)
        moments.add(rows)
        level = false_alarm * 2.0 ** (look + 1 - looks) / (2 - 2.0 ** (1 - looks)) / entries
        se = (moments.deviation.square() / moments.count + oracle.se.square()).sqrt()
        skewness = moments.skewness * (moments.deviation / moments.count**0.5 / se.clamp_min(1e-300)).pow(3)
        quantile = student_quantile(level / 2, moments.count - 1)
        spread = moments.deviation * per_row**0.5
        allowed, rounding, floored = scales(oracle.exact, moments.mean, spread, blocks, detectable, floor, epsilon)
        bias, slack = moments.mean - oracle.exact, oracle.error + rounding
        interval = Interval(bias, slack, se.clamp_min(1e-300), skewness, quantile)
        constant = spread <= rounding
        credible = constant | (moments.dominance < DOMINANT)
        seen = ~constant | (moments.count >= PATIENCE * FIRST) | (look == looks - 1)
        zero = torch.zeros_like(bias)
        away = torch.where(constant, bias.abs() > slack, interval.above(zero) | interval.below(zero))
        off = away & credible & seen
        if bool(off.any()) and oracle.unseen is not None:
            missed = slack + oracle.unseen(min(1.0, -math.log(level) / (moments.count * per_row)))
            wider = Interval(bias, missed, se.clamp_min(1e-300), skewness, quantile)
            off &= torch.where(constant, bias.abs() > missed, wider.above(zero) | wider.below(zero))
        inside = torch.where(constant, bias.abs() <= slack, interval.above(-allowed) & interval.below(allowed))
        fine = inside & credible & (slack <= allowed.maximum(rounding))
        verdicts: tuple[Verdict, ...] = tuple(
            "biased" if o else "unbiased" if f else "undecided" for o, f in zip(off.tolist(), fine.tolist(), strict=True)
        )
        hopeless = bool((oracle.error + quantile * oracle.se > allowed).any()) and look > 0  # no number of draws would do
        half = quantile * se + oracle.error
        if not patient and bool((bias.abs() < 3 * se).all()):
            room = (allowed - bias.abs()).maximum(0.2 * allowed).clamp_min(1e-300)
            hopeless = hopeless or float((half / room).max()) ** 2 * moments.count > 2 * FIRST * 2 ** (looks - 1)
        if bool(off.any()) or bool(fine.all()) or hopeless or look == looks - 1:
            verdict: Verdict = "biased" if "biased" in verdicts else "undecided" if "undecided" in verdicts else "unbiased"
            return Outcome(verdict, moments.count * per_row, moments.mean, se, half, spread, allowed, floored, verdicts)
    raise AssertionError("there is always a last look")


def scales(
    exact: Tensor, mean: Tensor, spread: Tensor, blocks: list[Block], detectable: float, floor: float, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Per entry, the bias that must not be missed, the size of rounding, and whether the first rests on `floor`.

    The first is `detectable` times the largest exact entry of its block; where that is smaller than `floor` times the
    root mean square of one draw, of that instead. A mixed block of a Hessian is at least as large as the geometric
    mean of its two diagonal blocks, so that units of parameters do not matter.
    """
    size, noise = {}, {}
    for block in blocks:
        size[block.names] = float(exact[block.index].abs().max())
        noise[block.names] = float((spread[block.index].square() + mean[block.index].square()).max().sqrt())
    allowed, rounding = torch.zeros_like(exact), torch.zeros_like(exact)
    floored = torch.zeros_like(exact, dtype=torch.bool)
    for block in blocks:
        scale, least = size[block.names], floor * noise[block.names]
        if len(block.names) == 2:
            p, q = block.names
            scale = max(scale, math.sqrt(size.get((p, p), 0.0) * size.get((q, q), 0.0)))
        allowed[block.index] = detectable * max(scale, least)
        floored[block.index] = least > scale
        rounding[block.index] = 4096 * epsilon * max(size[block.names], noise[block.names], 1e-30)
    return allowed, rounding, floored


def corrected(t: Tensor, skewness: Tensor) -> Tensor:
    """Hall's (1992) cubic: a Student statistic without the first-order effect of skewness, monotone in t."""
    return t + skewness * t.square() / 3 + skewness.square() * t.pow(3) / 27 + skewness / 6


def student_quantile(tail: float, degrees: int) -> float:
    """The upper `tail` quantile of Student's t (Wallace's approximation, good to 1e-3 beyond 30 degrees of freedom)."""
    z = -float(torch.special.ndtri(torch.tensor(tail, dtype=torch.float64)))
    n = degrees
    return math.sqrt(n * math.expm1((z * (8 * n + 3) / (8 * n + 1)) ** 2 / n))
