"""A comparison on disk: as a table of numbers, and as a figure."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scg import figures
from scg.errors import GraphError, visible

if TYPE_CHECKING:  # comparisons and attributions write themselves: they call this module
    from matplotlib.figure import Figure

    from scg.comparison.attribution import Attribution
    from scg.comparison.result import Comparison, Row

LETTER = 0.013  # of the axis' width: what a letter of a label takes
IMAGES = (".png", ".pdf", ".svg")
COLUMNS = (
    "choice", "parameter", "verdict", "declared_unbiased", "draws", "learned",
    "bias_entry", "bias", "bias_low", "bias_high", "variance", "variance_low", "variance_high",
    "seconds", "seconds_low", "seconds_high", "bytes", "evaluations",
    "work", "work_low", "work_high", "cost", "cost_low", "cost_high", "reference", "reason",
)  # fmt: skip


def to_csv(comparison: Comparison, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in comparison.rows:
            writer.writerow({**_choice(comparison, row), "parameter": "total", **_total(row)})
            for name, variance in row.variances.items():
                writer.writerow(
                    {**_choice(comparison, row), "parameter": name, **_parameter(row, name), **_ends("variance", variance)}
                )
        for refused in comparison.refused:
            writer.writerow({"choice": refused.label, "verdict": "refused", "reason": " ".join(refused.reason.split())})
    return path


def _choice(comparison: Comparison, row: Row) -> dict[str, Any]:
    return {
        "choice": row.label,
        "verdict": row.verdict,
        "declared_unbiased": row.declared,
        "draws": row.draws,
        "learned": row.learned,
        "reference": comparison.reference,
    }


def _total(row: Row) -> dict[str, Any]:
    intervals = {"bias": row.bias, "variance": row.variance, "seconds": row.time, "work": row.work, "cost": row.cost}
    cells = {"bias_entry": row.worst, "bytes": row.memory, "evaluations": row.evaluations}
    for name, interval in intervals.items():
        cells |= _ends(name, interval)
    return cells


def _parameter(row: Row, name: str) -> dict[str, Any]:
    """The entry of this parameter whose bias stands out most from its interval."""
    bias, half = row.biases[name].flatten(), row.half_widths[name].flatten()
    if not bias.isfinite().all():
        return {}
    i = int((bias.abs() / half.clamp_min(1e-300)).argmax())
    value, width = float(bias[i]), float(half[i])
    return {"bias_entry": i, "bias": value, "bias_low": value - width, "bias_high": value + width}


def _ends(name: str, interval: Any) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def plot(comparison: Comparison, path: Path | None) -> Figure:
    if path is not None and path.suffix not in IMAGES:
        raise GraphError(f"plot({str(path)!r}): a figure's name ends in {', '.join(IMAGES)}")
    if not comparison.rows:
        raise GraphError("plot: no choice was measured")
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    positive = [row.variance.value for row in comparison.rows if row.variance.value > 0]
    floor = min(positive, default=1.0) / 10
    with figures.style(8):
        figure = Figure(figsize=(5.4, 3.6 + 0.07 * max(0, len(comparison.rows) - 8)))
        axis = figure.subplots()
        if not positive:
            axis.set(ylim=(floor / 10, floor * 10))
        axis.set(xscale="log", yscale="log", xlabel="time per gradient, ms", ylabel="variance of the gradient (trace)")
        colors = {row.label: figures.colour(i) for i, row in enumerate(comparison.rows)}
        for row in comparison.rows:
            _point(axis, row, floor, colors[row.label])
        best = [row for row in comparison.rows if row.unbiased and row.variance.value > 0]
        if best:
            _isolines(axis, min(row.work.value for row in best) * 1e3)
        _labels(axis, comparison.rows, floor, colors)
        if any(row.variance.value == 0 for row in comparison.rows):
            axis.axhline(floor, color="0.8", linewidth=0.8, zorder=0)
            axis.text(0.995, floor, "variance 0", transform=axis.get_yaxis_transform(), ha="right", va="bottom", color="0.5")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0, 7.0)))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.25, which="major")
        figure.tight_layout()
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=200)
    return figure


def _point(axis: Any, row: Row, floor: float, color: str) -> None:
    x, y = row.time.scaled(1e3), row.variance
    zero = y.value <= 0
    height = floor if zero else y.value
    errors = None if zero else [[y.value - max(y.low, floor / 100)], [y.high - y.value]]
    axis.errorbar(
        [x.value], [height], xerr=[[x.value - x.low], [x.high - x.value]], yerr=errors,
        fmt="v" if zero else "o", color=color, markersize=4.5, markerfacecolor=color if row.unbiased else "white",
        elinewidth=1, capsize=2,
    )  # fmt: skip


def _isolines(axis: Any, best: float) -> None:
    """Lines of equal variance × time through the best choice, and 10 and 100 times worse ones."""
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    x = np.array([left, right])
    for factor in (1, 10, 100):
        axis.plot(x, factor * best / x, color="0.7", linewidth=0.8, linestyle=":", zorder=0)
    axis.set(xlim=(left, right), ylim=(bottom, top))


def _labels(axis: Any, rows: tuple[Row, ...], floor: float, colors: dict[str, str]) -> None:
    """Names beside the points, in their colours; pushed upwards where they would cover each other, with a line back."""
    (left, right), (bottom, top) = np.log(axis.get_xlim()), np.log(axis.get_ylim())
    taken: list[tuple[float, float, float]] = []  # left and right ends, height
    for row in sorted(rows, key=lambda r: r.variance.value):
        x = (np.log(row.time.value * 1e3) - left) / (right - left)
        y = (np.log(max(row.variance.value, floor)) - bottom) / (top - bottom)
        side = "right" if x > 0.7 else "left"
        end = (np.log((row.time.low if side == "right" else row.time.high) * 1e3) - left) / (right - left)
        width = LETTER * len(row.label)
        begins, ends = (end - width, end) if side == "right" else (end, end + width)
        shown = y
        while any(begins < r and l < ends and abs(shown - height) < 0.035 for l, r, height in taken):
            shown += 0.012
        taken.append((begins, ends, shown))
        axis.annotate(
            row.label, (x, y), (end + (-0.012 if side == "right" else 0.012), shown), xycoords="axes fraction",
            textcoords="axes fraction", ha=side, va="center", fontsize=6.5, color=colors[row.label], bbox=figures.PLATE,
            arrowprops={"arrowstyle": "-", "color": colors[row.label], "linewidth": 0.4, "alpha": 0.6} if shown > y + 0.02 else None,
        )  # fmt: skip


def plot_attribution(attribution: Attribution, path: Path | None) -> Figure:
    if path is not None and path.suffix not in IMAGES:
        raise GraphError(f"plot({str(path)!r}): a figure's name ends in {', '.join(IMAGES)}")
    from matplotlib.figure import Figure

    nodes, costs = list(attribution.by_node), attribution.costs
    with figures.style(8):
        figure = Figure(figsize=(5.4, 1.2 + 0.35 * len(nodes)), layout="constrained")
        axis = figure.subplots()
        for place, node in enumerate(nodes):
            ends = {True: 0.0, False: 0.0}  # of what adds and of what takes away
            for number, cost in enumerate(costs):
                part = attribution.parts[node, cost].value
                axis.barh(
                    place, part, left=ends[part >= 0], height=0.6, color=figures.colour(number), label=visible(cost) if not place else None
                )  # fmt: skip
                ends[part >= 0] += part
            whole = attribution.by_node[node]
            axis.plot([whole.low, whole.high], [place, place], color="0.15", linewidth=1, marker="|", markersize=6)
            axis.annotate(
                f"{100 * attribution.share(node):.0f} %", (max(whole.high, ends[True]), place), (4, 0),
                textcoords="offset points", va="center", fontsize=7,
            )  # fmt: skip
        axis.set_yticks(range(len(nodes)), [visible(node) for node in nodes])
        axis.invert_yaxis()
        axis.axvline(0, color="0.5", linewidth=0.6)
        axis.margins(x=0.12)
        axis.set(
            xlabel=f"variance of the gradient (trace); {100 * attribution.confidence:g} % intervals, {attribution.draws:,} draws"
        )
        if len(costs) > 1:
            figure.legend(loc="outside upper left", ncols=4, fontsize=7)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=200)
    return figure
