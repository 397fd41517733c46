"""Autograd's derivative of an expectation, held against differences of the expectation's value.

    (J(θ + h d) - J(θ - h d)) / 2h   ≟   ∇J · d         Romberg's combination of h, h/2, h/4, at several h
    (∇J(θ + h d) - ∇J(θ - h d)) / 2h ≟   H d            at order 2, once the gradient has passed

d is every entry in turn where there are few, else random directions, which miss a wrong entry with probability 0. Autograd
fails where a cost cuts its gradient (`detach`, `no_grad`, NumPy inside a function), jumps with a parameter, or has a kink that
moves with one (a second derivative). There the differences are the answer, and the note names the cost and the parameter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scg.testing.differences import of_expectation
from scg.testing.oracle import NoOracle, Objective, Oracle

FEW = 8  # entries that are looked at one by one
DIRECTIONS = 3
SINGLED = 256  # entries that are singled out where directions disagree
STEPS = (2e-2, 2e-3, 2e-4)
NAMED = 4  # disagreements that are spelt out
CUT = 1e-4  # of the largest entry: a disagreement that counts


@dataclass(frozen=True)
class Slope:
    """A difference quotient and a bound of its error."""

    value: Tensor
    error: Tensor


def held(objective: Objective, oracle: Oracle) -> Oracle:
    """`oracle`, or what differences say in its place."""
    first = oracle if objective.order == 1 else objective.derivative(order=1)
    value = Gradient(objective, first).held()
    if objective.order == 1:
        return value
    if value.note:  # the gradient itself is cut, and so are its derivatives
        return replace(of_expectation(objective), note=value.note)
    return _hessian(objective, oracle)


# -- first order -------------------------------------------------------------------------------------------


class Gradient:
    """A gradient of some costs by autograd beside difference quotients."""

    def __init__(self, objective: Objective, oracle: Oracle, costs: Sequence[int] | None = None) -> None:
        self.objective, self.oracle = objective, oracle
        self.costs = range(len(objective.plans)) if costs is None else costs
        self.size = objective.parameters.size
        self.slack = CUT * float(oracle.exact.abs().max())
        self.slopes: dict[int, Slope] = {}

    def held(self) -> Oracle:
        oracle, worst = self.oracle, 0.0
        units = self.size <= FEW
        for i, d in enumerate(torch.eye(self.size, dtype=torch.float64) if units else _random(self.size)):
            found = self.slope(i) if units else self.along(d)
            length = float(d.abs().max())
            if not self.agrees(found, d):
                break
            if float(found.error) > max(10 * self.slack, 1e-12) * length:  # too coarse to tell
                worst = max(worst, float(found.error) / length)
        else:
            return replace(oracle, error=oracle.error + worst) if worst else oracle
        if self.size > SINGLED:
            raise NoOracle(
                f"autograd's derivative of {_names(self.objective)} is not that of its value, along a random direction of "
                f"{self.size} numbers: {float(oracle.exact @ d):.5g} for {float(found.value):.5g}. A node function cuts a gradient "
                "or jumps with a parameter.\nName fewer parameters in wrt=… to see which."
            )
        wrong = self.wrong()
        value, error = oracle.exact.clone(), oracle.error.clone()
        for i in wrong:
            value[i], error[i] = self.slopes[i].value, self.slopes[i].error
        return replace(oracle, exact=value, error=error, note=_named(self, wrong))

    def wrong(self, entries: Sequence[int] | None = None) -> list[int]:
        return [i for i in (range(self.size) if entries is None else entries) if not self.agrees(self.slope(i), self.unit(i))]

    def unit(self, i: int) -> Tensor:
        unit = torch.zeros(self.size, dtype=torch.float64)
        unit[i] = 1.0
        return unit

    def slope(self, i: int) -> Slope:
        if i not in self.slopes:
            self.slopes[i] = self.along(self.unit(i))
        return self.slopes[i]

    def along(self, direction: Tensor) -> Slope:
        """dJ/dh: one quotient if that is autograd's, which it will not be by chance; else Romberg's combination at the first
        step whose error is small, or at the one whose error is least."""
        expected = float(self.oracle.exact @ direction)
        best: Slope | None = None
        steps = self.steps(direction)
        (up, doubt), (down, _) = (self.values(direction, s * steps[1] / 2) for s in (1, -1))
        quotient, error = (up - down) / steps[1], abs(expected - (up - down) / steps[1]) + 2 * doubt / steps[1]
        if error <= self.slack:
            return Slope(torch.tensor(quotient, dtype=torch.float64), torch.tensor(error, dtype=torch.float64))
        if expected == 0 and up == down and len({self.values(direction, s * steps[0])[0] for s in (1, -1)} | {up}) == 1:
            # The same bits wherever it is moved: however coarse the integral is, it does not depend on the direction.
            return Slope(torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64))
        precise = max(self.slack, 1e-7 * abs(expected))
        for h, finer in zip(steps, [*steps[1:], 0.0], strict=True):
            found, noise = self.romberg(direction, h)
            if best is None or found.error < best.error:
                best = found
            gap = abs(float(found.value) - expected)
            if float(found.error) <= precise and gap <= float(found.error) + self.slack:
                return found
            if not finer or noise * h / finer > max(precise, float(best.error)):
                break  # the error of the values themselves makes every shorter step worse
        assert best is not None
        return best

    def steps(self, direction: Tensor) -> list[float]:
        parameters = self.objective.parameters
        values = torch.cat([t.detach().double().flatten().cpu() for t in parameters.tensors.values()])
        size = float((values.abs() * (direction != 0)).max().clamp_min(1.0))
        single = parameters.epsilon > 1e-10  # rounding over the step
        return [size * h * (4 if single else 1) for h in STEPS]

    def values(self, direction: Tensor, h: float) -> tuple[float, float]:
        """Their sum at θ + h d, each moved along what it trains; and a bound of its error."""
        found = [
            self.objective.value(c, h * direction * self.objective.masks[c])
            for c in self.costs
            if bool((direction * self.objective.masks[c]).any())
        ]
        return sum(v for v, _ in found), sum(e for _, e in found)

    def romberg(self, direction: Tensor, h: float) -> tuple[Slope, float]:
        """The slope, and what of its error comes from rounding and the integrals of the values, which grows with 1/h."""
        ends = [[self.values(direction, s * h / 2**i) for s in (1, -1)] for i in range(3)]
        first, second, third = ((a - b) / (2 * h / 2**i) for i, ((a, _), (b, _)) in enumerate(ends))
        fine, finer = (4 * second - first) / 3, (4 * third - second) / 3
        best = (16 * finer - fine) / 15
        rounding = 8 * self.objective.parameters.epsilon * max(abs(v) for pair in ends for v, _ in pair) / (h / 4)
        integral = max(e for pair in ends for _, e in pair) / (h / 4)
        error = abs(best - finer) + 0.1 * abs(finer - third) + rounding + integral
        slope = Slope(torch.tensor(best, dtype=torch.float64), torch.tensor(error, dtype=torch.float64))
        return slope, rounding + integral

    def agrees(self, slope: Slope, direction: Tensor) -> bool:
        derivative = float(self.oracle.exact @ direction)
        room = float(slope.error) + float(self.oracle.error @ direction.abs()) + self.slack * float(direction.abs().max())
        if abs(float(slope.value) - derivative) <= room:
            return True
        # At a kink any value between the slopes of its two sides is a derivative.
        h = self.steps(direction)[-1]
        centre, up, down = (self.values(direction, s * h)[0] for s in (0, 1, -1))
        low, high = sorted(((up - centre) / h, (centre - down) / h))
        return low - room <= derivative <= high + room


def _random(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(DIRECTIONS, size, generator=generator, dtype=torch.float64) / math.sqrt(size)


def _named(gradient: Gradient, entries: list[int]) -> str:
    """Which cost cuts which parameter."""
    objective, found = gradient.objective, []
    for c in gradient.costs:
        own = gradient if len(gradient.costs) == 1 else Gradient(objective, objective.derivative(order=1, only=c), [c])
        name, t = objective.plans[c].cost
        cost = f"cost {name!r}" + (f" at step {t}" if t is not None else "")
        found += [
            f"{cost}: for {objective.parameters.entry(i)} autograd gives {float(own.oracle.exact[i]):.5g}, differences of its "
            f"value {float(own.slopes[i].value):.5g}"
            for i in own.wrong(entries)
        ]
    more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return (
        f"{'; '.join(found[:NAMED]) or _names(objective)}{more}.\nAutograd is cut there, or the cost jumps with the parameter: look "
        "for detach(), no_grad(), rounding or comparisons in the functions between them. What is meant to be constant belongs behind a detach(…) edge"
    )


def _names(objective: Objective) -> str:
    return ", ".join(dict.fromkeys(f"cost {p.cost[0]!r}" for p in objective.plans))


# -- second order ------------------------------------------------------------------------------------------


def _hessian(objective: Objective, oracle: Oracle) -> Oracle:
    size = objective.parameters.size
    units = torch.eye(size, dtype=torch.float64)
    matrix, errors = _square(oracle.exact, size), _square(oracle.error, size)
    scale = float(matrix.abs().max())
    for d in units if size <= FEW else _random(size):
        found = _turn(objective, d, matrix @ d)
        room = found.error + errors @ d.abs() + CUT * 10 * scale * float(d.abs().max())
        if bool(((found.value - matrix @ d).abs() > room).any()):
            break
    else:
        return oracle
    if size > SINGLED // 4:
        raise NoOracle(
            f"autograd's second derivative of {_names(objective)} is not that of its gradient, along a random direction of {size} "
            "numbers: a kink or a jump moves with a parameter, or a second derivative is cut.\nName fewer parameters in wrt=…."
        )
    rows = [_turn(objective, d, matrix @ d) for d in units]
    value, error = torch.stack([r.value for r in rows]), torch.stack([r.error for r in rows])
    upper = torch.triu_indices(size, size).unbind()
    error = torch.maximum(error, error.T) + (value - value.T).abs() / 2
    by_gradient = Oracle.certain(oracle.kind, ((value + value.T) / 2)[upper], error[upper])
    by_value = of_expectation(objective)
    best = min(by_gradient, by_value, key=lambda o: float(o.error.max()))
    note = (
        f"{_names(objective)}: autograd's second derivative is not that of the gradient (a kink or a jump that moves with a "
        "parameter, or a second derivative that is cut); the exact one is by differences"
    )
    return replace(best, kind=oracle.kind, note=note)


def _turn(objective: Objective, direction: Tensor, expected: Tensor) -> Slope:
    """H d by differences of the gradient, each cost's by the entries that it trains."""
    best: Slope | None = None
    wide = objective.parameters.epsilon > 1e-10
    near = STEPS[1] * (4 if wide else 1)
    (up, doubt), (down, _) = (_masked(objective, s * near * direction) for s in (1, -1))
    value = (up - down) / (2 * near)
    error = (value - expected).abs() + 2 * doubt / near
    if bool((error <= CUT * 10 * float(expected.abs().max())).all()):
        return Slope(value, error)
    steps = [4 * s if wide else s for s in STEPS]
    precise = 1e-3 * float(expected.abs().max())
    for h, finer in zip(steps, [*steps[1:], 0.0], strict=True):
        ends = [[_masked(objective, s * h / 2**i * direction) for s in (1, -1)] for i in range(2)]
        first, second = ((a - b) / (2 * h / 2**i) for i, ((a, _), (b, _)) in enumerate(ends))
        value = (4 * second - first) / 3
        integral = torch.stack([e for pair in ends for _, e in pair]).amax(0) / (h / 2)
        rounding = 64 * objective.parameters.epsilon / h * float(value.abs().max().clamp_min(1e-3))
        error = (value - second).abs() + rounding + 2 * integral
        if best is None or float(error.max()) < float(best.error.max()):
            best = Slope(value, error)
        if bool(((value - expected).abs() <= error).all()) and float(error.max()) < precise:
            break
        if not finer or (rounding + 2 * float(integral.max())) * h / finer > max(precise, float(best.error.max())):
            break  # the error of the gradients themselves makes every shorter step worse
    assert best is not None
    return best


def _masked(objective: Objective, shift: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient and its error at a shift that moves, for each cost, only what it trains."""
    if len({tuple(m.tolist()) for m in objective.masks}) == 1:
        parts = [objective.derivative(shift * objective.masks[0], order=1)]
    else:
        parts = [objective.derivative(shift * m, order=1, only=c) for c, m in enumerate(objective.masks)]
    return torch.stack([p.exact for p in parts]).sum(0), torch.stack([p.error for p in parts]).sum(0)


def _square(flat: Tensor, size: int) -> Tensor:
    matrix = torch.zeros(size, size, dtype=flat.dtype)
    i, j = torch.triu_indices(size, size)
    matrix[i, j] = flat
    matrix[j, i] = flat
    return matrix


__all__ = ["held"]
