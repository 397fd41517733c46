"""Central finite differences of the objective, which know nothing of derivatives.

    ∂J/∂θᵢ ≈ (J(θ + h eᵢ) - J(θ - h eᵢ)) / 2h          Richardson's combination of h and h/2

of the exact expectation where it is a small sum, else of a Monte Carlo estimate with common random numbers: the same
seed for every node at every shift. The step is chosen by comparing steps: a long one is biased, and a short one noisy
where samples jump. What a detached edge passes on is frozen at the value that it has at θ on the same random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from scg.checks.path_check import left_to_differences
from scg.estimator import Pathwise
from scg.graph import Graph
from scg.testing.expectation import NotFinite
from scg.testing.oracle import NoOracle, Objective, Oracle, check_order
from scg.testing.outcomes import bound_axes
from scg.testing.parameters import Parameters, Wrt
from scg.testing.quadrature import NoPoints
from scg.testing.unroll import Frozen, Key, NotVectorised, Program

Draw = Callable[..., Tensor]  # shifts, s=seed → each cost occurrence, [costs, draws]
Shifted = Callable[[Mapping[int, float]], Tensor]  # shifts → each cost occurrence, [costs, repeats]
LADDER = (0.4, 0.2, 0.1, 0.05, 0.02, 0.005)
PER_SEED, PILOT, MOST = 8192, 16, 128  # draws per seed; seeds to choose the step on; seeds at most
RARE, ENOUGH = 7.0, 50  # -log of the probability that unseen draws contribute more; events from which on means are normal


@dataclass(frozen=True)
class Difference:
    """A derivative by finite differences: value, bound of the truncation error, and standard error, by name."""

    value: dict[Any, Tensor]
    error: dict[Any, Tensor]
    se: dict[Any, Tensor]
    kind: str


@left_to_differences()
def finite_difference(
    graph: Graph,
    inputs: Mapping[str, Any],
    wrt: Wrt = None,
    order: int = 1,
    *,
    steps: int | None = None,
    sampled: bool = False,
    target: float = 0.01,
    seed: int = 0,
) -> Difference:
    """The gradient (order 1) or Hessian (order 2) of the objective by central differences, with its errors.

    sampled   use Monte Carlo with common random numbers even where the expectation is a small sum
    target    the standard error at which sampling stops, relative to the largest entry
    """
    parameters = Parameters(inputs, wrt)
    found = difference(graph, parameters, order, steps, seed=seed, target=target, sampled=sampled)
    value, error, se = (parameters.named(x, order) for x in (found.exact, found.error, found.se))
    return Difference(value, error, se, found.kind)


def difference(
    graph: Graph,
    parameters: Parameters,
    order: int,
    steps: int | None,
    *,
    seed: int,
    target: float,
    sampled: bool = False,
) -> Oracle:
    check_order(order)
    if parameters.size > 256 // order**3:
        raise NoOracle(
            f"finite differences over {parameters.size} numbers take too long; name fewer in wrt=…, or give the oracle's value"
        )
    program = Program(graph, parameters.inputs, steps)
    if not sampled:
        try:
            return of_expectation(Objective(program, parameters, order))
        except NotFinite as reason:
            raise NoOracle(f"the objective is not finite: {reason}.") from reason
        except (NoPoints, NotVectorised):
            pass
    masks = torch.stack([parameters.trained(program.nodes[c], program.nodes) for c, _ in program.costs]).double()
    return of_sampler(Sampler(program, parameters, seed), parameters, target, masks, order)


# -- of the exact expectation ------------------------------------------------------------------------------


def of_expectation(objective: Objective) -> Oracle:
    """Romberg's combination of h, h/2 and h/4, for the h whose error is least."""
    parameters, order = objective.parameters, objective.order
    masks = torch.stack(objective.masks).double()
    errors: list[float] = []

    def at(shifts: Mapping[int, float]) -> Tensor:
        step = torch.zeros(parameters.size, dtype=torch.float64)
        for i, by in shifts.items():
            step[i] = by
        found = [objective.value(c, step) for c in range(len(objective.plans))]
        errors.append(sum(e for _, e in found))
        return torch.tensor([[v] for v, _ in found], dtype=torch.float64)  # [costs, 1]

    best: tuple[Tensor, Tensor] | None = None
    coarse = max(2e-2 if order == 1 else 6e-2, 2 * parameters.epsilon ** (1 / (4 + order)))
    for h in (coarse, coarse / 8, coarse / 64):
        steps = _scaled(parameters, h)
        size = float(at({}).abs().sum())
        first, second, third = (_stencil(at, masks, steps / 2**i, order)[:, 0] for i in range(3))
        fine, finer = (4 * second - first) / 3, (4 * third - second) / 3
        value = (16 * finer - fine) / 15  # h⁶ is left
        rounding = (8 * parameters.epsilon * size + max(errors)) / (float(steps.min()) / 4) ** order
        error = 2 * (value - finer).abs() + rounding
        if best is None:
            best = value, error
        else:
            better = error < best[1]
            best = torch.where(better, value, best[0]), torch.where(better, error, best[1])
        if float(best[1].max()) <= 1e-7 * float(best[0].abs().max()):
            break
    assert best is not None
    return replace(Oracle.certain("finite difference", *best), unseen=objective.unseen if order == 1 else None)


