"""Which outcomes the expectation of one cost runs over: its ancestors, their values or real axes, and what of it is batch.

One draw shows shapes and distributions. Whether all outcomes fit into one evaluation (`BUDGET`), have to be walked one after
another (`WALKED`), or are too many, follows from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributions import Distribution

from scg.testing.panels import AT_ONCE, PANELS, POINTS
from scg.testing.quadrature import Bound, Extent, extent, line, unbound
from scg.testing.unroll import Key, Program, Reach

BUDGET = 2**19  # joint outcomes times batch elements, evaluated at once on product grids
WALKED = 2**12  # joint outcomes, evaluated one after another
SIZES = (192, 150, 120, 96, 72, 56, 44, 36, 30, 26, 22, 18, 15, 12)  # points along a real axis, as many as the budget allows
NESTED = 2  # real axes at most, for panels


@dataclass(frozen=True)
class Plan:
    """How the expectation of one cost is written: its ancestors, their extents, the batch shape that runs in parallel."""

    cost: Key
    reach: dict[Key, Reach]
    bound: dict[Key, Bound]
    extents: dict[Key, Extent]
    batch: torch.Size
    lines: frozenset[Key] = frozenset()  # nodes whose axis is cut into panels

    @property
    def axes(self) -> int:
        return sum(e.axes for e in self.extents.values())

    @property
    def count(self) -> int:
        return math.prod(e.count for e in self.extents.values())

    @property
    def adaptive(self) -> bool:
        """Whether all its real axes can be cut into panels; also where there is none."""
        lined = sum(self.extents[key].axes for key in self.lines)
        if lined != self.axes or lined > NESTED:
            return False
        return self.count * (PANELS * POINTS) ** self.axes * max(self.batch.numel(), 1) <= AT_ONCE

    def sizes(self, limit: int) -> list[int]:
        """Grid sizes that fit into `limit` outcomes, finest first."""
        return [n for n in SIZES if self.count * n**self.axes <= limit]


def plan(program: Program, cost: Key) -> Plan:
    """Draw once to see shapes and distributions. Raises `NoPoints` where an ancestor has no rule."""
    reach = program.reach(cost)
    values: dict[Key, Any] = {}
    distributions: dict[Key, Distribution] = {}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for key in reach:
            result, _ = program.result(key, lambda k: (values[k], False))
            if isinstance(result, Distribution):
                distributions[key] = result
                result = result.sample()
            values[key] = result
    batch = values[cost].shape
    bound = {k: bound_axes(d.batch_shape, batch, k[0] in program.structure.on_plate) for k, d in distributions.items()}
    extents = {k: extent(d, bound[k]) for k, d in distributions.items()}
    lines = frozenset(k for k, e in extents.items() if e.axes == 1 and line(unbound(distributions[k])[0]) is not None)
    return Plan(cost, reach, bound, extents, batch, lines)


def bound_axes(shape: torch.Size, batch: torch.Size, on_plate: bool) -> Bound:
    """The batch axes of a node that belong to one element of the cost's batch: a plate's, and last ones beyond the batch."""
    plate: Bound = (-len(shape),) if on_plate else ()
    shape = shape[on_plate:]
    beside = shape[: len(batch)]
    tail = batch[len(batch) - len(beside) :]
    if all(a in (1, b) for a, b in zip(beside, tail, strict=True)):
        return (*plate, *range(len(beside) - len(shape), 0))
    return (*plate, *range(-len(shape), 0))
