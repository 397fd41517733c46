"""The notebooks are true: each runs in a fresh kernel and prints what it shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from website.notebooks import as_page, executed, printed

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
LARGEST = 250_000  # bytes


def rich(cell):
    return {kind for output in cell.get("outputs", ()) for kind in output.get("data", {})}


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_prints_what_it_shows(name, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parents[1]))  # a kernel starts in the notebook's folder
    shown = json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"]
    again = executed(FOLDER / f"{name}.ipynb").cells
    assert len(shown) == len(again)
    for before, now in zip(shown, again, strict=True):
        assert printed(now) == printed(before)
        assert rich(now) == rich(before)


def test_there_are_five_and_they_are_small():
    assert NAMES == ["cartpole", "digits", "proof", "thought", "tour"]
    for name in NAMES:
        assert (FOLDER / f"{name}.ipynb").stat().st_size < LARGEST, name


def test_graphs_derivations_and_reports_are_shown_richly():
    cells = json.loads((FOLDER / "tour.ipynb").read_text())["cells"]
    kinds = [rich(cell) for cell in cells]
    assert sum("text/html" in kind for kind in kinds) >= 3  # the graph, the report of the test, the attribution
    assert sum("text/latex" in kind for kind in kinds) == 1


def test_a_notebook_becomes_a_page():
    page = as_page(FOLDER / "tour.ipynb")
    assert page.startswith("# A tour")
    assert "<svg" in page and "$$" in page and "<?xml" not in page
    with_output = page.split('<div class="output">')[1:]
    assert all("\n\n" not in part[: part.index("</div>")] for part in with_output)  # at which Markdown would end it
