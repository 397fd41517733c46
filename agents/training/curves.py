"""Learning curves: evaluation return against environment steps; over several seeds, a statistic with its bootstrap interval.

    statistic(step) ± the central 95 % of it over resampled seeds      (percentile bootstrap over runs)

    mean    of the runs
    iqm     the interquartile mean, of the middle half: one lucky or lost seed in four does not move it, and with fewer
            than four seeds it is the mean (Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice")

Runs of one configuration that differ in their seed alone are one curve (`run_groups`); each environment has its panel.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.stats import trim_mean

from scg import figures
from scg.agents.training.run_directory import DAMAGED, RunError, read_table
from scg.agents.training.run_groups import grouped
from scg.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Statistic = Literal["mean", "iqm"]


def summary(values: np.ndarray, statistic: Statistic = "mean", axis: int = 0) -> np.ndarray:
    """The mean, or the mean of the middle half, over runs."""
    return trim_mean(values, 0.25 if statistic == "iqm" else 0.0, axis=axis)


def bootstrap_interval(
    values: np.ndarray, statistic: Statistic = "mean", confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends `[points]` for the statistic over runs of `values [runs, points]`."""
    runs = len(values)
    chosen = np.random.default_rng(seed).integers(runs, size=(resamples, runs))
    tail = (1 - confidence) / 2
    lower, upper = np.quantile(summary(values[chosen], statistic, axis=1), [tail, 1 - tail], axis=0)
    return lower, upper


def on_common_steps(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Curves `(steps, values)` interpolated to the points of the first, as far as all of them reach."""
    last = min(steps[-1] for steps, _ in curves)
    grid = np.array([step for step in curves[0][0] if step <= last])
    return grid, np.stack([np.interp(grid, steps, values) for steps, values in curves])


def plot(paths: Sequence[Path], out: Path, statistic: Statistic = "mean", labels: Sequence[str] = ()) -> Figure:
    """Draw the runs in `paths` to `out` (PNG, PDF or SVG by its ending). `labels`: one for each path, in
    place of the options in which configurations differ. RunError if a run has no evaluation yet."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    panels = grouped(paths, labels)
    with figures.style(9):
        figure = Figure(figsize=(4.2 * len(panels), 3.0), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)
        for axis, (env_id, groups) in zip(axes[0], panels.items(), strict=True):
            for label, runs in groups.items():
                steps, values = on_common_steps([_evaluations(run.path) for run in runs])
                what = "IQM of " if statistic == "iqm" else ""
                seeds = f"{what}{len(runs)} seeds, 95 % interval" if len(runs) > 1 else "1 seed"
                (line,) = axis.plot(steps, summary(values, statistic), marker=".", label=f"{label} ({seeds})")
                if len(runs) > 1:
                    lower, upper = bootstrap_interval(values, statistic)
                    axis.fill_between(steps, lower, upper, color=line.get_color(), alpha=0.2, linewidth=0)
            axis.set(title=env_id, xlabel="environment steps", ylabel="evaluation return")
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
            axis.grid(alpha=0.3)
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22))  # below the axes: never over the data
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(out) as file:
            figure.savefig(file, format=out.suffix.removeprefix(".") or "png", dpi=200, bbox_inches="tight")
    return figure


def _evaluations(path: Path) -> tuple[np.ndarray, np.ndarray]:
    file = path / "evaluations.csv"
    rows = read_table(file) if file.exists() else []
    if not rows:
        raise RunError(f"run {path}: no evaluation yet. Let it train on with --resume {path}.")
    missing = [name for name in ("step", "return") if name not in rows[0]]
    if missing:
        raise RunError(f"{file}: there is no column {missing[0]!r}. {DAMAGED}")
    steps = np.array([row["step"] for row in rows])
    if not (np.isfinite(steps).all() and (np.diff(steps) > 0).all()):
        raise RunError(f"{file}: the column 'step' does not rise from row to row. {DAMAGED}")
    return steps, np.array([row["return"] for row in rows])
