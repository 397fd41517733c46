"""Choices of estimators against the horizon: how their variance and error grow with the steps of a sequence.

    error² = variance + |bias|²        of one gradient, the bias where it was found (0 where it lies within its interval)

A path's gradient is a product of the steps' derivatives: where these exceed 1 its variance grows exponentially, and the likelihood
ratio's, which grows about with the square of the horizon, is smaller from some horizon on (Parmas et al. 2018, "PIPPS").
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from scg import figures
from scg.comparison.export import IMAGES
from scg.comparison.result import Comparison, Row
from scg.comparison.side_by_side import Choices, compare
from scg.errors import GraphError
from scg.graph import Graph
from scg.tables import Table, Tabular

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Horizons(Tabular):
    """One comparison a horizon. `print(found)` is a table, and says from where on a path's gradient is the noisier one."""

    comparisons: Mapping[int, Comparison]

    def labels(self) -> list[str]:
        """Every choice that was measured at some horizon."""
        return list(dict.fromkeys(row.label for c in self.comparisons.values() for row in c.rows))

    def row(self, label: str, horizon: int) -> Row | None:
        """What was measured there; None where the choice was refused."""
        return next((row for row in self.comparisons[horizon].rows if row.label == label), None)

    def crossings(self) -> dict[tuple[str, str], int]:
        """`{(path, ratio): horizon}`: from there to the last horizon the choice whose gradient goes through values alone has the
        larger variance than the one whose gradient goes through weights alone."""
        found: dict[tuple[str, str], int] = {}
        for path in self.labels():
            for other in self.labels():
                larger: list[int] = []
                for horizon in self.comparisons:
                    a, b = self.row(path, horizon), self.row(other, horizon)
                    if a is None or b is None or not (_goes(a, "moves", "weighs") and _goes(b, "weighs", "moves")):
                        larger.clear()
                        continue
                    larger = [*larger, horizon] if a.variance.value > b.variance.value else []
                if larger:
                    found[path, other] = larger[0]
        return found

    def shown(self) -> Iterator[str | Table]:
        cells = []
        for label in self.labels():
            for horizon in self.comparisons:
                row = self.row(label, horizon)
                if row is None:
                    cells.append((label, f"{horizon:,}", "refused", "", "", ""))
                    continue
                bias = "?" if row.verdict == "unknown" else f"{size_of_bias(row):.3g}"
                numbers = (row.variance.plausible, bias, f"{error(row):.3g}", row.time.scaled(1e3).plausible)
                cells.append((label, f"{horizon:,}", *numbers))
        yield Table(("choice", "horizon", "variance", "|bias|", "error", "ms"), cells, {0})
        seen = dict.fromkeys((r.label, r.reason.splitlines()[0]) for c in self.comparisons.values() for r in c.refused)
        for label, reason in seen:
            yield f"refused: {label}: {reason}"
        for (path, other), horizon in self.crossings().items():
            yield f"from {horizon:,} steps on the variance of {path} is larger than that of {other}"
        last = list(self.comparisons.values())[-1]
        yield f"bias against: {last.reference}; in brackets {100 * last.confidence:g} % intervals; seed {last.seed}"

    def to_csv(self, path: str | Path) -> Path:
        """One line for each choice and horizon."""
        path = Path(path)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("choice", "horizon", "variance", "variance_low", "variance_high", "bias", "error", "seconds"))
            for label in self.labels():
                for horizon in self.comparisons:
                    row = self.row(label, horizon)
                    if row is not None:
                        v = row.variance
                        writer.writerow((label, horizon, v.value, v.low, v.high, size_of_bias(row), error(row), row.time.value))
        return path

    def plot(self, path: str | Path | None = None) -> Figure:
        """Variance, and error, against the horizon, all logarithmic."""
        if path is not None and Path(path).suffix not in IMAGES:
            raise GraphError(f"plot({str(path)!r}): a figure's name ends in {', '.join(IMAGES)}")
        from matplotlib.figure import Figure

        with figures.style(8):
            figure = Figure(figsize=(7.2, 3.2))
            axes = figure.subplots(1, 2)
            for i, label in enumerate(self.labels()):
                rows = [(h, row) for h in self.comparisons if (row := self.row(label, h)) is not None]
                x = [h for h, _ in rows]
                for axis, y in zip(axes, ([r.variance.value for _, r in rows], [error(r) for _, r in rows]), strict=True):
                    axis.plot(x, y, marker="o", markersize=3, linewidth=1, color=figures.colour(i), label=label)
            for axis, what in zip(axes, ("variance of the gradient (trace)", "error of one gradient"), strict=True):
                axis.set(xscale="log", yscale="log", xlabel="horizon, steps", ylabel=what)
                axis.grid(alpha=0.25)
            axes[0].legend(frameon=False)
            figure.tight_layout()
            if path is not None:
                figure.savefig(Path(path), dpi=200)
        return figure


def compare_horizons(
    graph: Graph, inputs: Mapping[str, Any], choices: Choices, horizons: Sequence[int], **settings: Any
) -> Horizons:
    """`compare` at each number of steps in `horizons`; values of the sequence among the inputs are cut to it.

    print(compare_horizons(graph, inputs, {"action": [ScoreFunction(), Pathwise()]}, [1, 3, 10, 30]))
    """
    horizons = sorted(dict.fromkeys(horizons))
    if not graph.structure.has_sequence:
        raise GraphError("horizons are of a sequence, and this graph has none: use compare")
    if not horizons or horizons[0] < 1:
        raise GraphError(f"horizons={horizons}: numbers of steps, at least 1 each")
    given = {horizon: cut(graph, inputs, horizon) for horizon in horizons}
    found = {}
    for horizon in horizons:
        found[horizon] = compare(graph, given[horizon], choices, steps=horizon, **settings)
        if found[horizon].interrupted:
            break
    return Horizons(found)


def cut(graph: Graph, inputs: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """The inputs, values of nodes in the sequence shortened to `steps`."""
    nodes, given = graph.nodes, dict(inputs)
    for name, value in inputs.items():
        if name in nodes and nodes[name].in_sequence and isinstance(value, Tensor):
            if len(value) < steps:
                raise GraphError(f"horizon {steps}: the input {name!r} has {len(value)} steps only")
            given[name] = value[:steps]
    return given


def size_of_bias(row: Row) -> float:
    """The length of the bias, entries within their intervals counted as 0."""
    total = 0.0
    for name, bias in row.biases.items():
        total += float(bias[bias.abs() > row.half_widths[name]].square().sum())
    return math.sqrt(total)


def error(row: Row) -> float:
    """Root mean square error of one gradient."""
    return math.sqrt(row.variance.value + size_of_bias(row) ** 2)


def _goes(row: Row, through: str, without: str) -> bool:
    flags = [(getattr(e, through), getattr(e, without)) for e in row.estimators.values()]
    return all(a and not b for a, b in flags)
