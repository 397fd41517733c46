"""The true derivative that an estimate is held against, and how far it may itself be off.

enumeration         finite supports: autograd of the sum over all joint outcomes                 exact to rounding
quadrature          real axes, mixed with finite supports: the same sum on a grid                error: three grids compared
finite difference   anything that can be sampled                                                 error: steps compared, and its s.e.
given               numbers of your own                                                          taken as exact
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from scg.graph import Graph
from scg.testing.expectation import BUDGET, WALKED, NoPoints, NotVectorised, Plan, expect, plan
from scg.testing.parameters import Parameters, Values, Wrt
from scg.testing.unroll import Program

Choice = Literal["enumeration", "quadrature", "finite_difference"]


class NoOracle(ValueError):
    """No true value can be computed for this graph: what stands in the way, and what to do."""


@dataclass(frozen=True)
class Oracle:
    """A derivative as a flat vector, the bound of its deterministic error, and its standard error."""

    kind: str
    exact: Tensor
    error: Tensor
    se: Tensor

    @staticmethod
    def certain(kind: str, exact: Tensor, error: Tensor | None = None) -> Oracle:
        zero = torch.zeros_like(exact)
        return Oracle(kind, exact, zero if error is None else error, zero)


def exact_gradient(
    graph: Graph,
    inputs: Mapping[str, Any],
    wrt: Wrt = None,
    order: int = 1,
    *,
    steps: int | None = None,
    tolerance: float = 1e-6,
) -> dict[Any, Tensor]:
    """The gradient (order 1) or Hessian (order 2) of the graph's objective, without sampling: `{name: tensor}`,
    `{(name, name): tensor}`.

    Enumerates finite supports, integrates real axes by quadrature; raises `NoOracle` where neither will do, or where
    the quadrature's error estimate exceeds `tolerance` of the largest entry.
    """
    parameters = Parameters(inputs, wrt)
    oracle = exact(graph, parameters, order, steps)
    worst, scale = float(oracle.error.max()), float(oracle.exact.abs().max())
    if worst > tolerance * max(scale, 1e-12):
        raise NoOracle(
            f"quadrature is only good to {worst:.2g} here, beside a largest entry of {scale:.3g}: a cost that jumps or has a "
            "kink converges slowly.\nAllow it with tolerance=…, or use finite_difference."
        )
    return parameters.named(oracle.exact, order)


def exact(graph: Graph, parameters: Parameters, order: int, steps: int | None, only: str | None = None) -> Oracle:
    """Autograd of the plain expectation. `only`: insist on "enumeration" or "quadrature"."""
    check_order(order)
    program = Program(graph, parameters.inputs, steps)
    total = torch.zeros(parameters.entries(order), dtype=torch.float64)
    error = torch.zeros_like(total)
    sums: dict[tuple[bool, ...], list[list[Tensor]]] = {}
    axes = 0
    try:
        for cost in program.costs:
            found = plan(program, cost)
            axes = max(axes, found.axes)
            if only == "enumeration" and found.axes:
                raise NoPoints(f"cost {cost[0]!r} has ancestors with real values")
            mask = tuple(parameters.trained(program.nodes[cost[0]], program.nodes).tolist())
            sums.setdefault(mask, []).append(levels(program, found, order))
        for mask, costs in sums.items():
            values = [torch.stack([c[i] for c in costs]).sum() for i in range(3 if axes else 1)]
            grids = [parameters.masked(parameters.derivative(v, order, retain=True), torch.tensor(mask), order) for v in values]
            total += grids[0]
            error += _grid_error(*grids) if axes else 0.0
    except (NoPoints, NotVectorised) as reason:
        raise NoOracle(
            f"the expectation cannot be written as a small sum: {reason}.\nUse oracle='finite_difference'."
        ) from reason
    return Oracle.certain("quadrature" if axes else "enumeration", total, error)


def _grid_error(fine: Tensor, middle: Tensor, coarse: Tensor) -> Tensor:
    """How far the finest grid may be off: as far as from the next one where that converges, else as from either."""
    near, far = (fine - middle).abs(), (fine - coarse).abs()
    return torch.where(near < 0.1 * far, near, torch.maximum(near, far))


def levels(program: Program, found: Plan, order: int = 1, count: int = 3) -> list[Tensor]:
    """E[c] on the finest affordable grid and on coarser ones; without real axes they are all the same."""
    try:
        return _levels(program, found, order, count, walk=False)
    except NotVectorised:
        return _levels(program, found, order, count, walk=True)


def _levels(program: Program, found: Plan, order: int, count: int, walk: bool) -> list[Tensor]:
    limit = WALKED if walk else BUDGET // max(found.batch.numel(), 1)
    sizes = found.sizes(limit)
    if not sizes:
        raise NoPoints(
            f"cost {found.cost[0]!r} has {found.count} joint values and {found.axes} real axes above it, "
            f"more than {limit} outcomes" + (", which must be called one by one" if walk else "")
        )
    if not found.axes:
        return [expect(program, found, 0, order, walk)] * count
    wanted = [sizes[0], *[next((n for n in sizes if n <= share * sizes[0]), sizes[-1]) for share in (0.8, 0.62)]][:count]
    if len(set(wanted)) < count:
        raise NoPoints(f"cost {found.cost[0]!r}: no room for finer grids to compare on {found.axes} real axes")
    return [expect(program, found, n, order, walk) for n in wanted]


def choose(
    graph: Graph,
    parameters: Parameters,
    order: int,
    steps: int | None,
    choice: Choice | Values | Graph | None,
    detectable: float,
    seed: int,
) -> Oracle:
    """The oracle that was asked for; else the most precise one whose error leaves room for a verdict."""
    from scg.testing.differences import difference

    if isinstance(choice, (Tensor, Mapping)):
        return Oracle.certain("given", parameters.flat(choice, order))
    if isinstance(choice, Graph):
        graph, choice = choice, None
    if choice is None:
        try:
            oracle = exact(graph, parameters, order, steps)
        except NoOracle:
            return difference(graph, parameters, order, steps, seed=seed, target=detectable / 8)
        scale = float(oracle.exact.abs().max())
        if float(oracle.error.max()) <= 0.1 * detectable * scale or math.isclose(scale, 0.0, abs_tol=1e-300):
            return oracle
        try:
            other = difference(graph, parameters, order, steps, seed=seed, target=detectable / 8, sampled=True)
        except NoOracle:
            return oracle
        return min(oracle, other, key=lambda o: float((o.error + 4 * o.se).max()))
    if choice == "finite_difference":
        return difference(graph, parameters, order, steps, seed=seed, target=detectable / 8)
    if choice in ("enumeration", "quadrature"):
        return exact(graph, parameters, order, steps, only=choice)
    raise ValueError(
        f"oracle={choice!r}: 'enumeration', 'quadrature', 'finite_difference', a tensor, a mapping of tensors, or a graph"
    )


def check_order(order: int) -> None:
    if order not in (1, 2):
        raise ValueError(f"order={order!r}: 1 for gradients, 2 for Hessians")
