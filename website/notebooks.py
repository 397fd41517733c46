"""Notebooks: run, and shown as pages.

    python -m website.notebooks docs/notebooks/*.ipynb       runs each with a fresh kernel and keeps what it prints

A page has the cells as they are, the text that they print, tables as HTML and pictures inline.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def executed(path: Path, seconds: int = 120) -> Any:
    """The notebook, run from its first cell in a fresh kernel; an exception in a cell is raised here."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=seconds, kernel_name="python3", resources=place).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL})
    return notebook


def shown(outputs: list[Any]) -> Iterator[tuple[str, str]]:
    """(kind, content) of what a cell left: the richest form that a page can have."""
    for output in outputs:
        if output["output_type"] == "stream":
            yield "text", _joined(output["text"])
        elif output["output_type"] in ("display_data", "execute_result"):
            data = output["data"]
            kind = next(k for k in ("image/svg+xml", "image/png", "text/html", "text/markdown", "text/plain") if k in data)
            yield kind.rpartition("/")[2], _joined(data[kind])


def printed(cell: Any) -> str:
    """The plain text of a cell: what a run of it must repeat."""
    return "".join(_joined(o["text"]) for o in cell.get("outputs", ()) if o["output_type"] == "stream")


def prose(path: Path) -> str:
    """The Markdown cells alone: where a notebook's links are."""
    return "\n\n".join(_joined(c["source"]) for c in _cells(path) if c["cell_type"] == "markdown")


def as_page(path: Path) -> str:
    """A notebook as Markdown."""
    pieces = []
    for cell in _cells(path):
        source = _joined(cell["source"])
        if cell["cell_type"] == "markdown":
            pieces.append(source)
            continue
        pieces.append(f"```python\n{source}\n```")
        for kind, content in shown(cell["outputs"]):
            if kind in ("text", "plain"):
                pieces.append(f"```text\n{content.rstrip()}\n```")
            elif kind == "png":
                pieces.append(f'<img class="output" alt="what the cell draws" src="data:image/png;base64,{content.strip()}">')
            elif kind == "markdown":
                pieces.append(content)
            else:
                pieces.append(f'<div class="output">{_one_block(content)}</div>')
    return "\n\n".join(pieces) + "\n"


def _one_block(html: str) -> str:
    """Without empty lines, at which Markdown would end the HTML."""
    body = html[html.index("<svg") :] if "<svg" in html and html.lstrip().startswith("<?xml") else html
    return "\n".join(line for line in body.splitlines() if line.strip())


def _cells(path: Path) -> list[Any]:
    return json.loads(path.read_text())["cells"]


def _joined(lines: str | list[str]) -> str:
    return lines if isinstance(lines, str) else "".join(lines)


def main(paths: list[str]) -> None:
    import nbformat

    for path in map(Path, paths):
        notebook = executed(path)
        nbformat.write(notebook, path)
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
