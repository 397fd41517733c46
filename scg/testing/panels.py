"""One real axis of an expectation, cut into panels for every outcome so far and every batch element.

On a panel stands the Clenshaw-Curtis rule of 17 points, both ends among them; every second point makes the rule of 9. Where
the two disagree the panel is cut again, into eight, so that a jump is enclosed to 1e-12 of the axis after 14 rounds, and a
smooth integrand costs 12 panels. What the rules disagree by in the end is the stated error. Cost: a jump takes about 100
panels; axes multiply, so no more than two are cut.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import Distribution

from scg.distributions.densities import log_density
from scg.testing.quadrature import Line, NoPoints, unbound
from scg.testing.unroll import Key

if TYPE_CHECKING:  # an expectation cuts itself into panels: it calls this module
    from scg.testing.expectation import Expectation, Values

AT_ONCE = 2**20  # points times batch elements, evaluated at once
PANELS, MOST_PANELS = 12, 1000
PIECES, DEPTH = 8, 14  # into how many a panel is cut, and how often
POINTS = 17


@lru_cache
def _clenshaw_curtis() -> tuple[Tensor, Tensor, Tensor]:
    """Nodes on [-1, 1] with both ends, the weights of 17, and those of every second one (float64)."""

    def weights(n: int) -> Tensor:
        k, j = torch.arange(n + 1, dtype=torch.float64), torch.arange(1, n // 2 + 1, dtype=torch.float64)
        b = torch.where(j == n / 2, 1.0, 2.0).double()
        inner = (b / (4 * j**2 - 1) * torch.cos(2 * math.pi * j * k[:, None] / n)).sum(1)
        ends = torch.where((k == 0) | (k == n), 1.0, 2.0).double()
        return ends / n * (1 - inner)

    n = POINTS - 1
    coarse = torch.zeros(POINTS, dtype=torch.float64)
    coarse[::2] = weights(n // 2)
    return -torch.cos(math.pi * torch.arange(POINTS, dtype=torch.float64) / n), weights(n), coarse


class Panels:
    """One real axis, cut into panels for every outcome so far and every batch element, cut again where they are not smooth."""

    def __init__(
        self, of: Expectation, i: int, now: Distribution, before: Distribution, has: bool, values: Values, axis: int, line: Line
    ) -> None:
        self.of, self.i, self.key, self.line = of, i, of.keys[i], line
        self.now, self.before, self.values, self.axis, self.outcomes = now, before, values, axis, max(axis, 1)
        self.weigher = of._weigher(self.key, now, before)
        self.base, self.bound = unbound(self.weigher, of.plan.bound[self.key])
        shape = self.base.batch_shape
        self.shape = shape[1:] if has else shape  # without the outcomes
        with torch.random.fork_rng(devices=[]), torch.no_grad(), of._when(self.weigher, before):
            self.dtype = self.base.sample().dtype
        below = sum(k in of.plan.lines for k in of.keys[i + 1 :])
        self.tolerance = max(1e-11, 64 * torch.finfo(self.dtype).eps) * 10.0**below

    def integral(self) -> tuple[Tensor, Tensor]:
        _, _, found, error = self._cut()
        found, error = found.sum(1), error.sum(1)
        return (found, error) if self.axis else (found[0], error[0])

    def settled(self) -> tuple[Values, Tensor, Tensor]:
        """The node's values on all points, with the weights of both rules, `[outcomes · k, *batch]`."""
        with torch.no_grad():
            low, high, _, _ = self._cut()
        entered, log_weight = self._points(low, high)
        fine, coarse = (self._rule(w, low, high) for w in _clenshaw_curtis()[1:])
        # At the ends of the axis densities may be 0 and their logarithms' gradients infinite: what weighs nothing is left out.
        density = torch.where(log_weight > -700.0, log_weight, -math.inf).exp()
        return entered, density * fine, density * coarse

    def _cut(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Ends of the panels `[P, outcomes, *shape]`, integrals over them and their errors `[outcomes, P, *batch]`."""
        low, high = self._start()
        found, error, mass = self._panels(low, high)
        total = mass.sum(1)
        if not bool(((total - 1).abs() < 1e-3).all()):
            raise improper(self.key, self.weigher, total)
        for _ in range(DEPTH):
            scale = float(found.abs().sum(1).max())
            rough = self._by_row(error)  # [P, outcomes, *shape]
            bad = rough > self.tolerance * scale
            k = int(bad.sum(0).max()) if scale > 0 else 0
            points = POINTS * self.outcomes * max(self.of.plan.batch.numel(), 1)
            room = (MOST_PANELS - len(low)) // (PIECES - 1), AT_ONCE // (PIECES * points)
            k = min(k, *room)
            if k <= 0:
                break
            index = rough.topk(k, 0).indices
            left, right = low.gather(0, index), high.gather(0, index)
            edges = [left + (right - left) * (j / PIECES) for j in range(PIECES)] + [right]
            more = self._panels(torch.cat(edges[:-1]), torch.cat(edges[1:]))
            high = torch.cat([high.scatter(0, index, edges[1]), *edges[2:]])
            low = torch.cat([low, *edges[1:-1]])
            wide = self._by_batch(index)
            found, error = (
                torch.cat([old.scatter(1, wide, new[:, :k]), new[:, k:]], 1)
                for old, new in zip((found, error), more, strict=False)
            )
        return low, high, found, error

    def _start(self) -> tuple[Tensor, Tensor]:
        """Equal panels, with an end at s = 0, where a density may have its kink."""
        low, high = self.line.low, self.line.high
        if low < 0 < high:
            left = min(max(round(PANELS * -low / (high - low)), 1), PANELS - 1)
            first, second = torch.linspace(low, 0.0, left + 1), torch.linspace(0.0, high, PANELS - left + 1)
            edges = torch.cat([first.double(), second.double()[1:]])
        else:
            edges = torch.linspace(low, high, PANELS + 1, dtype=torch.float64)
        rows = (self.outcomes, *self.shape)
        edges = edges.to(self.dtype).reshape(-1, *[1] * len(rows)).expand(-1, *rows)
        return edges[:-1].contiguous(), edges[1:].contiguous()

    def _points(self, low: Tensor, high: Tensor) -> tuple[Values, Tensor]:
        """The node entered at the points of all panels, and its log-density along s, `[outcomes · k, *batch]`."""
        nodes = _clenshaw_curtis()[0].to(self.dtype).reshape(-1, *[1] * (low.ndim - 1))
        nodes = nodes * (
            1 - 4 * torch.finfo(self.dtype).eps
        )  # an end may be a density's kink: its slope is wanted on this side
        s = ((low + high).unsqueeze(1) + (high - low).unsqueeze(1) * nodes) / 2
        s = s.flatten(0, 1)  # [k, outcomes, *shape]
        with self.of._when(self.weigher, self.before):
            x, log_dx = self.line.at(s)
            log_weight = log_density(self.base, x) + log_dx
            log_weight = torch.where(torch.isfinite(log_weight.detach()), log_weight, -math.inf)
        if self.bound:
            log_weight = log_weight.sum(list(self.bound))
        now, old = self.of._settled(self.key, self.now, self.before, x, log_weight)
        now, old, log_weight = (v.movedim(0, 1).flatten(0, 1) for v in (now, old, log_weight))
        return self.of._entered(self.key, self.values, self.axis, now, old, self.of._live(self.key, log_weight))

    def _rule(self, weights: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """A rule's weights at all points, `[outcomes · k, *batch]`."""
        half = (high - low).unsqueeze(1) / 2
        measure = (half * weights.to(self.dtype).reshape(-1, *[1] * (low.ndim - 1))).flatten(0, 1)
        if self.bound:
            measure = measure.sum(list(self.bound))  # of size 1
        measure = measure.movedim(0, 1).flatten(0, 1)
        padding = [1] * (len(self.of.plan.batch) + 1 - measure.ndim)
        return measure.reshape(measure.shape[0], *padding, *measure.shape[1:])

    def _panels(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Integrals, errors and masses of panels, `[outcomes, P, *batch]`."""
        entered, log_weight = self._points(low, high)
        density = log_weight.exp()
        inner, doubt = self.of._fold(self.i + 1, entered, log_weight.shape[0])
        fine, coarse = (density * self._rule(w, low, high) for w in _clenshaw_curtis()[1:])

        def panels(x: Tensor) -> Tensor:
            return x.reshape(self.outcomes, len(low), POINTS, *x.shape[1:]).sum(2)

        found = panels(fine * inner)
        error = (found - panels(coarse * inner)).abs() + panels(fine * doubt)
        return found, error, panels(fine)

    def _by_row(self, x: Tensor) -> Tensor:
        """`[outcomes, P, *batch]` → its largest for each row of panels, `[P, outcomes, *shape]`."""
        kept = self._kept()
        for d, size in enumerate(kept):
            if size == 1 and x.shape[2 + d] > 1:
                x = x.amax(2 + d, keepdim=True)
        return x.movedim(1, 0).reshape(x.shape[1], self.outcomes, *self.shape)

    def _by_batch(self, index: Tensor) -> Tensor:
        """`[k, outcomes, *shape]` → `[outcomes, k, *batch]`."""
        k, batch = index.shape[0], self.of.plan.batch
        return index.movedim(0, 1).reshape(self.outcomes, k, *self._kept()).expand(self.outcomes, k, *batch)

    def _kept(self) -> tuple[int, ...]:
        """The node's batch axes as the cost's: 1 where it has none, and where they are bound."""
        rank = len(self.shape)
        own = [n for d, n in enumerate(self.shape) if d - rank not in self.bound]
        return (*[1] * (len(self.of.plan.batch) - len(own)), *own)


def improper(key: Key, distribution: Distribution, mass: Tensor) -> NoPoints:
    """The error for points that do not carry the whole mass."""
    worst = mass.flatten()[int((mass.flatten() - 1).abs().nan_to_num(math.inf).argmax())]
    return NoPoints(f"node {key[0]!r}: its {type(distribution).__name__} sums to {float(worst):.6g} over the points")


__all__ = ["AT_ONCE", "PANELS", "POINTS", "Panels", "improper"]
