"""What `check_gradient` found, as data and as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from scg.tables import Table, Tabular
from scg.testing.losses.causes import Cause
from scg.testing.report import Report, Row
from scg.testing.sequential import Verdict

SHOWN = 12  # rows of the table
NAMED = 6  # causes that are spelt out


@dataclass(frozen=True)
class Interval:
    """A mean and half the width of its 99.9 % interval."""

    value: float
    half: float

    def above(self, level: float) -> bool:
        return self.value - self.half > level

    def holds(self, level: float) -> bool:
        return abs(self.value - level) <= self.half + 1e-9

    def __str__(self) -> str:
        return f"{self.value:.3g} ± {self.half:.2g}"


@dataclass(frozen=True)
class Direction:
    """What of the mean gradient is orthogonal to the true one, in units of that one's length; and the angle's cosine."""

    orthogonal: Interval
    cosine: float


@dataclass(frozen=True)
class GradientReport(Tabular):
    """The verdict on a loss. `print(report)` says it all; its truth value is `ok`.

    table      the verdict on every parameter, as `check_unbiased` reports it
    scale      the mean gradient projected on the true one, in units of it: 1 where only the direction is wrong
    direction  what is left beside that projection
    causes     changes with which the loss passes, or objectives whose gradient it has: each measured
    tried      changes that alter the gradient; of them `left` were not looked at, for lack of time or because enough causes were found
    """

    loss: str
    table: Report
    scale: Interval | None
    direction: Direction | None
    causes: tuple[Cause, ...]
    tried: int
    left: int
    calls: int
    seconds: float

    @property
    def verdict(self) -> Verdict:
        return self.table.verdict

    @property
    def ok(self) -> bool:
        return self.table.ok

    def __bool__(self) -> bool:
        return self.ok

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "loss": self.loss,
            "verdict": self.verdict,
            "calls": self.calls,
            "seconds": round(self.seconds, 3),
            "false_alarm": self.table.false_alarm,
            "detectable": self.table.detectable,
            "scale": None if self.scale is None else [self.scale.value, self.scale.half],
            "orthogonal": None if self.direction is None else [self.direction.orthogonal.value, self.direction.orthogonal.half],
            "causes": [{"cause": c.cause, "what": c.what} for c in self.causes],
            "parameters": [
                {
                    "name": r.parameter,
                    "entry": list(r.entry),
                    "exact": r.exact,
                    "mean": r.mean,
                    "se": r.se,
                    "verdict": r.verdict,
                }
                for r in self.table.rows
            ],
        }

    def shown(self) -> Iterator[str | Table]:
        found = self.table
        yield (
            f"gradient of {self.loss}: {self.verdict} after {found.draws:,} calls; error rate {found.false_alarm:g}, detectable "
            f"bias {found.detectable:g} of a parameter's gradient"
        )
        yield from self._rows()
        if self.scale is not None and self.direction is not None and self.verdict != "unbiased":
            yield from _geometry(self.scale, self.direction)
        for i, cause in enumerate(self.causes[:NAMED]):
            yield f"{'cause' if not i else 'or':10} {cause.cause}: it passes {cause.what}".replace(
                "it passes the", "it has the"
            )
            if cause.same:
                yield f"{'':10} the same: {cause.same[0]}" + (
                    f", and {len(cause.same) - 1} more" if len(cause.same) > 1 else ""
                )
        if self.verdict == "biased":
            yield self._search()
        if found.note:
            yield found.note

    def _rows(self) -> Iterator[str | Table]:
        rows = sorted(self.table.rows, key=lambda r: r.verdict == "unbiased")
        titles = ("parameter", "oracle", "exact", "mean", "s.e.", "z", "detectable", "verdict")
        yield Table(titles, [_cells(r) for r in rows[:SHOWN]], {0, 1, 7})
        if len(rows) > SHOWN:
            yield f"and {len(rows) - SHOWN} more"

    def _search(self) -> str:
        tried = f"{self.tried} changes alter the gradient"
        if not self.causes:
            tried += "; with none of those that were tried it passes"
        return f"{'tried':10} {tried}" + (f"; {self.left} of them were not looked at" if self.left else "")


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.parameter + (f"[{', '.join(map(str, row.entry))}]" if row.entry else ""),
        row.oracle, f"{row.exact:.5g}", f"{row.mean:.5g}", f"{row.se:.2g}", f"{row.z:.1f}", f"{row.detectable:.2g}", row.verdict,
    )  # fmt: skip


def _geometry(scale: Interval, direction: Direction) -> list[str]:
    left = direction.orthogonal
    how = (
        "as it should be" if scale.holds(1.0)
        else "no gradient in that direction" if scale.holds(0.0)
        else "the wrong sign" if scale.value < 0
        else "too short" if scale.value < 1
        else "too long"
    )  # fmt: skip
    beside = (
        f"{left} of its length is orthogonal to it (cosine {direction.cosine:.3f})" if left.above(0.0)
        else f"right, as far as can be told: what is orthogonal to it is below {max(left.value, 0.0) + left.half:.2g} of its length"
    )  # fmt: skip
    return [f"{'scale':10} {scale} of the true gradient, along it: {how}", f"{'direction':10} {beside}"]
