"""Reports as parts, lines and tables: one description, as text for `print` and as HTML for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from scg.errors import visible


@dataclass(frozen=True)
class Table:
    """Rows of cells under titles; the columns in `left` are flush left, numbers flush right."""

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: frozenset[int] | set[int]

    def lines(self) -> list[str]:
        rows = [tuple(self.titles), *(tuple(map(visible, row)) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return [
            "  ".join(
                cell.ljust(width) if i in self.left else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]

    def html(self) -> str:
        head = "".join(f"<th{self._side(i)}>{escape(title)}</th>" for i, title in enumerate(self.titles))
        body = "".join(
            f"<tr>{''.join(f'<td{self._side(i)}>{escape(visible(cell))}</td>' for i, cell in enumerate(row))}</tr>"
            for row in self.rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _side(self, column: int) -> str:
        return f' style="text-align: {"left" if column in self.left else "right"}"'


class Tabular:
    """A report that shows its parts: `str()` is aligned text, a notebook has tables."""

    def shown(self) -> Iterable[str | Table]:
        raise NotImplementedError

    def __str__(self) -> str:
        return "\n".join(line for part in self.shown() for line in ([part] if isinstance(part, str) else part.lines()))

    def _repr_html_(self) -> str:
        pieces = []
        for part in self.shown():
            pieces.append(f"<pre>{escape(part)}</pre>" if isinstance(part, str) else part.html())
        return f"<div>{''.join(pieces)}</div>"
