"""What a check found, as data and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from scg.errors import visible
from scg.testing.sequential import Verdict


@dataclass(frozen=True)
class Row:
    """One parameter (or pair of parameters, at order 2), and the stochastic nodes that it moves, with their estimators.
    The numbers are those of its worst entry, `entry`."""

    parameter: str
    nodes: tuple[str, ...]
    estimators: tuple[str, ...]
    oracle: str
    exact: float
    mean: float
    se: float
    z: float
    detectable: float
    verdict: Verdict
    draws: int
    entry: tuple[int, ...] = ()


@dataclass(frozen=True)
class Culprit:
    """A node and what about it makes the gradient wrong: changing that, and nothing else, repaired it."""

    node: str
    what: str
    suspect: bool = field(default=True, repr=False)

    def __str__(self) -> str:
        return f"node {self.node!r}: {self.what}"


@dataclass(frozen=True)
class Report:
    """The verdict on every parameter, with its evidence. `print(report)` is a table.

    verdict       "unbiased", "biased" or "undecided", over all parameters; "not finite" where a draw was nan or infinite
    false_alarm   the probability of "biased" for an unbiased estimate, and of "unbiased" for a bias of the detectable size
    exact, mean   whole derivatives by name; at order 2 by pair of names
    culprits      where a bias was found: the nodes that it comes from, as far as that could be told
    """

    verdict: Verdict
    rows: tuple[Row, ...]
    order: int
    draws: int
    false_alarm: float
    detectable: float
    exact: dict[object, Tensor]
    mean: dict[object, Tensor]
    culprits: tuple[Culprit, ...] = ()
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.verdict == "unbiased"

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        derivative = "gradient" if self.order == 1 else "Hessian"
        titles = ("parameter", "node", "estimator", "oracle", "exact", "mean", "s.e.", "z", "detectable", "verdict")
        cells = [
            (
                row.parameter + (f"[{', '.join(map(str, row.entry))}]" if row.entry else ""),
                ", ".join(row.nodes),
                ", ".join(row.estimators),
                row.oracle,
                f"{row.exact:.5g}",
                f"{row.mean:.5g}",
                f"{row.se:.2g}",
                f"{row.z:.1f}",
                f"{row.detectable:.2g}",
                row.verdict,
            )
            for row in self.rows
        ]
        left = {0, 1, 2, 3, 9}
        lines = [
            f"{derivative}: {self.verdict}, {self.draws:,} draws, error rate {self.false_alarm:g}",
            *table(titles, cells, left),
        ]
        if self.culprits:
            lines.append("the bias comes from " + "; ".join(map(str, self.culprits)))
        if self.note:
            lines.append(self.note)
        return "\n".join(lines)


def table(titles: tuple[str, ...], cells: Sequence[tuple[str, ...]], left: set[int]) -> list[str]:
    """Aligned columns; those in `left` flush left, numbers flush right."""
    cells = [tuple(map(visible, row)) for row in cells]
    widths = [max(len(row[i]) for row in [titles, *cells]) for i in range(len(titles))]
    return [
        "  ".join(c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in [titles, *cells]
    ]
