"""Drawing a graph, in the notation of Schulman et al. (2015): `picture` says what is shown, the rest how.

    to_dot      Graphviz's language                   render    a PNG, SVG or PDF; the languages by their suffix
    to_mermaid  Mermaid's                             to_html   what a notebook shows

Pictures go through Graphviz where its program `dot` is installed, through matplotlib where it is not.
"""

from __future__ import annotations

import shutil
import subprocess
import warnings
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from scg.draw.dot import digraph
from scg.draw.mermaid import flowchart
from scg.draw.picture import Line, Mark, Picture, picture_of
from scg.files import whole_file

if TYPE_CHECKING:  # a graph draws itself: Graph calls this module
    from scg.graph import Graph

IMAGES, TEXTS = (".png", ".svg", ".pdf"), (".dot", ".mmd")


def to_dot(graph: Graph) -> str:
    """The graph in Graphviz's language."""
    return digraph(picture_of(graph))


def to_mermaid(graph: Graph) -> str:
    """The graph in Mermaid's language."""
    return flowchart(picture_of(graph))


def to_html(graph: Graph) -> str:
    """The picture as SVG inside HTML, and below it what `graph.check()` finds wrong with the structure."""
    image = drawn(graph, ".svg").decode()
    found = "".join(f"<li>{escape(str(finding))}</li>" for finding in graph.check())
    below = f'<ul style="text-align:left">{found}</ul>' if found else ""
    return f'<div style="background:white;color:black;overflow-x:auto">{image[image.index("<svg") :]}{below}</div>'


def render(graph: Graph, path: str | PathLike[str]) -> Path:
    """Draw the graph into a file; its suffix says what kind: png, svg, pdf, dot or mmd."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".dot":
        content = to_dot(graph).encode()
    elif suffix == ".mmd":
        content = to_mermaid(graph).encode()
    elif suffix in IMAGES:
        content = drawn(graph, suffix)
    else:
        known = ", ".join(s.removeprefix(".") for s in (*IMAGES, *TEXTS))
        raise ValueError(f"render({str(path)!r}): the suffix {path.suffix!r} is no format to draw in; use one of {known}")
    with whole_file(path) as file:
        file.write(content)
    return path


def drawn(graph: Graph, suffix: str) -> bytes:
    """The picture as an image: by Graphviz, or without it (or where it fails) by matplotlib."""
    shown = picture_of(graph)
    program = shutil.which("dot")
    if program is not None:
        command = [program, f"-T{suffix.removeprefix('.')}", *(["-Gdpi=160"] if suffix == ".png" else [])]
        try:
            return subprocess.run(command, input=digraph(shown).encode(), capture_output=True, check=True, timeout=60).stdout
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None)
            reason = said.decode(errors="replace").strip() if said else str(error)
            warnings.warn(f"Graphviz could not draw the graph, matplotlib does: {reason}", stacklevel=3)
    from scg.draw.canvas import paint

    return paint(shown, suffix)


__all__ = ["Line", "Mark", "Picture", "drawn", "picture_of", "render", "to_dot", "to_html", "to_mermaid"]
