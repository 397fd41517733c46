"""A function along a segment, its differences held against its slopes by autograd.

    s(t) = Σ u · f(x + t v),   |u| ≈ 1 at random:        s(b) − s(a) = ∫ₐᵇ s′(t) dt  where f is continuous and s′ its derivative

    missing    at a point between, the difference quotient is not the slope, at two widths alike: a detach, a rounded
               straight-through, a backward of its own that is wrong
    jump       bisection towards the interval where difference and integral disagree most; a difference that is still
               there when the interval has shrunk to nothing, between two levels. At a kink it has shrunk with it
    kink       the slopes on both sides of what is left differ

A jump is seen from 1e-4 of the range of s along the segment on (1e-3 where f computes in float32), a missing slope from
2 % of the largest slope. What rounding can do to f is below both: `floor`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor

PANELS, COARSE = 6, 2
LEVELS = 8  # values on each side of what may be a jump
WATCHED = 256  # outputs, chosen at random where there are more


_meant: ContextVar[list[bool] | None] = ContextVar("slopes that are meant", default=None)


def meant() -> None:
    """Say, from inside a node's function, that its gradient is not the slope of its value, and is not meant to be.

    A doubly reparameterised bound calls it: value and gradient are two estimates there.
    """
    told = _meant.get()
    if told is not None:
        told.append(True)


@contextmanager
def listening() -> Iterator[list[bool]]:
    """Inside, what `meant` says is collected: the list is empty where nobody called it."""
    told: list[bool] = []
    token = _meant.set(told)
    try:
        yield told
    finally:
        _meant.reset(token)


class Outside(Exception):
    """The function has no finite value there."""


@dataclass
class Found:
    """What a segment showed. `flat`: no slope anywhere. `moved`: the value differs along it by more than rounding."""

    jump: float | None = None
    missing: tuple[float, float] | None = None  # difference quotient, slope
    kink: bool = False
    flat: bool = True
    moved: bool = False


@dataclass
class Segment:
    """`f` takes the moved tensors and returns the outputs; `at` and `along` are x and v."""

    f: Callable[[list[Tensor]], list[Tensor]]
    at: Sequence[Tensor]
    along: Sequence[Tensor]
    leaves: Sequence[Tensor] | None = None  # what the slope is taken for where f moves it in place
    seed: int = 0
    signs: list[Tensor] = field(default_factory=list)
    norm: float = 0.0

    def value(self, t: float) -> float:
        with torch.no_grad():
            return self._sum(self.f([x + t * v for x, v in zip(self.at, self.along, strict=True)])).item()

    def both(self, t: float) -> tuple[float, float]:
        """(s, s′) at t."""
        moved = [(x + t * v).detach().requires_grad_() for x, v in zip(self.at, self.along, strict=True)]
        with torch.enable_grad():
            total = self._sum(self.f(moved))
        leaves = moved if self.leaves is None else self.leaves
        slopes = torch.autograd.grad(total, leaves, allow_unused=True) if total.requires_grad else [None] * len(moved)
        slope = sum(
            ((g * v).sum(dtype=torch.float64).item() for g, v in zip(slopes, self.along, strict=True) if g is not None), 0.0
        )
        if not math.isfinite(slope):
            raise Outside
        return total.item(), slope

    def _sum(self, outputs: list[Tensor]) -> Tensor:
        outputs = [o for o in outputs if not o.is_complex()]
        if not self.signs:
            own = torch.Generator().manual_seed(self.seed)  # the sample that f may draw is not to know the signs
            share = WATCHED / max(1, sum(o.numel() for o in outputs))
            for o in outputs:
                signs = torch.randint(2, o.shape, generator=own, dtype=torch.float64) * 2 - 1
                sizes = 0.75 + torch.rand(o.shape, generator=own, dtype=torch.float64) / 2  # equal outputs do not cancel
                if share < 1:  # among many a single kink or jump would not be seen
                    sizes *= torch.rand(o.shape, generator=own) < share
                self.signs.append(torch.where(torch.isfinite(o), (signs * sizes).to(o.device), 0.0))
            pairs = zip(outputs, self.signs, strict=True)
            self.norm = math.sqrt(sum((torch.nan_to_num(o.detach().double()) * u).square().sum().item() for o, u in pairs))
        if [o.shape for o in outputs] != [u.shape for u in self.signs]:
            raise Outside
        total = torch.zeros((), dtype=torch.float64)
        for o, u in zip(outputs, self.signs, strict=True):
            total = total + torch.where(u == 0, 0.0, o.double() * u).sum().to(total.device)
        if not math.isfinite(total.item()):
            raise Outside
        return total


def look(segment: Segment, lo: float, hi: float, single: bool, panels: int = PANELS) -> Found:
    """Examine `segment` for t in [lo, hi]. `single`: f computes in float32."""
    grid = [lo + (hi - lo) * i / panels for i in range(panels + 1)]
    points = [(t, *segment.both(t)) for t in grid]
    width = (hi - lo) / panels
    reach = max(abs(p[1] - points[0][1]) for p in points)
    floor = (1e-5 if single else 1e-9) * segment.norm
    steep = max(*(abs(p[2]) for p in points), *(abs(b[1] - a[1]) / width for a, b in itertools.pairwise(points)))
    found = Found(flat=all(p[2] == 0 for p in points), moved=reach > 4 * floor)
    if not found.moved and steep * (hi - lo) <= 4 * floor:
        return found
    _quotients(segment, points[1:-1:2], floor, steep, single, found)
    if found.missing is not None:
        return found
    worst = sorted(itertools.pairwise(points), key=lambda pair: -_mismatch(*pair))
    least = (1e-3 if single else 1e-4) * reach + 4 * floor
    for a, b in worst[:2]:
        if _mismatch(a, b) > least:
            _chase(segment, a, b, (lo, hi), least, steep, single, found)
    return found


Point = tuple[float, float, float]


def _mismatch(a: Point, b: Point) -> float:
    return abs(b[1] - a[1] - (b[0] - a[0]) * (a[2] + b[2]) / 2)


def _quotients(segment: Segment, points: Sequence[Point], floor: float, steep: float, single: bool, found: Found) -> None:
    for t, _, slope in points:
        quotients = []
        widths = (1e-2, 2.5e-3) if single else (1e-5, 1.25e-6)
        for h in widths:
            up, down = segment.value(t + h), segment.value(t - h)
            quotients.append((up - down) / (2 * h))
            if abs(quotients[-1] - slope) <= 0.02 * max(steep, abs(slope)) + floor / h:
                break
        else:
            if abs(quotients[0] - quotients[1]) > 0.1 * abs(quotients[0] - slope):
                continue  # a jump between grows as 1/h
            # At a kink as near as that the quotient lies between the slopes on its sides.
            sides = [slope, *(segment.both(t + side * 2 * widths[0])[1] for side in (-1, 1))]
            room = 0.02 * max(steep, *(abs(s) for s in sides)) + floor / widths[1]
            if not min(sides) - room <= quotients[1] <= max(sides) + room:
                found.missing = quotients[1], slope
                return


def _chase(
    segment: Segment, a: Point, b: Point, ends: tuple[float, float], least: float, steep: float, single: bool, found: Found
) -> None:
    narrow = 2.0 ** (-16 if single else -34)
    while b[0] - a[0] > narrow and _mismatch(a, b) > least * 1e-4:
        t = (a[0] + b[0]) / 2
        middle = (t, *segment.both(t))
        a, b = (a, middle) if _mismatch(a, middle) >= _mismatch(middle, b) else (middle, b)
    size, width = abs(b[1] - a[1]), b[0] - a[0]
    if size > least and size > 8 * width * max(steep, abs(a[2]), abs(b[2])):
        if _levels(segment, a[0], b[0], max(width, narrow), ends):
            found.jump = max(size, found.jump or 0.0)
    elif width < 2.0**-8 and abs(b[2] - a[2]) > 0.02 * steep:
        found.kink = True


def _levels(segment: Segment, a: float, b: float, width: float, ends: tuple[float, float]) -> bool:
    """Whether the values beside [a, b] stand at two levels: further apart than those on one side are from each other.

    What cancels inside of f (a difference of near numbers) scatters by more than the size of its result tells, and the
    logarithm of a distance to an end of the support climbs ever faster, without a level.
    """
    steps = [0.0, *(width * 2.0**k for k in range(LEVELS - 1))]
    left = [segment.value(max(ends[0], a - h)) for h in steps]
    right = [segment.value(min(ends[1], b + h)) for h in steps]
    gap = max(min(right) - max(left), min(left) - max(right))
    return gap > 2 * max(max(left) - min(left), max(right) - min(right))
