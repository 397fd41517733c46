"""The true derivative that an estimate is held against, and how far it may itself be off.

enumeration         finite supports: autograd of the sum over all joint outcomes                 exact to rounding
quadrature          real axes, mixed with finite supports: the same sum on panels or grids       error: two rules, three grids
finite difference   anything that can be sampled                                                 error: steps compared, and its s.e.
given               numbers of your own                                                          taken as exact

Autograd is not believed: it is cut where a cost cuts a gradient, or jumps with a parameter. So the first two are held
against differences of the expectation's value (`held.py`), and where they disagree these are the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from scg.checks.path_check import left_to_differences
from scg.graph import Graph
from scg.testing.expectation import Expectation, NotFinite
from scg.testing.outcomes import BUDGET, WALKED, Plan, plan
from scg.testing.parameters import Parameters, Values, Wrt
from scg.testing.quadrature import NoPoints
from scg.testing.unroll import NotVectorised, Program

Choice = Literal["enumeration", "quadrature", "finite_difference"]


class NoOracle(ValueError):
    """No true value can be computed for this graph: what stands in the way, and what to do."""


@dataclass(frozen=True)
class Oracle:
    """A derivative as a flat vector, the bound of its deterministic error, and its standard error.

    note      what was found on the way, in words
    unseen    of a probability: how much of each entry may lie in outcomes that are together no more probable than that
    """

    kind: str
    exact: Tensor
    error: Tensor
    se: Tensor
    note: str = ""
    unseen: Callable[[float], Tensor] | None = field(default=None, repr=False)

    @staticmethod
    def certain(kind: str, exact: Tensor, error: Tensor | None = None) -> Oracle:
        zero = torch.zeros_like(exact)
        return Oracle(kind, exact, zero if error is None else error, zero)


@left_to_differences()
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
    its error exceeds `tolerance` of the largest entry. Where autograd's derivative of a cost is not that of its value
    (a gradient that is cut, a jump that moves with a parameter), the answer is that of the value.
    """
    parameters = Parameters(inputs, wrt)
    oracle = exact(graph, parameters, order, steps)
    worst, scale = float(oracle.error.max()), float(oracle.exact.abs().max())
    if not worst <= tolerance * max(scale, 1e-12):
        raise NoOracle(
            f"the exact derivative is only good to {worst:.2g} here, beside a largest entry of {scale:.3g}: costs that jump or "
            "have a kink converge slowly along more than two real axes.\nAllow it with tolerance=…, or use finite_difference."
            + (f"\n{oracle.note}" if oracle.note else "")
        )
    return parameters.named(oracle.exact, order)


@left_to_differences()
def exact(graph: Graph, parameters: Parameters, order: int, steps: int | None, only: str | None = None) -> Oracle:
    """Autograd of the plain expectation, held against differences of its value. `only`: insist on "enumeration" or
    "quadrature"."""
    check_order(order)
    program = Program(graph, parameters.inputs, steps)
    try:
        objective = Objective(program, parameters, order)
        if only == "enumeration":
            for p in objective.plans:
                if p.axes:
                    raise NoPoints(f"cost {p.cost[0]!r} has ancestors with real values")
        from scg.testing.held import held

        return held(objective, objective.derivative())
    except NotFinite as reason:
        raise NoOracle(f"the objective is not finite: {reason}.") from reason
    except (NoPoints, NotVectorised) as reason:
        raise NoOracle(
            f"the expectation cannot be written as a small sum: {reason}.\nUse oracle='finite_difference'."
        ) from reason


