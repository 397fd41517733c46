"""Runs at a glance: what each reached, how fast, and in what it differs from the others.

folders → runs → rows of one table: the last evaluation with its interval, steps, speed, time, the flags that differ

A run's interval is that of its last evaluation's mean over fresh episodes (two standard errors); of several seeds together it
is the bootstrap interval of their mean (`curves.bootstrap_interval`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scg.agents import title
from scg.agents.training.curves import bootstrap_interval
from scg.agents.training.run_config import options
from scg.agents.training.run_directory import RunDirectory, RunError, read_table, short
from scg.agents.training.run_groups import IGNORED, configuration, differing, runs_in, text
from scg.tables import Table, Tabular

NOT_YET = "–"
TITLES = ("run", "agent", "environment", "steps", "return", "interval", "steps/s", "time", "differs in")


@dataclass(frozen=True)
class Row:
    """One run, or the seeds of one configuration. `value` is NaN before the first evaluation."""

    runs: tuple[RunDirectory, ...]
    steps: int
    value: float
    low: float
    high: float
    speed: float
    seconds: float
    differs: str

    @property
    def name(self) -> str:
        return str(self.runs[0].path) if len(self.runs) == 1 else f"{len(self.runs)} seeds: {self.runs[0].path}, …"

    def cells(self) -> tuple[str, ...]:
        first = self.runs[0]
        return (
            self.name,
            title(first.name),
            short(first.run.env),
            f"{self.steps:,}",
            number(self.value),
            f"{number(self.low)} to {number(self.high)}" if math.isfinite(self.low) else NOT_YET,
            f"{self.speed:,.0f}" if math.isfinite(self.speed) else NOT_YET,
            duration(self.seconds),
            self.differs,
        )


@dataclass(frozen=True)
class Overview(Tabular):
    """A table of runs, and what could not be read with its reason. Print it, or let a notebook show it."""

    rows: tuple[Row, ...]
    unread: tuple[str, ...] = ()

    def shown(self) -> list[str | Table]:
        table = Table(TITLES, [row.cells() for row in self.rows], left={0, 1, 2, 8})
        return [table, *self.unread]


def overview(paths: Sequence[Path], together: bool = False) -> Overview:
    """The runs at and below `paths`. `together`: one row for all seeds of a configuration. RunError where there is no run."""
    runs, unread = [], []
    for path in dict.fromkeys(found for given in paths for found in runs_in(given)):
        try:
            runs.append(RunDirectory.open(path, say=lambda _: None))
        except RunError as error:
            unread.append(str(error))
    if not runs and not unread:
        raise RunError("no runs given. Give run directories, or a folder of them.")
    groups: dict[str, list[RunDirectory]] = {}
    for run in runs:
        key = repr((run.run.env, sorted(configuration(run).items()))) if together else str(run.path)
        groups.setdefault(key, []).append(run)
    rows = []
    for group in groups.values():
        peers = [run for run in runs if (run.name, run.run.env) == (group[0].name, group[0].run.env)]
        try:
            rows.append(_row(group, peers, together))
        except (OSError, RunError) as error:
            unread.append(str(error))
    return Overview(tuple(rows), tuple(unread))


def _row(group: Sequence[RunDirectory], peers: Sequence[RunDirectory], together: bool) -> Row:
    lasts = [_last(run.path / "evaluations.csv") for run in group]
    metrics = [_last(run.path / "metrics.csv") for run in group]
    values = np.array([last.get("return", math.nan) for last in lasts])
    value, low, high = float(values.mean()), math.nan, math.nan
    if len(group) == 1 and math.isfinite(error := lasts[0].get("error", math.nan)):
        low, high = value - 2 * error, value + 2 * error
    elif len(group) > 1 and np.isfinite(values).all():
        lower, upper = bootstrap_interval(values[:, None])
        low, high = float(lower[0]), float(upper[0])
    steps = [int(max(last.get("step", 0), metric.get("step", 0))) for last, metric in zip(lasts, metrics, strict=True)]
    seconds = [metric.get("seconds", math.nan) for metric in metrics]
    each = float(np.mean(seconds))
    speed = float(np.mean([s / t for s, t in zip(steps, seconds, strict=True)])) if each > 0 else math.nan
    return Row(tuple(group), min(steps), value, low, high, speed, each, _differs(group[0], peers, together))


def _differs(run: RunDirectory, peers: Sequence[RunDirectory], together: bool) -> str:
    """The flags in which the run is not as the others of its agent on its environment."""
    all_of = [_flags(peer, together) for peer in peers]
    own = _flags(run, together)
    return " ".join(f"--{name.replace('_', '-')} {text(own.get(name, NOT_YET))}" for name in differing(all_of))


def _flags(run: RunDirectory, together: bool) -> dict[str, object]:
    kept = {"seed": run.run.seed} if not together else {}
    of_run = {name: value for name, value in options(run.run).items() if name not in IGNORED}
    return {**of_run, **options(run.agent), **kept}


def _last(file: Path) -> dict[str, float]:
    rows = read_table(file) if file.exists() else []
    return rows[-1] if rows else {}


def number(value: float) -> str:
    """A return with four digits at most before it is an integer."""
    return NOT_YET if not math.isfinite(value) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, the two largest that there are."""
    if not math.isfinite(seconds):
        return NOT_YET
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {whole % 60:02} s" if minutes else f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
