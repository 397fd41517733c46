"""Docstrings as Markdown: what their authors laid out by columns keeps its layout.

A paragraph is prose, unless a line of it is indented or has columns (words three spaces apart): that is a formula, a table or a
picture, and is set as it stands. `::` and backticks need nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from inspect import cleandoc
from textwrap import dedent
from typing import Any

from griffe import Extension, Object

COLUMNS = re.compile(r"\S {3,}\S")


def as_markdown(docstring: str) -> str:
    pieces: list[tuple[str, str]] = []  # (prose or layout, text)
    for kind, text in _paragraphs(cleandoc(docstring)):
        if pieces and kind == pieces[-1][0] == "layout":  # one block, with the empty line that was between them
            pieces[-1] = (kind, f"{pieces[-1][1]}\n\n{text}")
        else:
            pieces.append((kind, text))
    return "\n\n".join(text if kind == "prose" else f"```text\n{dedent(text)}\n```" for kind, text in pieces)


def _paragraphs(docstring: str) -> Iterator[tuple[str, str]]:
    for paragraph in re.split(r"\n\s*\n", docstring):
        lines = paragraph.strip("\n").split("\n")
        start = next((i for i, line in enumerate(lines) if line.startswith("  ") or COLUMNS.search(line)), None)
        if start is None:
            yield "prose", _escaped("\n".join(lines))
            continue
        if start and not any(COLUMNS.search(line) for line in lines):  # a sentence, and what hangs from it
            yield "prose", _escaped("\n".join(lines[:start]))
            lines = lines[start:]
        yield "layout", "\n".join(lines)


def _escaped(prose: str) -> str:
    """Brackets, stars and angles mean themselves in prose: shapes are written [n, *batch]."""
    parts = re.split(r"(`[^`]*`)", prose)
    return "".join(part if i % 2 else re.sub(r"([\[\]*<>_|])", r"\\\1", part) for i, part in enumerate(parts))


class Layout(Extension):
    """The extension that mkdocstrings loads."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None and not getattr(obj.docstring, "laid_out", False):
            obj.docstring.value = as_markdown(obj.docstring.value)
            obj.docstring.laid_out = True  # type: ignore[attr-defined]
