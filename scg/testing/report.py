"""What a check found, as data and as a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from scg.tables import Table, Tabular
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
class Report(Tabular):
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

    def shown(self) -> Iterator[str | Table]:
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
        yield f"{derivative}: {self.verdict}, {self.draws:,} draws, error rate {self.false_alarm:g}"
        yield Table(titles, cells, {0, 1, 2, 3, 9})
        if self.culprits:
            yield "the bias comes from " + "; ".join(map(str, self.culprits))
        if self.note:
            yield self.note
