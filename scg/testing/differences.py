"""Central finite differences of the objective, which know nothing of derivatives.

    ∂J/∂θᵢ ≈ (J(θ + h eᵢ) - J(θ - h eᵢ)) / 2h          Richardson's combination of h and h/2

of the exact expectation where it is a small sum, else of a Monte Carlo estimate with common random numbers: the same
seed for every node at every shift. The step is chosen by comparing steps: a long one is biased, and a short one noisy
where samples jump. What a detached edge passes on is frozen at the value that it has at θ on the same random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from scg.estimator import Pathwise
from scg.graph import Graph
from scg.testing.expectation import NoPoints, NotVectorised, bound_axes, plan
from scg.testing.oracle import NoOracle, Oracle, check_order, levels
from scg.testing.parameters import Parameters, Wrt
from scg.testing.unroll import Frozen, Key, Program

Shifted = Callable[[Mapping[int, float]], Tensor]  # shifts → E[c] per cost occurrence, [costs, repeats]
LADDER = (0.4, 0.2, 0.1, 0.05, 0.02, 0.005)
PER_SEED, PILOT, MOST = 8192, 16, 128  # draws per seed; seeds to choose the step on; seeds at most


@dataclass(frozen=True)
class Difference:
    """A derivative by finite differences: value, bound of the truncation error, and standard error, by name."""

    value: dict[Any, Tensor]
    error: dict[Any, Tensor]
    se: dict[Any, Tensor]
    kind: str


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
    masks = torch.stack([parameters.trained(program.nodes[c], program.nodes) for c, _ in program.costs]).double()
    # Frozen values have a meaning only beside the draw that they come from, so with detach edges only draws will do.
    if not sampled and not program.detaches:
        try:
            return _of_expectation(program, parameters, masks, order)
        except (NoPoints, NotVectorised):
            pass
    _refuse_ambiguous(program, parameters)
    return _of_samples(program, parameters, masks, order, seed, target)


# -- of the exact expectation ------------------------------------------------------------------------------


def _of_expectation(program: Program, parameters: Parameters, masks: Tensor, order: int) -> Oracle:
    plans = [plan(program, cost) for cost in program.costs]

    def at(shifts: Mapping[int, float]) -> Tensor:
        with parameters.moved(shifts), torch.no_grad():
            return torch.stack([torch.stack(levels(program, p, order, count=2)).double() for p in plans])  # [costs, grids]

    steps = _scaled(parameters, max(2e-2, 2 * parameters.epsilon ** (1 / (4 + order))))
    rounding = 8 * parameters.epsilon * float(at({}).abs().sum()) / (steps.min() / 4) ** order
    first, second, third = (_stencil(at, masks, steps / 2**i, order) for i in range(3))
    fine, finer = (4 * second - first) / 3, (4 * third - second) / 3
    best = (16 * finer - fine) / 15  # Romberg: h⁶ is left
    error = (best - finer).abs()[:, 0] + (best[:, 0] - best[:, 1]).abs() + rounding
    return Oracle.certain("finite difference", best[:, 0], error)


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


def _of_samples(program: Program, parameters: Parameters, masks: Tensor, order: int, seed: int, target: float) -> Oracle:
    sampler = Sampler(program, parameters, seed)
    pilot = {h: _both(sampler, parameters, masks, h, order, range(PILOT)) for h in LADDER[: len(LADDER) - 2 * (order - 1)]}
    shrink = (PILOT / MOST) ** 0.5
    cost = torch.stack([4 * shrink * _se(d) + truncation for d, truncation in pilot.values()])  # [steps, entries]
    # One step for all entries: the one whose worst error, relative to the largest entry, is least.
    h = list(pilot)[int(cost.amax(1).argmin())]
    differences, seeds = pilot[h][0], PILOT
    while True:
        mean, se = differences.mean(1), _se(differences)
        if seeds >= MOST or (seeds > PILOT and float(se.max()) <= target * float(mean.abs().max())):
            break
        more, _ = _both(sampler, parameters, masks, h, order, range(seeds, 2 * seeds))
        differences, seeds = torch.cat([differences, more], 1), 2 * seeds
    _, truncation = pilot[h]
    return Oracle("finite difference (sampled)", mean, truncation, se)


def _both(sampler: Sampler, parameters: Parameters, masks: Tensor, h: float, order: int, seeds: range) -> tuple[Tensor, Tensor]:
    """Richardson's combination for every seed, and what the two steps' disagreement says of the truncation."""
    steps = _scaled(parameters, h)
    long = _stencil(lambda shifts: sampler(shifts, seeds), masks, steps, order)
    short = _stencil(lambda shifts: sampler(shifts, seeds), masks, steps / 2, order)
    gap = short - long
    # The error that Richardson removes, taken as a bound of what it leaves; noise in it is not counted.
    truncation = ((gap.mean(1).abs() - 2 * _se(gap)).clamp_min(0.0)) / 3
    return (4 * short - long) / 3, truncation


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

    def __call__(self, shifts: Mapping[int, float], seeds: range) -> Tensor:
        """The mean of each cost occurrence over draws and batch, `[costs, seeds]`."""
        return torch.stack([self._mean(shifts, s) for s in seeds], 1)

    def _mean(self, shifts: Mapping[int, float], s: int) -> Tensor:
        frozen: Frozen | None = None
        if self.program.detaches:
            frozen = self.frozen.setdefault(s, {})
            if not frozen:
                self._draws(s, frozen)
        with self.parameters.moved(shifts):
            return self._draws(s, frozen)

    def _draws(self, s: int, frozen: Frozen | None) -> Tensor:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            if self.vectorised:
                try:
                    values = self._run(s, PER_SEED, frozen)
                    return torch.stack([values[c][0].double().mean() for c in self.program.costs])
                except NotVectorised as error:
                    if self.program.detaches:
                        raise NoOracle(
                            f"{error}; with detach edges this oracle needs functions that work along an axis"
                        ) from error
                    self.vectorised = False
            runs = [self._run(1000 * s + i, 0, None) for i in range(PER_SEED // 256)]
            return torch.stack([torch.stack([r[c][0].double().mean() for r in runs]).mean() for c in self.program.costs])

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


def _refuse_ambiguous(program: Program, parameters: Parameters) -> None:
    """A likelihood-ratio node that reaches a cost with and without detach: a frozen copy of its sample has no meaning."""
    if not program.detaches:
        return
    moved = {key for key, depends in dependence(program, parameters).items() if depends}
    for cost in program.costs:
        for key, reach in program.reach(cost).items():
            node = program.nodes[key[0]]
            if key in moved and reach.live and reach.frozen and not isinstance(node.estimator, Pathwise):
                raise NoOracle(
                    f"node {key[0]!r} reaches the cost {cost[0]!r} both with and without detach, and its estimator weighs samples "
                    "instead of moving them, so finite differences cannot tell what is frozen.\n"
                    "Enumeration and quadrature can; or give the oracle's value."
                )


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


__all__ = ["Difference", "Sampler", "dependence", "difference", "finite_difference"]
