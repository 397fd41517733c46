"""`compare_on_batch`: a loss and a graph on the same recorded batch, by parameter and by cost.

    g  gradient of the loss        g_c  gradient of the graph's cost c        g ≈ Σ_c a_c g_c, least squares

A factor a_c of 1 says that the term is in the loss as it is in the graph, 0 that it is missing, -1 that its sign is wrong;
what no factors explain is a difference within a term, or a term that the graph has not. Where either side draws, both are
averaged over the same seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from scg.evaluation.objectives import reachable_modules
from scg.graph import Graph
from scg.tables import Table, Tabular
from scg.testing.losses.calls import Calls, Loss, Stream
from scg.testing.losses.objective import names_of
from scg.testing.parameters import Parameters, Wrt

DRAWS = 64  # where either side draws
SAME = 1e-6  # of a gradient's length: what counts as equal, in float64


@dataclass(frozen=True)
class BatchComparison(Tabular):
    """Both gradients by parameter; for each cost the factor at which the loss has it, and its standard error.

    unexplained   by parameter: what is left of the loss's gradient beside the costs at those factors, relative to the graph's
    noise         by parameter: the standard error of the difference, relative to the graph's gradient; 0 where nothing draws
    """

    loss: dict[str, Tensor]
    graph: dict[str, Tensor]
    factors: dict[str, float]
    unexplained: dict[str, float]
    noise: dict[str, float]
    tolerance: float

    @property
    def differences(self) -> dict[str, float]:
        """By parameter, the length of the difference relative to the graph's gradient."""
        return {n: float((self.loss[n] - g).norm() / g.norm().clamp_min(1e-300)) for n, g in self.graph.items()}

    @property
    def ok(self) -> bool:
        return all(d <= self.tolerance + 5 * self.noise[n] for n, d in self.differences.items())

    def __bool__(self) -> bool:
        return self.ok

    def shown(self) -> Iterator[str | Table]:
        cells = [
            (n, f"{float(self.loss[n].norm()):.5g}", f"{float(g.norm()):.5g}", f"{self.differences[n]:.2g}", f"{self.unexplained[n]:.2g}",
             f"{self.noise[n]:.1g}")
            for n, g in self.graph.items()
        ]  # fmt: skip
        yield f"on this batch: {'the same gradient' if self.ok else 'different gradients'}"
        yield Table(("parameter", "loss", "graph", "difference", "unexplained", "noise"), cells, {0})
        for name, factor in self.factors.items():
            yield f"cost {name!r} is in the loss {_words(factor)}"


def _words(factor: float) -> str:
    if abs(factor - 1) < 1e-3:
        return "as it is in the graph"
    if abs(factor) < 1e-3:
        return "not at all"
    return f"times {factor:.4g}" + (": its sign is wrong" if factor < 0 else "")


def compare_on_batch(
    loss: Loss,
    graph: Graph,
    batch: Mapping[str, Any],
    wrt: Wrt = None,
    *,
    reduce: Literal["sum", "mean"] = "mean",
    draws: int = DRAWS,
    tolerance: float | None = None,
    seed: int = 0,
) -> BatchComparison:
    """`loss(batch)` beside the graph's surrogate on the same batch: the difference for each parameter, and in which cost it lies.

    loss       a function of the batch (or of nothing) that returns a scalar
    batch      what `graph.replay` takes: recorded nodes and inputs by name; handed to the loss as it is
    wrt        tensors or modules; default: all modules that the graph's functions hold
    reduce     how the surrogate goes over time, as in `trace.surrogate`
    draws      seeds to average over, where either side draws
    tolerance  relative difference that counts as the same; default 1e-6, 1e-3 in float32
    """
    if wrt is None:
        modules = {id(m): m for node in graph.nodes.values() for m in reachable_modules(node.fn)}
        reached = {id(p) for m in modules.values() for p in m.parameters() if p.requires_grad}
        own = {n: t for n, t in names_of(loss).items() if id(t) in reached}
        named = {id(t) for t in own.values()}
        wrt = own | {
            f"{type(m).__name__.lower()}.{n}": p
            for m in modules.values()
            for n, p in m.named_parameters()
            if id(p) in reached - named
        }
    parameters = Parameters({}, wrt or None)
    calls = Calls(loss, parameters, lambda: batch, seed)
    recorded = {k: v for k, v in batch.items() if k in graph.nodes or "." in k}
    inputs = {k: v for k, v in batch.items() if k not in recorded}
    costs = graph.structure.costs

    def ours(s: int) -> Tensor:
        """The gradient of each cost, `[costs, entries]`."""
        with Stream(s)():
            trace = graph.replay(recorded, **inputs)
            return torch.stack([parameters.derivative(trace.surrogate(c, reduce=reduce), retain=True) for c in costs])

    def theirs(s: int) -> Tensor:
        return calls.rows(1, 1, Stream(s))[0]

    calls.first()
    seeds = [seed, seed + 1]
    if not (torch.equal(theirs(seeds[0]), theirs(seeds[1])) and torch.equal(ours(seeds[0]), ours(seeds[1]))):
        seeds = [seed + s for s in range(max(draws, 2))]
    else:
        seeds = seeds[:1]
    their_rows, our_rows = torch.stack([theirs(s) for s in seeds]), torch.stack([ours(s) for s in seeds])
    g, parts = their_rows.mean(0), our_rows.mean(0)
    total = parts.sum(0)
    factors = torch.linalg.lstsq(parts.T, g.unsqueeze(1), driver="gelsd").solution[:, 0]
    rest = g - factors @ parts
    gap = their_rows - our_rows.sum(1)
    se = gap.std(0) / len(seeds) ** 0.5 if len(seeds) > 1 else torch.zeros_like(g)

    def relative(x: Tensor) -> dict[str, float]:
        return {b.names[0]: float(x[b.index].norm() / total[b.index].norm().clamp_min(1e-300)) for b in parameters.blocks()}

    if tolerance is None:
        tolerance = SAME if parameters.epsilon < 1e-10 else 1e-3
    live = {c: float(f) for c, f, p in zip(costs, factors, parts, strict=True) if bool(p.any())}
    return BatchComparison(
        parameters.named(g, 1), parameters.named(total, 1), live, relative(rest), relative(se), tolerance
    )  # fmt: skip


__all__ = ["BatchComparison", "compare_on_batch"]
