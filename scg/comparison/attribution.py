"""Where the variance of a gradient comes from: which node's draws, and which cost.

With the nodes' noises ε₁ … ε_K in the order in which the graph draws them, G_k = E[g | ε₁ … ε_k], and g = Σ_c g_c + g_0,

    tr Var g  =  Σ_k Σ_c D_kc          D_kc = E⟨g_c, G_k − G_{k−1}⟩

Σ_c D_kc = E‖G_k − G_{k−1}‖² is what node k's draws add once all earlier ones are known (the law of total variance, applied
node after node); Σ_k D_kc = tr Cov(g_c, g) is what cost c contributes. The last node's share is what integrating it out
would save; an earlier node's is what the cleverest estimators below it would leave. Siblings count in the order of their
declaration. A node's noise is all that its estimator draws, at all steps, over the whole batch.

g_c is what the gradient loses when cost c is switched off and all others are, g_0 the rest: baselines and control variates.
A share by cost may be negative: that part cancels another.

Estimated without nesting: ⟨g_c − m, g^{(k)} − g^{(k−1)}⟩ has mean D_kc where g^{(k)} shares the noise of g up to node k and
has the rest drawn anew, and m is any constant (here the mean of earlier draws). One draw takes K + C + 2 gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scg.comparison.parameters import Parameters
from scg.comparison.random_streams import RandomStreams
from scg.comparison.seeds import seed_of
from scg.comparison.statistics import Interval, quantile
from scg.errors import GraphError, visible
from scg.graph import Graph
from scg.tables import Table, Tabular

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REST = "(baselines, controls)"


@dataclass(frozen=True)
class Attribution(Tabular):
    """Contributions to the total variance, with intervals: by (node, cost), by node, by cost. They add up to `total`.

    The cost `(baselines, controls)` is what is left of the gradient with all costs switched off.
    """

    parts: Mapping[tuple[str, str], Interval]
    by_node: Mapping[str, Interval]
    by_cost: Mapping[str, Interval]
    total: Interval
    draws: int
    confidence: float
    interrupted: bool = False

    def share(self, node: str | None = None, cost: str | None = None) -> float:
        """The part of the total that a node, a cost, or a node by a cost contributes."""
        if node is not None and cost is not None:
            part = self.parts[node, cost]
        else:
            part = self.by_node[node] if node is not None else self.by_cost[cost] if cost is not None else self.total
        return part.value / self.total.value if self.total.value else 0.0

    @property
    def costs(self) -> list[str]:
        """The costs, and the rest where there is any."""
        return [c for c in self.by_cost if c != REST or abs(self.by_cost[c].value) > 1e-6 * abs(self.total.value)]

    def plot(self, path: str | Path | None = None) -> Figure:
        """Bars of the total variance: one a node, from its costs' shares, with the interval of the node's whole; written to
        `path` (PNG, PDF or SVG by its ending) where one is given. What a cost takes away reaches left of zero.
        """
        from scg.comparison.export import plot_attribution

        return plot_attribution(self, None if path is None else Path(path))

    def shown(self) -> Iterator[str | Table]:
        shown = [] if len(self.costs) == 1 else self.costs
        rows = []
        for node, whole in self.by_node.items():
            cells = [self.parts[node, cost].plausible for cost in shown]
            rows.append((node, *cells, whole.plausible, f"{100 * self.share(node):.1f} %"))
        shares = [self.by_cost[cost].plausible for cost in shown]
        rows.append(("all nodes", *shares, self.total.plausible, "100 %" if self.total.value else ""))
        yield Table(("node", *map(visible, shown), "all costs", "share"), rows, {0})
        yield f"variance of the gradient by node and cost, {self.draws:,} draws, {100 * self.confidence:g} % intervals"
        if self.interrupted:
            yield "interrupted: these are the draws made until then"


def attribute(
    graph: Graph,
    inputs: Mapping[str, Any],
    *,
    wrt: Any = None,
    steps: int | None = None,
    draws: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Attribution:
    """The total variance of the graph's gradient (the trace of its covariance), by stochastic node and by cost.

    The arguments are those of `compare`. Estimators that learn are taken as they are.
    """
    if not isinstance(draws, int) or draws < 16:
        raise GraphError(f"draws={draws!r}: at least 16, to say anything about a variance")
    if not 0 < confidence < 1:
        raise GraphError(f"confidence={confidence!r}: a probability between 0 and 1")
    parameters = Parameters(graph, inputs, wrt)
    structure = graph.structure
    nodes = [n for n in structure.stochastic if structure.counts(n)]
    if not nodes:
        raise GraphError("no stochastic node of this graph influences a cost: its gradient has no variance")
    with torch.random.fork_rng(), torch.enable_grad():
        draw = _Draw(RandomStreams(graph, parameters.device), nodes, parameters, steps)
        draw.streams.graph.surrogate(steps=steps, **parameters.inputs)
        mean = torch.zeros(len(structure.costs) + 1, parameters.size, dtype=torch.float64)
        found: list[Tensor] = []
        interrupted = False
        try:
            for r in range(draws):
                by_cost, chain = draw(seed, r)
                found.append((by_cost - mean) @ (chain[1:] - chain[:-1]).T)  # [costs + 1, nodes]
                mean += (by_cost - mean) / (r + 1)
        except KeyboardInterrupt:
            if len(found) < 16:
                raise
            interrupted = True
    return _attribution(torch.stack(found[1:]).transpose(1, 2), nodes, structure.costs, confidence, interrupted)


class _Draw:
    """One draw: the gradient's parts by cost, `[costs + 1, size]`, and its redraws from node k on, `[nodes + 1, size]`."""

    def __init__(self, streams: RandomStreams, nodes: list[str], parameters: Parameters, steps: int | None) -> None:
        self.streams, self.nodes, self.parameters, self.steps = streams, nodes, parameters, steps

    def __call__(self, seed: int, r: int) -> tuple[Tensor, Tensor]:
        every = [n.name for n in self.streams.graph.nodes.values() if n.kind == "stochastic"]
        own, other = ({n: seed_of(seed, which, r, n) for n in every} for which in ("own", "other"))
        whole = self._gradient(own, {})
        chain = [self._gradient({**own, **{n: other[n] for n in self.nodes[k:]}}, {}) for k in range(len(self.nodes))]
        costs = self.streams.graph.structure.costs
        none = dict.fromkeys(costs, 0.0)
        rest = self._gradient(own, none)
        parts = [whole - rest] if len(costs) == 1 else [self._gradient(own, {**none, c: 1.0}) - rest for c in costs]
        return torch.stack([*parts, whole - sum(parts, torch.zeros(()).double())]), torch.stack([*chain, whole])

    def _gradient(self, seeds: Mapping[str, int], switches: Mapping[str, float]) -> Tensor:
        surrogate = self.streams.draw(seeds, switches, lambda g: g.surrogate(steps=self.steps, **self.parameters.inputs))
        return self.parameters.flat(self.parameters.gradient(surrogate))


def _attribution(found: Tensor, nodes: list[str], costs: tuple[str, ...], confidence: float, interrupted: bool) -> Attribution:
    """Intervals from `[draws, nodes, costs + 1]`."""
    names = [*costs, REST]
    width = quantile(1 - confidence, len(found)) / len(found) ** 0.5

    def interval(x: Tensor) -> Interval:
        value, half = float(x.mean()), float(x.std()) * width
        return Interval(value, value - half, value + half)

    return Attribution(
        {(n, c): interval(found[:, i, j]) for i, n in enumerate(nodes) for j, c in enumerate(names)},
        {n: interval(found[:, i].sum(-1)) for i, n in enumerate(nodes)},
        {c: interval(found[:, :, j].sum(-1)) for j, c in enumerate(names)},
        interval(found.sum((1, 2))),
        len(found),
        confidence,
        interrupted,
    )
