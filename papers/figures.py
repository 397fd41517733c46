"""What the papers' pictures share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def panels(rows: int, columns: int, size: tuple[float, float] = (3.6, 2.6)) -> tuple[Figure, Any]:
    """A figure and its axes `[rows, columns]`, without pyplot's state."""
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return figure, axes


def save(figure: Figure, path: Path, legend: Any) -> None:
    """Write it, with the legend of one axis below all."""
    handles, labels = legend.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.savefig(path, dpi=130, facecolor="white")
