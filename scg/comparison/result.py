"""What a comparison measured, as data and as a table. CSV and plot are in `scg.comparison.export`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Literal

import numpy as np
from torch import Tensor

from scg.comparison.statistics import Interval, Resampled, ratio
from scg.errors import GraphError, nearest, visible
from scg.estimator import Estimator
from scg.tables import Table, Tabular

if TYPE_CHECKING:
    from matplotlib.figure import Figure

By = Literal["work", "evaluations", "variance", "time"]
BY: tuple[By, ...] = ("work", "evaluations", "variance", "time")
Verdict = Literal["no bias found", "biased", "unknown"]


@dataclass(frozen=True)
class Row:
    """One choice of estimators, measured.

    verdict      "biased" where an entry's bias is further from 0 than the comparison's false-alarm rate allows, "no bias
                 found" where none is (one much smaller than its interval would not be), "unknown" without a reference
    declared     what the estimators say: False where one of them is biased by its own account
    bias         the entry of the gradient whose bias stands out most, `worst`, with its interval
    biases       mean gradient less reference, by parameter; `half_widths`: of their intervals
    variance     Σ over all entries; `variances`: by parameter
    time         seconds a gradient, median
    memory       peak bytes of one gradient
    evaluations  of the costs, for one gradient
    work, cost   variance × time, variance × evaluations
    learned      steps that its learning estimators took before
    """

    label: str
    estimators: Mapping[str, Estimator]
    draws: int
    verdict: Verdict
    declared: bool
    worst: str
    bias: Interval
    biases: Mapping[str, Tensor]
    half_widths: Mapping[str, Tensor]
    variance: Interval
    variances: Mapping[str, Interval]
    time: Interval
    memory: float
    evaluations: float
    work: Interval
    cost: Interval
    learned: int = 0

    @property
    def unbiased(self) -> bool:
        return self.declared and self.verdict != "biased"

    def figure(self, by: By) -> Interval:
        return {"work": self.work, "evaluations": self.cost, "variance": self.variance, "time": self.time}[by]


@dataclass(frozen=True)
class Refused:
    """A choice that could not be measured, and why."""

    label: str
    reason: str
    error: Exception | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Comparison(Tabular):
    """The choices by work-normalised variance, best first. `print(comparison)` is a table.

    reference     what biases are held against
    false_alarm   the probability that one or more unbiased choices are called biased, for means that are nearly normal
    interrupted   True where it was stopped by hand: what is here was measured, with fewer draws than asked for
    """

    rows: tuple[Row, ...]
    refused: tuple[Refused, ...]
    reference: str
    confidence: float
    false_alarm: float
    seed: int
    interrupted: bool = False
    replicates: Mapping[str, Resampled] = field(default_factory=dict, repr=False, compare=False)

    def __getitem__(self, label: str) -> Row:
        for row in self.rows:
            if row.label == label:
                return row
        for refused in self.refused:
            if refused.label == label:
                raise KeyError(f"{label!r} was refused: {refused.reason}")
        raise KeyError(f"no choice {label!r}.{nearest(label, [r.label for r in self.rows])}")

    def best(self, by: By = "work", biased: bool = False) -> Row:
        """The choice with the least variance × time (or what `by` says), among those declared and measured unbiased;
        among equals, the quickest. `biased=True` admits all."""
        if by not in BY:
            raise GraphError(f"best(by={by!r}): one of {', '.join(map(repr, BY))}")
        fit = [row for row in self.rows if biased or row.unbiased]
        if not fit:
            found = (
                "; ".join(f"{r.label}: {'measured' if r.declared else 'declared'} biased" for r in self.rows) or "none measured"
            )
            raise GraphError(f"no unbiased choice among those compared ({found}). best(biased=True) admits them.")
        return min(fit, key=lambda row: (row.figure(by).value, row.time.value))

    def ratio(self, over: str, under: str, by: By = "work") -> Interval:
        """How many times more `over` has than `under`, with its paired bootstrap interval."""
        a, b = self[over], self[under]
        if by not in BY:
            raise GraphError(f"ratio(by={by!r}): one of {', '.join(map(repr, BY))}")
        top, bottom = a.figure(by).value, b.figure(by).value
        value = top / bottom if bottom else 1.0 if top == 0 else np.inf
        return ratio(self._replicate(a, by), self._replicate(b, by), value, self.confidence)

    def _replicate(self, row: Row, by: By) -> np.ndarray:
        found = self.replicates[row.label]
        variance = found.variance[0]
        return {
            "work": variance * found.time,
            "evaluations": variance * row.evaluations,
            "variance": variance,
            "time": found.time,
        }[by]

    def shown(self) -> Iterator[str | Table]:
        yield self._table()
        for r in self.refused:
            yield visible(f"refused: {r.label}: {shorten(r.reason.splitlines()[0], 160, placeholder=' …')}")
        yield from self._notes()

    def _table(self) -> Table:
        numbers = ("bias, worst entry", "variance", "ms", "KiB", "evaluations", "var × ms", "× best", "var × evaluations")
        return Table(("choice", *numbers, "verdict"), self._cells(), {0, 9})

    def _cells(self) -> list[tuple[str, ...]]:
        cells: list[tuple[str, ...]] = []
        first = next((row for row in self.rows if row.unbiased), self.rows[0] if self.rows else None)
        for row in self.rows:
            beside = "1" if row is first or first is None else self.ratio(row.label, first.label).plausible
            cells.append((
                row.label + (f" ({row.learned} steps learned)" if row.learned else ""),
                f"{row.bias.value:.2g} ± {(row.bias.high - row.bias.low) / 2:.2g}" if row.verdict != "unknown" else "?",
                row.variance.plausible,
                row.time.scaled(1e3).plausible,
                f"{row.memory / 1024:.4g}",
                f"{row.evaluations:g}",
                row.work.scaled(1e3).plausible,
                beside,
                row.cost.plausible,
                ("biased as measured" if row.verdict == "biased" else row.verdict)
                + ("" if row.declared else ", biased by design"),
            ))  # fmt: skip
        return cells

    def _notes(self) -> list[str]:
        share = f"{100 * self.confidence:g} %"
        draws = sorted({row.draws for row in self.rows})
        count = f"{draws[0]:,}" if len(draws) == 1 else f"{draws[0]:,} to {draws[-1]:,}" if draws else "no"
        notes = [f"{count} paired draws; bias against: {self.reference}; in brackets {share} intervals; seed {self.seed}"]
        if self.interrupted:
            notes.append("interrupted: these are the draws made until then")
        return notes

    def to_csv(self, path: str | Path) -> Path:
        """One line for each choice and parameter, and one for the total of each choice; refused choices with their reason."""
        from scg.comparison.export import to_csv

        return to_csv(self, Path(path))

    def plot(self, path: str | Path | None = None) -> Figure:
        """Variance against time, both logarithmic, with intervals and labels; written to `path` (PNG, PDF or SVG by its
        ending) where one is given.

        On a dotted line the product is the same: what lies below the best choice's would be better. Hollow: biased.
        """
        from scg.comparison.export import plot

        return plot(self, None if path is None else Path(path))
