"""The plain expectation of a cost, as a differentiable sum over everything that can happen.

    E[c] = Σ_outcomes Π_{x ∈ anc(c)} p(x | parents) · c(outcome)

One sum per cost occurrence, over its own ancestors only. What `detach` means to it: a value read through a detached
edge has no gradient, and so has the probability of a node that reaches the cost through detached edges only. A
pathwise node that reaches the cost both ways is moved along its path instead of being weighed: its frozen copy stays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from scg.distributions import reparameterise
from scg.estimator import Pathwise
from scg.testing.points import Bound, Extent, NoPoints, extent, points
from scg.testing.unroll import Frozen, Key, NotVectorised, Program, Reach, lifted

BUDGET = 2**16  # joint outcomes times batch elements, evaluated at once
WALKED = 2**12  # joint outcomes, evaluated one after another
SIZES = (192, 150, 120, 96, 72, 56, 44, 36, 30, 26, 22, 18, 15, 12)  # points along a real axis, as many as the budget allows


@dataclass(frozen=True)
class Plan:
    """How the expectation of one cost is written: its ancestors, their extents, the batch shape that runs in parallel."""

    cost: Key
    reach: dict[Key, Reach]
    bound: dict[Key, Bound]
    extents: dict[Key, Extent]
    batch: torch.Size

    @property
    def axes(self) -> int:
        return sum(e.axes for e in self.extents.values())

    @property
    def count(self) -> int:
        return math.prod(e.count for e in self.extents.values())

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
    return Plan(cost, reach, bound, {k: extent(d, bound[k]) for k, d in distributions.items()}, batch)


def bound_axes(shape: torch.Size, batch: torch.Size, on_plate: bool) -> Bound:
    """The batch axes of a node that belong to one element of the cost's batch: a plate's, and last ones beyond the batch."""
    plate: Bound = (-len(shape),) if on_plate else ()
    shape = shape[on_plate:]
    beside = shape[: len(batch)]
    tail = batch[len(batch) - len(beside) :]
    if all(a in (1, b) for a, b in zip(beside, tail, strict=True)):
        return (*plate, *range(len(beside) - len(shape), 0))
    return (*plate, *range(-len(shape), 0))


def expect(program: Program, plan: Plan, size: int, order: int = 1, walk: bool = False) -> Tensor:
    """E[c], the mean over its batch, with `size` points along each real axis; at once, or outcome by outcome."""
    rule = _Rule(program, plan, size, order)
    if walk:
        return rule.walk(list(plan.reach), {}, torch.zeros(())).mean()
    return rule.at_once().mean()


class _Rule:
    def __init__(self, program: Program, plan: Plan, size: int, order: int) -> None:
        self.program, self.plan, self.size, self.order = program, plan, size, order

    def points(self, key: Key, distribution: Distribution) -> tuple[Tensor, Tensor]:
        """Joint values and log-weights of a node, `[k, …]`."""
        node, reach = self.program.nodes[key[0]], self.plan.reach[key]
        values, log_weight = points(distribution, self.plan.bound[key], self.size, shifting=self.order > 1)
        mass = log_weight.detach().exp().sum(0)
        if not bool(((mass - 1).abs() < 1e-3).all()):
            raise NoPoints(
                f"node {key[0]!r}: its {type(distribution).__name__} sums to {float(mass.flatten()[0]):.6g} over the points"
            )
        if reach.live and reach.frozen and isinstance(node.estimator, Pathwise) and log_weight.requires_grad:
            try:
                values = reparameterise(distribution, values.detach())
            except ValueError as error:
                raise NoPoints(
                    f"node {key[0]!r} is pathwise and reaches the cost {self.plan.cost[0]!r} both with and without detach; "
                    f"what is frozen there has no meaning for this oracle ({error})"
                ) from error
            return values, log_weight.detach()
        return values, log_weight if reach.live else log_weight.detach()

    def at_once(self) -> Tensor:
        """All outcomes along one leading axis, which grows at every stochastic node."""
        program, plan = self.program, self.plan
        values: dict[Key, tuple[Any, int]] = {}  # the value, and how many outcomes there were when it was made
        weights: list[tuple[Tensor, int]] = []
        axis = 0

        def read(key: Key) -> tuple[Any, bool]:
            value, n = values[key]
            return (lifted(value, n, axis), True) if n else (value, False)

        for key in plan.reach:
            result, has = program.result(key, read, axis)
            if not isinstance(result, Distribution):
                values[key] = result, axis if has else 0
                continue
            drawn, log_weight = self.points(key, result)
            k, before = drawn.shape[0], max(axis, 1)
            if has:  # [k, axis, …] → [axis · k, …]
                drawn, log_weight = (x.movedim(0, 1).flatten(0, 1) for x in (drawn, log_weight))
            else:
                drawn, log_weight = (x.repeat(before, *[1] * (x.ndim - 1)) for x in (drawn, log_weight))
            axis = before * k
            padding = [1] * (len(plan.batch) + 1 - log_weight.ndim)  # outcomes come before the plate and the whole batch
            weights.append((log_weight.reshape(axis, *padding, *log_weight.shape[1:]), axis))
            if program.structure.plate is not None and key[0] not in program.structure.on_plate:
                padding.append(1)
            values[key] = drawn.reshape(axis, *padding, *drawn.shape[1:]), axis
        cost, has = read(plan.cost)
        if not has:
            return cost
        log_weight = sum((lifted(w, n, axis) for w, n in weights), torch.zeros((), dtype=cost.dtype))
        return (log_weight.exp() * cost).sum(0)

    def walk(self, keys: list[Key], values: dict[Key, Any], log_weight: Tensor) -> Tensor:
        """One outcome after another, every function called on plain values: slow, and nothing is assumed of it."""
        values = dict(values)
        for i, key in enumerate(keys):
            result, _ = self.program.result(key, partial(_plain, values))
            if not isinstance(result, Distribution):
                values[key] = result
                continue
            drawn, log_weights = self.points(key, result)
            terms = [
                self.walk(keys[i + 1 :], {**values, key: value}, log_weight + weight)
                for value, weight in zip(drawn, log_weights, strict=True)
            ]
            return torch.stack(terms).sum(0)
        return log_weight.exp() * values[self.plan.cost]


def _plain(values: dict[Key, Any], key: Key) -> tuple[Any, bool]:
    return values[key], False


__all__ = ["BUDGET", "SIZES", "WALKED", "Frozen", "NoPoints", "NotVectorised", "Plan", "expect", "plan"]