class Objective:
    """The sum of all costs' expectations, each counting for the entries that it trains."""

    def __init__(self, program: Program, parameters: Parameters, order: int) -> None:
        self.program, self.parameters, self.order = program, parameters, order
        self.plans = [plan(program, cost) for cost in program.costs]
        self.masks = [parameters.trained(program.nodes[cost], program.nodes) for cost, _ in program.costs]
        self.walked = [False] * len(self.plans)
        self._sizes: list[list[int] | None] = [None if p.adaptive else self._grids(p, False) for p in self.plans]

    @property
    def axes(self) -> int:
        return max((p.axes for p in self.plans), default=0)

    @property
    def kind(self) -> str:
        return "quadrature" if self.axes else "enumeration"

    def _grids(self, found: Plan, walk: bool) -> list[int]:
        limit = WALKED if walk else BUDGET // max(found.batch.numel(), 1)
        sizes = found.sizes(limit)
        if not sizes:
            raise NoPoints(
                f"cost {found.cost[0]!r} has {found.count} joint values and {found.axes} real axes above it, "
                f"more than {limit} outcomes" + (", which must be called one by one" if walk else "")
            )
        if not found.axes:
            return [0]
        wanted = [sizes[0], *[next((n for n in sizes if n <= share * sizes[0]), sizes[-1]) for share in (0.8, 0.62)]]
        if len(set(wanted)) < 3:
            raise NoPoints(f"cost {found.cost[0]!r}: no room for finer grids to compare on {found.axes} real axes")
        return wanted

    def _expectations(self, c: int, shift: Tensor | None = None) -> list[Expectation]:
        """On panels one, else on grids of three sizes; outcome by outcome where nothing else will do."""
        sizes = self._sizes[c]
        settings = {"parameters": self.parameters, "shift": shift, "walk": self.walked[c]}
        return [
            Expectation(self.program, self.plans[c], self.order, size, **settings)  # type: ignore[arg-type]
            for size in (sizes if sizes is not None else [None])
        ]

    def _trying(self, c: int, use: Callable[[], Any]) -> Any:
        try:
            return use()
        except NotVectorised:
            if self.walked[c]:
                raise
            self.walked[c], self._sizes[c] = True, self._grids(self.plans[c], True)
            return use()

    def value(self, c: int, shift: Tensor | None = None) -> tuple[float, float]:
        """E[cost c] at shifted parameters, and a bound of its error."""

        def use() -> tuple[float, float]:
            found = [e.value() for e in self._expectations(c, shift)]
            values = [float(v) for v, _ in found]
            return values[0], max(e for _, e in found) + float(_grid_error(*torch.tensor(values).double().unbind())) * (
                len(values) == 3
            )

        return self._trying(c, use)

    def derivative(self, shift: Tensor | None = None, order: int | None = None, only: int | None = None) -> Oracle:
        """Autograd's derivative, with what the rules say of its error. `only`: of one cost."""
        order = self.order if order is None else order
        parameters = self.parameters
        total = torch.zeros(parameters.entries(order), dtype=torch.float64)
        error = torch.zeros_like(total)
        groups: dict[tuple[bool, ...], list[list[Tensor]]] = {}
        with parameters.moved(torch.zeros(parameters.size) if shift is None else shift):
            for c in range(len(self.plans)) if only is None else [only]:

                def use(c: int = c) -> list[Tensor]:
                    found = self._expectations(c, shift)
                    values = [e.differentiable() for e in found]
                    return [v for v, _ in values] if len(values) > 1 else list(values[0])

                groups.setdefault(tuple(self.masks[c].tolist()), []).append(self._trying(c, use))
            for mask, costs in groups.items():
                count = max(len(c) for c in costs)
                sums = [torch.stack([c[min(i, len(c) - 1)] for c in costs]).sum() for i in range(count)]
                rules = [
                    parameters.masked(parameters.derivative(v, order, retain=True), torch.tensor(mask), order) for v in sums
                ]
                total += rules[0]
                if self.axes:
                    error += _grid_error(*rules) if count == 3 else (rules[0] - rules[1]).abs()
        return replace(Oracle.certain(self.kind, total, error), unseen=self.unseen if order == 1 and shift is None else None)

    def unseen(self, p: float) -> Tensor:
        """How much of each entry of the gradient lies in rare outcomes: those whose costs are farthest from the median one,
        as many of them as are together no more probable than p. Draws that saw none of them may be off by as much.

        The sum over outcomes is evaluated again, so that an oracle which is kept does not keep it."""
        total = torch.zeros(self.parameters.size, dtype=torch.float64)
        with self.parameters.moved(torch.zeros(self.parameters.size)):
            for c, mask in enumerate(self.masks):
                part = self._trying(c, lambda c=c: self._rare(c, p))  # type: ignore[misc]
                if part is not None:
                    total += (self.parameters.derivative(part) * mask).abs()
        return total

    def _rare(self, c: int, p: float) -> Tensor | None:
        """What the rarest outcomes of a cost add to its expectation."""
        finest = self._expectations(c)[0]
        finest.differentiable()
        if finest.leaf is None:
            return None
        weights = finest.leaf.weights[0].expand(finest.leaf.cost.shape)
        density, cost = weights.detach().clamp_min(0.0), finest.leaf.cost.detach()
        order = cost.argsort(0)
        middle = (density.gather(0, order).cumsum(0) - 0.5).abs().argmin(0, keepdim=True)
        median = cost.gather(0, order.gather(0, middle))
        far = (cost - median).abs().argsort(0, descending=True)
        rare = torch.zeros_like(density, dtype=torch.bool).scatter(0, far, density.gather(0, far).cumsum(0) <= p)
        return torch.where(rare, weights * (finest.leaf.cost - median), 0.0).sum(0).mean() if bool(rare.any()) else None


def _grid_error(fine: Tensor, middle: Tensor | None = None, coarse: Tensor | None = None) -> Tensor:
    """How far the finest grid may be off: as far as from the next one where that converges, else as from either, twice."""
    if middle is None or coarse is None:
        return torch.zeros_like(fine)
    near, far = (fine - middle).abs(), (fine - coarse).abs()
    return torch.where(near < 0.02 * far, near, 2 * torch.maximum(near, far))


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
