"""The plain expectation of a cost, as a differentiable sum over everything that can happen.

    E[c] = Σ_outcomes Π_{x ∈ anc(c)} p(x | parents) · c(outcome)

One sum per cost occurrence, over its own ancestors only. Along a real axis the sum is a Clenshaw-Curtis rule on panels that
are cut again where its 17 and its 9 points disagree, so that jumps and kinks are enclosed wherever they are; beyond two real
axes it is a product of trapezoid rules (`size` points each), which does not do that.

What `detach` means: a value read through a detached edge has no gradient, and so has the probability of a node that reaches
the cost through detached edges only. A pathwise node that reaches the cost both ways is moved along its path instead of being
weighed: its frozen copy stays. The same holds for shifted parameters (`shift`), without any autograd: what is detached is
evaluated at the parameters from before the shift, on the same outcomes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from scg.distributions.densities import log_density
from scg.distributions.samples import reparameterise
from scg.estimator import Pathwise
from scg.testing.outcomes import WALKED, Plan
from scg.testing.panels import Panels, improper
from scg.testing.parameters import Parameters
from scg.testing.paths import carried
from scg.testing.quadrature import Line, NoPoints, line, points, unbound
from scg.testing.unroll import Frozen, Key, NotVectorised, Program, lifted, outcome


@dataclass(frozen=True)
class Value:
    """A node's value: now, and at the parameters from before a shift where detached edges ask for it; and how many outcomes
    there were when it was made."""

    now: Any
    before: Any
    n: int


Values = dict[Key, Value]


@dataclass(frozen=True)
class Leaf:
    """All outcomes of one cost: weights by the fine and by the coarse rule `[2, outcomes, *batch]`, and its values."""

    weights: Tensor
    cost: Tensor


class Expectation:
    """E[c], the mean over its batch, of one cost.

    size     points along each real axis of product grids; None: panels
    shift    the parameters, flat, are moved by so much
    walk     outcome by outcome
    """

    def __init__(
        self,
        program: Program,
        plan: Plan,
        order: int = 1,
        size: int | None = None,
        *,
        parameters: Parameters | None = None,
        shift: Tensor | None = None,
        walk: bool = False,
    ) -> None:
        if size is None and not plan.adaptive:
            raise NoPoints(f"cost {plan.cost[0]!r} has {plan.axes} real axes above it, more than can be cut into panels")
        self.program, self.plan, self.order, self.size = program, plan, order, size
        self.parameters, self.shift, self.walked = parameters, shift, walk
        self.both = shift is not None and program.detaches  # evaluated twice: shifted and not
        self.keys = list(plan.reach)
        self.leaf: Leaf | None = None

    def value(self) -> tuple[Tensor, float]:
        """Without gradients: the value, and a bound of its error (0 on product grids, which know none)."""
        with torch.no_grad(), self._moved():
            if self.walked:
                return self._walk(0, {}, torch.zeros(())).mean(), 0.0
            found, error = self._fold(0, {}, 0)
            return found.mean(), float(error.mean())

    def differentiable(self) -> tuple[Tensor, Tensor]:
        """With gradients, by the fine and by the coarse rule. Derivatives have to be taken inside `moved`."""
        if self.walked:
            found = self._walk(0, {}, torch.zeros(())).mean()
            return found, found
        fine, coarse = self._descend(0, {}, 0, None).reshape(2, -1).mean(1)
        return fine, coarse

    @contextmanager
    def _moved(self) -> Iterator[None]:
        with self.parameters.moved(self.shift) if self.shift is not None and self.parameters is not None else nullcontext():
            yield

    # -- one node ------------------------------------------------------------------------------------------

    def _result(self, key: Key, values: Values, axis: int) -> tuple[Any, Any, bool]:
        """What a node's function gives on all outcomes: now, before, and whether it has their axis."""
        frozen: Frozen | None = {} if self.both else None
        before, has = None, False
        if self.both:
            assert self.parameters is not None
            with torch.no_grad(), self.parameters.unmoved():
                before, has = self._call(key, self._reader(values, axis, "before"), axis, frozen)
                if not isinstance(before, Distribution):
                    before = tree_map(lambda v: v.detach() if isinstance(v, Tensor) else v, before)
        now, also = self._call(key, self._reader(values, axis, "now"), axis, frozen)
        if self.both and has != also:
            before = _raised(before, axis) if also else before
            now = now if also else _raised(now, axis)
        return now, before if self.both else now, has or also

    def _call(self, key: Key, read: Any, axis: int, frozen: Frozen | None) -> tuple[Any, bool]:
        try:
            return self.program.result(key, read, axis, frozen)
        except NotVectorised:
            if frozen is not None or axis > 4 * WALKED:
                raise
        each = [self.program.result(key, outcome(read, i))[0] for i in range(axis)]
        if isinstance(each[0], Distribution):
            raise NotVectorised(f"node {key[0]!r}: its distribution must be built outcome by outcome")
        flat = [tree_flatten(value) for value in each]
        stacked = [
            torch.stack([torch.as_tensor(leaf) for leaf in leaves]) for leaves in zip(*(f[0] for f in flat), strict=True)
        ]
        return tree_unflatten(stacked, flat[0][1]), True

    def _reader(self, values: Values, axis: int, when: str) -> Any:
        def read(key: Key) -> tuple[Any, bool]:
            found = values[key]
            value = getattr(found, when)
            return (lifted(value, found.n, axis), True) if found.n else (value, False)

        return read

    def _next(self, i: int, values: Values, axis: int) -> tuple[int, Any, Any, bool]:
        """Run deterministic nodes from the i-th on, up to a distribution (its place, now, before) or the end."""
        while i < len(self.keys):
            now, before, has = self._result(self.keys[i], values, axis)
            if isinstance(now, Distribution):
                return i, now, before, has
            values[self.keys[i]] = Value(now, before, axis if has else 0)
            i += 1
        return i, None, None, False

    def _cost(self, values: Values, axis: int) -> Tensor:
        cost, has = self._reader(values, axis, "now")(self.plan.cost)
        if not bool(torch.isfinite(cost.detach()).all()):
            raise NotFinite(f"cost {self.plan.cost[0]!r} is {_worst(cost)} at some of its outcomes")
        return cost if has or not axis else cost.expand(axis, *cost.shape)

    def _axis_of(self, key: Key, now: Distribution, before: Distribution) -> Line | None:
        if self.size is not None or key not in self.plan.lines:
            return None
        return line(unbound(self._weigher(key, now, before))[0], shifting=self.order > 1)

    def _weigher(self, key: Key, now: Distribution, before: Distribution) -> Distribution:
        """The distribution that gives the probabilities."""
        reach = self.plan.reach[key]
        return before if self.both and (not reach.live or self._carried(key)) else now

    def _carried(self, key: Key) -> bool:
        """Whether it is moved along its path: a pathwise node with a frozen copy."""
        reach = self.plan.reach[key]
        return reach.live and reach.frozen and isinstance(self.program.nodes[key[0]].estimator, Pathwise)

    def _points(self, key: Key, now: Distribution, before: Distribution) -> tuple[Tensor, Tensor, Tensor]:
        """Joint values of a node now and before, and log-weights, `[k, …]`."""
        weigher = self._weigher(key, now, before)
        with self._when(weigher, before):
            values, log_weight = points(weigher, self.plan.bound[key], self.size or 0, shifting=self.order > 1)
        mass = log_weight.detach().exp().sum(0)
        if not bool(((mass - 1).abs() < 1e-3).all()):
            raise improper(key, weigher, mass)
        return *self._settled(key, now, before, values, log_weight), self._live(key, log_weight)

    def _when(self, weigher: Distribution, before: Distribution) -> Any:
        """A distribution may hold a parameter itself, whose value has moved since."""
        if self.both and weigher is before and self.parameters is not None:
            return self.parameters.unmoved()
        return nullcontext()

    def _live(self, key: Key, log_weight: Tensor) -> Tensor:
        return log_weight if self.plan.reach[key].live and not self._carried(key) else log_weight.detach()

    def _settled(
        self, key: Key, now: Distribution, before: Distribution, values: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The values as readers see them, now and before."""
        if not self._carried(key):
            return values, values
        name, cost = key[0], self.plan.cost[0]
        try:
            if self.both:
                return carried(before, now, values, self._when(before, before)), values
            return (reparameterise(now, values.detach()) if weight.requires_grad else values), values
        except ValueError as error:
            if self.both and torch.equal(log_density(now, values), log_density(before, values)):
                return values, values  # it does not move
            raise NoPoints(
                f"node {name!r} is pathwise and reaches the cost {cost!r} both with and without detach; "
                f"what is frozen there has no meaning for this oracle ({error})"
            ) from error

    def _entered(
        self, key: Key, values: Values, axis: int, now: Tensor, before: Tensor, log_weight: Tensor
    ) -> tuple[Values, Tensor]:
        """Values `[axis · k, …]` taken in as the node's; log-weights `[axis · k, *batch]`."""
        padding = [1] * (len(self.plan.batch) + 1 - log_weight.ndim)  # outcomes come before the plate and the whole batch
        log_weight = log_weight.reshape(log_weight.shape[0], *padding, *log_weight.shape[1:])
        structure = self.program.structure
        if structure.plate is not None and key[0] not in structure.on_plate:
            padding.append(1)
        now, before = (v.reshape(v.shape[0], *padding, *v.shape[1:]) for v in (now, before))
        return {**values, key: Value(now, before, now.shape[0])}, log_weight

    def _grid(
        self, i: int, now: Distribution, before: Distribution, has: bool, values: Values, axis: int
    ) -> tuple[Values, Tensor, int]:
        """The node on all its points: values, log-weights `[axis · k, *batch]`, and k."""
        key = self.keys[i]
        drawn, old, log_weight = self._points(key, now, before)
        k, outcomes = drawn.shape[0], max(axis, 1)
        if has:  # [k, axis, …] → [axis · k, …]
            drawn, old, log_weight = (x.movedim(0, 1).flatten(0, 1) for x in (drawn, old, log_weight))
        else:
            drawn, old, log_weight = (x.repeat(outcomes, *[1] * (x.ndim - 1)) for x in (drawn, old, log_weight))
        return *self._entered(key, values, outcomes * k, drawn, old, log_weight), k

    # -- without gradients: node after node, folded on the way back ----------------------------------------

    def _fold(self, i: int, values: Values, axis: int) -> tuple[Tensor, Tensor]:
        """E[c | values] and a bound of its error, `[axis, *batch]` (no axis where it is 0)."""
        values = dict(values)
        i, now, before, has = self._next(i, values, axis)
        if now is None:
            cost = self._cost(values, axis)
            return cost, torch.zeros_like(cost)
        axis_of = self._axis_of(self.keys[i], now, before)
        if axis_of is not None:
            return Panels(self, i, now, before, has, values, axis, axis_of).integral()
        entered, log_weight, k = self._grid(i, now, before, has, values, axis)
        found, error = self._fold(i + 1, entered, max(axis, 1) * k)
        weight = log_weight.exp()
        parts = [(weight * x).reshape(max(axis, 1), k, *x.shape[1:]).sum(1) for x in (found, error)]
        return (parts[0], parts[1]) if axis else (parts[0][0], parts[1][0])

    # -- with gradients: weights multiplied on the way down -----------------------------------------------

    def _descend(self, i: int, values: Values, axis: int, weights: Tensor | None) -> Tensor:
        """E[c] by both rules, `[2, *batch]`."""
        values = dict(values)
        i, now, before, has = self._next(i, values, axis)
        if now is None:
            cost = self._cost(values, axis)
            if weights is None:
                return torch.stack([cost, cost])
            self.leaf = Leaf(weights, cost)
            return (weights * cost).sum(1)
        axis_of = self._axis_of(self.keys[i], now, before)
        if axis_of is not None:
            entered, fine, coarse = Panels(self, i, now, before, has, values, axis, axis_of).settled()
            own = torch.stack([fine, coarse])
        else:
            entered, log_weight, _ = self._grid(i, now, before, has, values, axis)
            own = log_weight.exp().unsqueeze(0).expand(2, *log_weight.shape)
        outcomes = own.shape[1]
        if weights is not None:
            own = own * weights.repeat_interleave(outcomes // weights.shape[1], 1)
        return self._descend(i + 1, entered, outcomes, own)

    # -- one outcome after another ------------------------------------------------------------------------

    def _walk(self, i: int, values: Values, log_weight: Tensor) -> Tensor:
        """Every function called on plain values: slow, and nothing is assumed of it."""
        values = dict(values)
        i, now, before, _ = self._next(i, values, 0)
        if now is None:
            return log_weight.exp() * self._cost(values, 0)
        key = self.keys[i]
        drawn, old, log_weights = self._points(key, now, before)
        terms = [
            self._walk(i + 1, {**values, key: Value(a, b, 0)}, log_weight + w)
            for a, b, w in zip(drawn, old, log_weights, strict=True)
        ]
        return torch.stack(terms).sum(0)


class NotFinite(NoPoints):
    """A cost is nan or infinite at an outcome."""


def _worst(x: Tensor) -> float:
    bad = x.detach().flatten()
    return float(bad[~torch.isfinite(bad)][0])


def _raised(value: Any, axis: int) -> Any:
    """A value without the axis of outcomes, seen from all of them."""
    if isinstance(value, Distribution):
        return value.expand(torch.Size((axis, *value.batch_shape)))
    return tree_map(lambda v: v.expand(axis, *v.shape) if isinstance(v, Tensor) else v, value)
