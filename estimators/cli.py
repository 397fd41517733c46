"""`scg estimators`: the catalogue in a terminal.

    scg estimators                 the table, and that of black boxes
    scg estimators --markdown      the same for a README
    scg estimators Bernoulli       only those that take a Bernoulli
    scg estimators --credits       the table of credits; with --markdown too

Exit code 0, or 2 for arguments that make no sense.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

from scg.commands.shared import reported
from scg.errors import nearest
from scg.estimators.catalogue import BOXES, ENTRIES, KINDS, BoxRow, Row, accepted, as_markdown, catalogue
from scg.estimators.credit import catalogue as credits
from scg.estimators.credit.catalogue import CreditRow
from scg.targets import TargetError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

WIDE = 140  # columns that the whole table needs to be read


@dataclass(frozen=True)
class Catalogue:
    """Every estimator: what it takes, promises and costs."""

    distribution: Annotated[
        str | None,
        Positional,
        arg(metavar="DISTRIBUTION", help=f"only those that take it: {', '.join(KINDS)}", help_behavior_hint="(default: all)"),
    ] = None
    markdown: bool = False
    """print the table in Markdown"""
    credits: bool = False
    """the table of credits instead"""


@reported
def estimators(argv: list[str]) -> int:
    """Print the catalogue."""
    wish = tyro.cli(Catalogue, prog="scg estimators", args=argv)
    if wish.distribution is not None and wish.distribution not in KINDS:
        raise TargetError(f"no distribution {wish.distribution!r} in the catalogue.{nearest(wish.distribution, KINDS)}")
    if wish.credits and wish.distribution is not None:
        raise TargetError("--credits takes no distribution: a credit does not ask what a sample was drawn from")
    if wish.markdown:
        print(credits.as_markdown() if wish.credits else as_markdown())
        return 0
    if wish.credits:
        Console().print(_all("Credits: what replaces the costs downstream of a node", CreditRow, credits.catalogue()))
        return 0
    rows = [
        r for r in catalogue() if wish.distribution is None or wish.distribution in accepted(ENTRIES[r.estimator].estimator)
    ]
    console = Console()
    console.print(_wide(rows) if console.width >= WIDE else _narrow(rows))
    if wish.distribution is None:
        console.print(_all("Deterministic nodes that autograd cannot see into", BoxRow, BOXES))
    return 0


def _all(title: str, row: type[DataclassInstance], rows: Sequence[DataclassInstance]) -> Table:
    """A column for each field."""
    table = Table(title=title, show_lines=True)
    for i, field in enumerate(fields(row)):
        table.add_column(field.name, no_wrap=i == 0)
    for each in rows:
        table.add_row(*vars(each).values())
    return table


def _wide(rows: list[Row]) -> Table:
    table = Table(show_lines=True)
    for field in fields(Row):
        table.add_column(field.name, no_wrap=field.name == "estimator")
    for row in rows:
        table.add_row(*[getattr(row, field.name) for field in fields(Row)])
    return table


def _narrow(rows: list[Row]) -> Table:
    table = Table(show_lines=True, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for row in rows:
        promise = f"unbiased: {row.unbiased}   order: {row.order}\nevaluations: {row.evaluations}"
        table.add_row(row.estimator, f"for {row.supports}\nneeds {row.needs}\n{promise}\n{row.paper}")
    return table