def _scaled(parameters: Parameters, h: float) -> Tensor:
    values = torch.cat([t.detach().double().flatten() for t in parameters.tensors.values()])
    return h * values.abs().clamp_min(1.0)


def _stencil(at: Shifted, masks: Tensor, h: Tensor, order: int) -> Tensor:
    """Central differences, `[entries, repeats]`; at order 2 the upper triangle."""
    size = len(h)
    if order == 1:
        return torch.stack(
            [(masks[:, i, None] * (at({i: hi}) - at({i: -hi}))).sum(0) / (2 * hi) for i, hi in enumerate(h.tolist())]
        )
    centre, found = at({}), []
    for i, j in zip(*torch.triu_indices(size, size).tolist(), strict=True):
        hi, hj = float(h[i]), float(h[j])
        if i == j:
            second = (at({i: hi}) - 2 * centre + at({i: -hi})) / hi**2
        else:
            corners = at({i: hi, j: hj}) - at({i: hi, j: -hj}) - at({i: -hi, j: hj}) + at({i: -hi, j: -hj})
            second = corners / (4 * hi * hj)
        found.append((masks[:, i, None] * masks[:, j, None] * second).sum(0))
    return torch.stack(found)


# -- of samples --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quotients:
    """Difference quotients by entry: each seed's mean `[entries, seeds]`, how many draws were changed by a shift, and the
    largest contribution of one of them."""

    means: Tensor
    events: Tensor
    largest: Tensor
    draws: int

    @property
    def rare(self) -> Tensor:
        """A bound of what unseen draws may contribute, to be added to the error.

        Where a shift changes k draws of n, it may change up to u/n of all, u the upper Poisson bound at k, and k/n were
        counted; each by as much as the largest. Where it changed none, nothing is known.
        """
        k = self.events
        bound = (RARE + (2 * RARE * k + RARE**2).sqrt()) / self.draws * self.largest
        return torch.where(k == 0, math.inf, torch.where(k < ENOUGH, bound, 0.0))


def of_sampler(sampler: Draw, parameters: Parameters, target: float, masks: Tensor | None = None, order: int = 1) -> Oracle:
    """By differences of what a sampler draws at shifted parameters. `masks`: which entries each cost counts for."""
    masks = torch.ones(1, parameters.size, dtype=torch.float64) if masks is None else masks
    pilot = {h: _both(sampler, parameters, masks, h, order, range(PILOT)) for h in LADDER[: len(LADDER) - 2 * (order - 1)]}
    untouched = _untouched(sampler, parameters, masks, order, pilot[LADDER[0]][0])
    shrink = (PILOT / MOST) ** 0.5
    cost = torch.stack(
        [
            torch.where(untouched, 0.0, 4 * shrink * _se(q.means) + truncation + q.rare.nan_to_num(posinf=1e300))
            for q, truncation in pilot.values()
        ]
    )  # [steps, entries]
    # One step for all entries: the one whose worst error, relative to the largest entry, is least.
    h = list(pilot)[int(cost.amax(1).argmin())]
    found, seeds = pilot[h][0], PILOT
    while True:
        mean, se = found.means.mean(1), _se(found.means)
        if seeds >= MOST or (seeds > PILOT and float(se.max()) <= target * float(mean.abs().max())):
            break
        more, _ = _both(sampler, parameters, masks, h, order, range(seeds, 2 * seeds))
        found = Quotients(
            torch.cat([found.means, more.means], 1),
            found.events + more.events,
            torch.maximum(found.largest, more.largest),
            found.draws + more.draws,
        )
        seeds *= 2
    _, truncation = pilot[h]
    return Oracle("finite difference (sampled)", mean, truncation + torch.where(untouched, 0.0, found.rare), se)


def _untouched(sampler: Draw, parameters: Parameters, masks: Tensor, order: int, found: Quotients) -> Tensor:
    """Entries that no draw depends on: not even a long shift changes one."""
    if not bool((found.events == 0).any()):
        return found.events < 0
    quiet = found.events == 0
    for h in (4.0, 32.0):
        more = _stencil(partial(sampler, s=0), masks, _scaled(parameters, h), order)
        quiet &= (more == 0).all(1)
    return quiet


