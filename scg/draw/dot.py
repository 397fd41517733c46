"""A picture in Graphviz's language."""

from __future__ import annotations

import re
from html import escape

from scg.draw.picture import PLATE, Line, Mark, Picture

STYLES = {
    "input": "shape=plaintext",
    "deterministic": "shape=box, width=0.5, height=0.45",
    "stochastic": "shape=circle, margin=0",
    "cost": 'shape=diamond, fillcolor="#fdf0d5"',
    "observed": 'shape=circle, margin=0, fillcolor="#d9d9d9"',
    "aside": 'shape=box, style=dotted, color="#808080", fontcolor="#808080"',
}
READINGS = {
    "value": [],
    "dist": ['color="#3465a4"', 'fontcolor="#3465a4"', "arrowhead=onormal"],
    "prev": ['color="#4e7a27"', 'fontcolor="#4e7a27"'],
    "aside": ["style=dotted", 'color="#808080"', 'fontcolor="#808080"', "arrowhead=open"],
}


def digraph(picture: Picture) -> str:
    """The graph as `digraph`: a node's name is its identifier."""
    rows = [
        "digraph scg {",
        "  rankdir=LR; nodesep=0.3; ranksep=0.5;",
        '  graph [fontname="Helvetica", fontsize=11];',
        '  node [fontname="Helvetica", fontsize=13, style=filled, fillcolor=white, margin="0.06,0.04"];',
        '  edge [fontname="Helvetica", fontsize=10, arrowsize=0.7];',
    ]
    rows += [f"  {_node(mark)}" for mark in picture.marks if not mark.on_plate]
    if picture.plate:
        rows += ["  subgraph cluster_sequence {", f'    label="{PLATE}"; labeljust=r; labelloc=b; style=rounded;']
        rows += [f"    {_node(mark)}" for mark in picture.plate]
        rows += ["  }"]
    rows += [f"  {_edge(line)}" for line in picture.lines]
    return "\n".join([*rows, "}", ""])


def _node(mark: Mark) -> str:
    lines = [_text(mark.title)]
    if mark.notes:  # a line's height is its own letters': without a thin one between, a title's descenders are cut
        lines.append('<font point-size="3"> </font>')
    lines += [f'<font point-size="9">{_text(note)}</font>' for whole in mark.notes for note in wrap(whole)]
    return f"{quoted(mark.name)} [{STYLES[mark.kind]}, label=<{'<br/>'.join(lines)}>];"


def _edge(line: Line) -> str:
    settings = list(READINGS[line.reading])
    if line.detached:
        settings = [s for s in settings if not s.startswith("style")] + ["style=dashed"]
    if line.label:
        settings.append(f'label="{line.label}"')
    if not line.forward:
        settings.append("constraint=false")
    shown = f" [{', '.join(settings)}]" if settings else ""
    return f"{quoted(line.source)} -> {quoted(line.target)}{shown};"


def quoted(name: str) -> str:
    """An identifier: only quotes are escaped in Graphviz's strings, so a backslash is doubled to keep it from the end."""
    return '"' + printable(name).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _text(text: str) -> str:
    return escape(printable(text)) or " "


def printable(text: str) -> str:
    """One line, without control characters, which neither XML nor Graphviz takes."""
    return "".join(c if c.isprintable() else " " for c in text)


def wrap(note: str, width: int = 18) -> list[str]:
    """Break a note before a parenthesis and after commas, so that circles stay small."""
    rows: list[str] = []
    for part in re.findall(r"\([^,]*,?|[^,(]+,?", note):
        if rows and len(rows[-1]) + len(part) <= width:
            rows[-1] += part
        else:
            rows.append(part.strip())
    return rows
