"""`scg estimators`: the catalogue in a terminal.

    scg estimators                 the table, and that of black boxes
    scg estimators --markdown      the same for a README
    scg estimators Bernoulli       only those that take a Bernoulli

Exit code 0, or 2 for arguments that make no sense.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields

from rich.console import Console
from rich.table import Table

from scg.errors import nearest
from scg.estimators.catalogue import BOXES, ENTRIES, KINDS, BoxRow, Row, accepted, as_markdown, catalogue

WIDE = 140  # columns that the whole table needs to be read


def estimators(argv: list[str]) -> int:
    """Print the catalogue."""
    parser = argparse.ArgumentParser(prog="scg estimators", description="Every estimator: what it takes, promises and costs.")
    parser.add_argument("distribution", nargs="?", help=f"only those that take it: {', '.join(KINDS)}")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    try:
        wish = parser.parse_args(argv)
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else 2
    if wish.distribution is not None and wish.distribution not in KINDS:
        print(
            f"error: no distribution {wish.distribution!r} in the catalogue.{nearest(wish.distribution, KINDS)}",
            file=sys.stderr,
        )
        return 2
    if wish.markdown:
        print(as_markdown())
        return 0
    rows = [
        r for r in catalogue() if wish.distribution is None or wish.distribution in accepted(ENTRIES[r.estimator].estimator)
    ]
    console = Console()
    console.print(_wide(rows) if console.width >= WIDE else _narrow(rows))
    if wish.distribution is None:
        console.print(_boxes())
    return 0


def _boxes() -> Table:
    table = Table(title="Deterministic nodes that autograd cannot see into", show_lines=True)
    for field in fields(BoxRow):
        table.add_column(field.name, no_wrap=field.name == "node")
    for row in BOXES:
        table.add_row(*vars(row).values())
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