def _both(sampler: Draw, parameters: Parameters, masks: Tensor, h: float, order: int, seeds: range) -> tuple[Quotients, Tensor]:
    """Richardson's combination for every seed, and what the two steps' disagreement says of the truncation."""
    steps = _scaled(parameters, h)
    means, gaps, events, largest, draws = [], [], [], [], 0
    for s in seeds:
        long = _stencil(partial(sampler, s=s), masks, steps, order)  # [entries, draws]
        short = _stencil(partial(sampler, s=s), masks, steps / 2, order)
        each = (4 * short - long) / 3
        means.append(each.mean(1))
        gaps.append((short - long).mean(1))
        events.append((each != 0).sum(1))
        largest.append(each.abs().amax(1))
        draws += each.shape[1]
    gap = torch.stack(gaps, 1)
    # The error that Richardson removes, taken as a bound of what it leaves; noise in it is not counted.
    truncation = ((gap.mean(1).abs() - 2 * _se(gap)).clamp_min(0.0)) / 3
    quotients = Quotients(torch.stack(means, 1), torch.stack(events).sum(0), torch.stack(largest).amax(0), draws)
    return quotients, truncation


def _se(x: Tensor) -> Tensor:
    return x.std(1) / x.shape[1] ** 0.5


class Sampler:
    """Draws of the costs under shifted parameters, on common random numbers."""

    def __init__(self, program: Program, parameters: Parameters, seed: int) -> None:
        self.program, self.parameters, self.seed = program, parameters, seed
        needed = {key for cost in program.costs for key in program.reach(cost)}
        self.keys = [key for key in program.keys if key in needed]
        self.frozen: dict[int, Frozen] = {}
        self.batch = self._batch()
        self.vectorised = True

    def _batch(self) -> torch.Size:
        with torch.no_grad():
            values = self._run(0, 0, None)
        return max((values[cost][0].shape for cost in self.program.costs), key=len)

    def __call__(self, shifts: Mapping[int, float], s: int) -> Tensor:
        """Each cost occurrence on every draw, the mean over its batch, `[costs, draws]`."""
        frozen: Frozen | None = None
        if self.program.detaches:
            if s not in self.frozen:
                self.frozen = {s: {}}  # the last seed's
                self._draws(s, self.frozen[s])
            frozen = self.frozen[s]
        with self.parameters.moved(shifts):
            return self._draws(s, frozen)

    def _draws(self, s: int, frozen: Frozen | None) -> Tensor:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            if self.vectorised:
                try:
                    values = self._run(s, PER_SEED, frozen)
                    return torch.stack([self._each(*values[c]) for c in self.program.costs])
                except NotVectorised as error:
                    if self.program.detaches:
                        raise NoOracle(
                            f"{error}; with detach edges this oracle needs functions that work along an axis"
                        ) from error
                    self.vectorised = False
            runs = [self._run(1000 * s + i, 0, None) for i in range(PER_SEED // 256)]
            return torch.stack([torch.stack([r[c][0].double().mean() for r in runs]) for c in self.program.costs])

    @staticmethod
    def _each(cost: Tensor, has: bool) -> Tensor:
        """`[draws]`."""
        return cost.double().reshape(PER_SEED, -1).mean(1) if has else cost.double().mean().expand(PER_SEED)

    def _run(self, s: int, draws: int, frozen: Frozen | None) -> dict[Key, tuple[Any, bool]]:
        """One ancestral pass over `draws` replicates along a leading axis; 0 for a plain one without it."""
        program = self.program
        values: dict[Key, tuple[Any, bool]] = {}
        for i, key in enumerate(self.keys):
            result, has = program.result(key, lambda k: values[k], draws, frozen)
            if not isinstance(result, Distribution):
                values[key] = result, has
                continue
            # A stream for each node: one that rejects at one shift and not at the other leaves the rest in step.
            torch.manual_seed((self.seed * 1_000_003 + s) * 4099 + i)
            if not draws:
                values[key] = result.sample(), False
                continue
            sample = result.sample() if has else result.sample(torch.Size((draws,)))
            on_plate = key[0] in program.structure.on_plate
            beside = len(result.batch_shape) - has - len(bound_axes(result.batch_shape[has:], self.batch, on_plate))
            padding = [1] * max(0, len(self.batch) - beside)
            padding += [1] * (program.structure.plate is not None and not on_plate)
            values[key] = sample.reshape(draws, *padding, *sample.shape[1:]), True
        return values


def dependence(program: Program, parameters: Parameters) -> dict[Key, Any]:
    """Per stochastic occurrence, which parameters its distribution reads, pathwise samples included."""
    values: dict[Key, Any] = {}
    found: dict[Key, Any] = {}
    tensors = list(parameters.tensors.values())
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for key in program.keys:
            result, _ = program.result(key, lambda k: (values[k], False))
            if isinstance(result, Distribution):
                path = isinstance(program.nodes[key[0]].estimator, Pathwise) and result.has_rsample
                sample = result.rsample() if path else result.sample()
                log_prob = result.log_prob(sample.detach())
                if log_prob.requires_grad:
                    gradients = torch.autograd.grad(log_prob.sum(), tensors, allow_unused=True, retain_graph=True)
                    found[key] = {n for n, g in zip(parameters.tensors, gradients, strict=True) if g is not None}
                result = sample
            values[key] = result
    return found


__all__ = ["Difference", "Sampler", "dependence", "difference", "finite_difference", "of_sampler"]
