"""What a sweep has found: a table of its trials, and a picture of them.

value of each trial, and the best so far, along the sweep          value against each option that was searched
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scg import figures
from scg.agents import title
from scg.agents.training.sweep import Sweep, Trial
from scg.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"complete": figures.colour(0), "pruned": "0.7", "failed": figures.colour(1)}


def write_trials(sweep: Sweep, file: Path) -> None:
    """`trials.csv`: number, state, value, options."""
    names = [one.name for one in sweep.space]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["number", "state", "value", *names])
    for trial in sweep.finished().values():
        rows.writerow([trial.number, trial.state, trial.value, *(trial.params[name] for name in names)])
    with whole_file(file) as out:
        out.write(text.getvalue().encode())


def so_far(trials: Sequence[Trial]) -> list[float]:
    """The best value of the complete trials up to each trial; NaN before the first."""
    best, found = math.nan, []
    for trial in trials:
        if trial.state == "complete" and not trial.value <= best:
            best = trial.value
        found.append(best)
    return found


def plot(sweep: Sweep, out: Path) -> Figure:
    """Draw the sweep to `out`, PNG, PDF or SVG by its ending."""
    from matplotlib.figure import Figure

    trials, best = list(sweep.finished().values()), sweep.best()
    with figures.style(9):
        figure = Figure(figsize=(3.4 * (1 + len(sweep.space)), 3.0), layout="constrained")
        along, *axes = figure.subplots(1, 1 + len(sweep.space), sharey=True, squeeze=False)[0]
        for state, colour in COLOURS.items():
            shown = [trial for trial in trials if trial.state == state and math.isfinite(trial.value)]
            if shown:
                along.scatter([t.number for t in shown], [t.value for t in shown], s=14, color=colour, label=state)
            for axis, one in zip(axes, sweep.space, strict=True):
                axis.scatter([t.params[one.name] for t in shown], [t.value for t in shown], s=14, color=colour)
        along.step(
            [t.number for t in trials], so_far(trials), where="post", color=figures.colour(0), linewidth=1, label="best so far"
        )
        plan = sweep.plan
        along.set(xlabel="trial", ylabel=f"evaluation return, mean of {plan.seeds} seeds")
        along.legend(fontsize=7)
        for axis, one in zip(axes, sweep.space, strict=True):
            axis.set(xlabel=one.name, xscale="log" if one.log else axis.get_xscale())
            if best is not None:
                axis.scatter(
                    [best.params[one.name]], [best.value], s=60, facecolors="none", edgecolors=figures.colour(4), label="best"
                )
        along.set_title(f"{title(sweep.base.name)}, {sweep.base.run.env}")
        with whole_file(out) as file:
            figure.savefig(file, format=out.suffix.removeprefix(".") or "png", dpi=150)
    return figure
