"""A picture in Mermaid's language, which GitHub and notebooks draw by themselves."""

from __future__ import annotations

from scg.draw.dot import printable
from scg.draw.picture import PLATE, Line, Mark, Picture

SHAPES = {
    "input": ("[", "]"),
    "deterministic": ("[", "]"),
    "stochastic": ("((", "))"),
    "cost": ("{", "}"),
    "observed": ("((", "))"),
    "aside": ("[", "]"),
}
CLASSES = (
    "classDef input fill:none,stroke:none",
    "classDef deterministic fill:#fff,stroke:#000,color:#000",
    "classDef stochastic fill:#fff,stroke:#000,color:#000",
    "classDef cost fill:#fdf0d5,stroke:#000,color:#000",
    "classDef observed fill:#d9d9d9,stroke:#000,color:#000",
    "classDef aside fill:#fff,stroke:#808080,color:#808080,stroke-dasharray:2 3",
)
COLOURS = {"dist": "#3465a4", "prev": "#4e7a27", "aside": "#808080"}


def flowchart(picture: Picture) -> str:
    """The graph as `flowchart`."""
    keys = {mark.name: f"n{i}" for i, mark in enumerate(picture.marks)}
    rows = ["flowchart LR"]
    rows += [f"  {_node(mark, keys)}" for mark in picture.marks if not mark.on_plate]
    if picture.plate:
        rows += [f'  subgraph sequence["{PLATE}"]', *(f"    {_node(mark, keys)}" for mark in picture.plate), "  end"]
    for i, line in enumerate(picture.lines):
        rows.append(f"  {_edge(line, keys)}")
        if line.reading in COLOURS:
            dashes = ",stroke-dasharray:2 3" if line.reading == "aside" else ""
            rows.append(f"  linkStyle {i} stroke:{COLOURS[line.reading]}{dashes}")
    return "\n".join([*rows, *(f"  {c}" for c in CLASSES), ""])


def _node(mark: Mark, keys: dict[str, str]) -> str:
    opening, closing = SHAPES[mark.kind]
    text = "<br/>".join([_text(mark.title), *(f"<small>{_text(note)}</small>" for note in mark.notes)])
    return f'{keys[mark.name]}{opening}"{text}"{closing}:::{mark.kind}'


def _edge(line: Line, keys: dict[str, str]) -> str:
    arrow = "-.->" if line.detached else "==>" if line.reading == "dist" else "-->"
    label = f'|"{_text(line.label)}"|' if line.label else ""
    return f"{keys[line.source]} {arrow}{label} {keys[line.target]}"


def _text(text: str) -> str:
    """Mermaid's own escapes, `#` and a character's number, for what it would read as syntax or markup."""
    return "".join(f"#{ord(c)};" if c in '"#<>&;`\\|{}[]()' else c for c in printable(text))
