"""`scg overestimation RUN…`: the critics' estimates and the true discounted returns, over the training of runs.

    scg train td3 --env Hopper-v5 --keep-checkpoints 0 --out runs/td3          scg overestimation runs/td3 runs/ddpg

Every checkpoint that a run has kept is a point: two of them, unless it was trained with `--keep-checkpoints 0`. The numbers
go to each run's `overestimation.csv`, the curves to one picture.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tyro
from tyro.conf import OmitArgPrefixes, Positional

from scg import figures
from scg.agents import title
from scg.agents.commands.shared import check_figure, reported
from scg.agents.commands.trust import opened
from scg.agents.execution.threads import torch_threads
from scg.agents.training.curves import bootstrap_interval, on_common_steps
from scg.agents.training.overestimation import Measurement, over_training
from scg.agents.training.run_directory import RunDirectory, RunError
from scg.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = list[dict[str, float]]


@dataclass(frozen=True)
class Overestimation:
    runs: Positional[tuple[Path, ...]]
    """run directories; the same agent and environment with several seeds is one curve"""
    how: OmitArgPrefixes[Measurement] = field(default_factory=Measurement)
    out: Path = Path("overestimation.png")
    """PNG, PDF or SVG by its ending"""
    trust: bool = False
    """import the code that the runs name, of their environments or agents, without a question"""


@reported
def overestimation(argv: list[str]) -> int:
    """Measure how far the critics of trained runs overestimate the returns of their policies."""
    wish = tyro.cli(Overestimation, prog="scg overestimation", args=argv)
    if not wish.runs:
        raise RunError("no run to measure. Give directories that `scg train` has made.")
    check_figure(wish.out)
    measured = []
    with torch_threads(1):
        for path in wish.runs:
            run = opened(path, wish.trust)
            print(f"{path}: {run.name} on {run.run.env}")
            measured.append((run, over_training(run, wish.how)))
    plot(measured, wish.out)
    print(f"{wish.out}")
    return 0


def plot(runs: Sequence[tuple[RunDirectory, Curve]], out: Path) -> Figure:
    """Estimates (solid) and truths (dashed) against steps: a panel an environment, a colour an agent, seeds averaged."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    panels: dict[str, dict[str, list[Curve]]] = defaultdict(lambda: defaultdict(list))
    for run, curve in runs:
        panels[run.run.env][run.name].append(curve)
    with figures.style(9):
        figure = Figure(figsize=(4.2 * len(panels), 3.0))
        axes = figure.subplots(1, len(panels), squeeze=False)
        for axis, (env_id, agents) in zip(axes[0], sorted(panels.items()), strict=True):
            for i, (name, curves) in enumerate(sorted(agents.items())):
                for column, line in (("estimate", "-"), ("truth", "--")):
                    steps, values = on_common_steps([_column(curve, column) for curve in curves])
                    label = f"{title(name)}, {column}"
                    axis.plot(steps, values.mean(0), line, color=figures.colour(i), marker=".", label=label)
                    if len(values) > 1:
                        lower, upper = bootstrap_interval(values)
                        axis.fill_between(steps, lower, upper, color=figures.colour(i), alpha=0.2, linewidth=0)
            axis.set(title=env_id, xlabel="environment steps", ylabel="discounted return")
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
            axis.grid(alpha=0.3)
            axis.legend()
        figure.tight_layout()
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(out) as file:
            figure.savefig(file, format=out.suffix.removeprefix(".") or "png", dpi=200)
    return figure


def _column(curve: Curve, name: str) -> tuple[np.ndarray, np.ndarray]:
    return np.array([row["step"] for row in curve]), np.array([row[name] for row in curve])
