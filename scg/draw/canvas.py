"""A picture drawn with matplotlib, for machines without Graphviz."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch, Polygon, Rectangle
from matplotlib.path import Path
from matplotlib.textpath import TextToPath

from scg.draw.dot import printable, wrap
from scg.draw.layout import Arranger, Layout, Route
from scg.draw.picture import PLATE, Line, Mark, Picture

TITLE, NOTE, LABEL = (FontProperties(family="DejaVu Sans", size=s) for s in (12, 8.5, 9))
FILLS = {"cost": "#fdf0d5", "observed": "#d9d9d9"}
COLOURS = {"value": "black", "dist": "#3465a4", "prev": "#4e7a27", "aside": "#808080"}
MARGIN = 12.0


def paint(picture: Picture, suffix: str) -> bytes:
    """The picture as bytes of an image format that matplotlib writes."""
    arrows = Counter(line.target for line in picture.lines) | Counter(line.source for line in picture.lines)
    blocks = {mark.name: Block(mark, arrows[mark.name]) for mark in picture.marks}
    widths = {line: _width(line.label, LABEL) for line in picture.lines if line.label}
    sizes = {name: block.size for name, block in blocks.items()}
    layout = Arranger(sizes, picture.lines, {m.name for m in picture.plate}, widths).layout()
    left, top, right, bottom = layout.size
    width, height = right - left + 2 * MARGIN, bottom - top + 2 * MARGIN
    figure = Figure(figsize=(width / 72, height / 72))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(left - MARGIN, right + MARGIN), ylim=(bottom + MARGIN, top - MARGIN))
    axes.axis("off")
    if layout.plate:
        _plate(axes, layout.plate)
    occupied: list[tuple[float, ...]] = [(x, y, *blocks[name].size) for name, (x, y) in layout.positions.items()]
    labels: list[tuple[float, ...]] = []
    for line in picture.lines:
        _line(axes, line, layout.routes[line], blocks[line.source], blocks[line.target], layout)
    for line in picture.lines:
        if line.label:
            _label(axes, line, layout.routes[line], widths[line], occupied, labels)
    for name, (x, y) in layout.positions.items():
        blocks[name].draw(axes, x, y)
    out = io.BytesIO()
    with rc_context({"svg.fonttype": "none"}):  # words that can be searched and read aloud, not outlines
        figure.savefig(out, format=suffix.removeprefix("."), dpi=160, facecolor="white")
    return out.getvalue()


def _width(text: str, font: FontProperties) -> float:
    return TextToPath().get_text_width_height_descent(text, font, ismath=False)[0]


class Block:
    """A mark with its text measured: how large its shape is, and where a line at a given height meets it."""

    def __init__(self, mark: Mark, arrows: int = 0) -> None:
        self.mark = mark
        rows = [(printable(mark.title), TITLE)] + [(row, NOTE) for n in mark.notes for row in wrap(printable(n))]
        heights = [1.25 * font.get_size_in_points() for _, font in rows]
        total, y = sum(heights), 0.0
        self.rows: list[tuple[str, FontProperties, float, float]] = []
        for (text, font), height in zip(rows, heights, strict=True):
            self.rows.append((text, font, y + height / 2 - total / 2, _width(text, font)))
            y += height
        width, crowd = max(w for *_, w in self.rows), 9.0 * arrows
        corners = [(w / 2, abs(at) + font.get_size_in_points() / 2) for _, font, at, w in self.rows]
        if mark.kind in ("stochastic", "observed"):
            diameter = max(40.0, 1.2 * crowd, 2 * max(math.hypot(*c) for c in corners) + 7)
            self.size = (diameter, diameter)
        elif mark.kind == "cost":
            height = max(2.1 * total + 6, 1.4 * crowd)
            self.size = (max(2 * a / (1 - 2 * b / height) for a, b in corners) + 6, height)
        elif mark.kind == "input":
            self.size = (width + 6, max(total + 4, 0.7 * crowd))
        else:
            self.size = (max(34.0, width + 14), max(30.0, total + 12, crowd + 4))

    def reach(self, dy: float) -> float:
        """Half the width of the shape at height `dy` from its centre."""
        width, height = self.size
        if self.mark.kind in ("stochastic", "observed"):
            return math.sqrt(max(0.0, (width / 2) ** 2 - dy**2))
        if self.mark.kind == "cost":
            return width / 2 * max(0.0, 1 - abs(dy) / (height / 2))
        return width / 2

    def draw(self, axes: Any, x: float, y: float) -> None:
        width, height = self.size
        aside = self.mark.kind == "aside"
        ink = COLOURS["aside"] if aside else "black"
        look: dict[str, Any] = {
            "facecolor": FILLS.get(self.mark.kind, "white"),
            "edgecolor": ink,
            "linewidth": 1.1,
            "zorder": 3,
        }
        if self.mark.kind in ("stochastic", "observed"):
            axes.add_patch(Circle((x, y), width / 2, **look))
        elif self.mark.kind == "cost":
            corners = [(x - width / 2, y), (x, y - height / 2), (x + width / 2, y), (x, y + height / 2)]
            axes.add_patch(Polygon(corners, closed=True, **look))
        elif self.mark.kind != "input":
            style = ":" if aside else "-"
            axes.add_patch(Rectangle((x - width / 2, y - height / 2), width, height, linestyle=style, **look))
        for text, font, at, _ in self.rows:
            axes.text(
                x, y + at, text, fontproperties=font, ha="center", va="center_baseline", color=ink, zorder=4, parse_math=False
            )


def _plate(axes: Any, box: tuple[float, float, float, float]) -> None:
    left, top, right, bottom = box
    shape = FancyBboxPatch(
        (left + 6, top + 6),
        right - left - 12,
        bottom - top - 12,
        boxstyle="round,pad=6",
        facecolor="none",
        edgecolor="#555555",
        zorder=1,
    )
    axes.add_patch(shape)
    axes.text(right - 8, bottom - 6, PLATE, fontproperties=LABEL, ha="right", va="bottom", color="#333333", zorder=4)


def _line(axes: Any, line: Line, route: Route, source: Block, target: Block, layout: Layout) -> None:
    """The route, cut where it leaves its source's shape and where it enters its target's, with an arrowhead."""
    codes: dict[str, list[Any]] = {"L": [Path.LINETO], "C": [Path.CURVE4] * 3, "Q": [Path.CURVE3] * 2}
    points, commands = [route.start], [Path.MOVETO]
    for command, piece in route.pieces:
        points += piece
        commands += codes[command]
    upward = line.source == line.target
    if upward:
        top = layout.positions[line.source][1] - source.size[1] / 2
        points[0], points[-1] = (points[0][0], top + 4), (points[-1][0], top + (2 if source.size[0] < 60 else 1))
        tip, back = points[-1], (points[-1][0], points[-1][1] - 1)
    else:
        (x, y), (u, v) = layout.positions[line.source], layout.positions[line.target]
        points[0] = (x + source.reach(points[0][1] - y), points[0][1])
        points[-1] = (u - target.reach(points[-1][1] - v), points[-1][1])
        tip, back = points[-1], (points[-1][0] - 1, points[-1][1])
    colour = COLOURS[line.reading]
    style: Any = (0, (4, 3)) if line.detached else (0, (1, 2)) if line.reading == "aside" else "-"
    look = {"facecolor": "none", "edgecolor": colour, "linewidth": 1.1, "linestyle": style, "zorder": 2}
    axes.add_patch(PathPatch(Path(points, commands), **look))
    _head(axes, tip, back, colour, hollow=line.reading in ("dist", "aside"))


def _head(axes: Any, tip: tuple[float, float], back: tuple[float, float], colour: str, hollow: bool) -> None:
    dx, dy = tip[0] - back[0], tip[1] - back[1]
    base = (tip[0] - 7 * dx, tip[1] - 7 * dy)
    corners = [tip, (base[0] - 3 * dy, base[1] + 3 * dx), (base[0] + 3 * dy, base[1] - 3 * dx)]
    axes.add_patch(Polygon(corners, closed=True, facecolor="white" if hollow else colour, edgecolor=colour, zorder=2.5))


def _label(
    axes: Any, line: Line, route: Route, width: float, shapes: list[tuple[float, ...]], labels: list[tuple[float, ...]]
) -> None:
    """On its line, where it covers no shape and no other label."""
    places = [route.label, *_along(route)]
    box: Callable[[tuple[float, float]], tuple[float, ...]] = lambda p: (*p, width + 6, 13.0)  # noqa: E731
    chosen = next((p for p in places if not any(_overlap(box(p), other) for other in [*shapes, *labels])), route.label)
    labels.append(box(chosen))
    background = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    axes.text(
        *chosen,
        line.label,
        fontproperties=LABEL,
        ha="center",
        va="center",
        color=COLOURS[line.reading],
        zorder=2.8,
        bbox=background,
    )


def _along(route: Route) -> list[tuple[float, float]]:
    """Points of the route's curves, the middle ones first."""
    found, here = [], route.start
    for command, points in route.pieces:
        for s in (0.5, 0.35, 0.65, 0.2, 0.8):
            if command == "C":
                p, q, r, e = here, *points
                weights = ((1 - s) ** 3, 3 * s * (1 - s) ** 2, 3 * s * s * (1 - s), s**3)
                x, y = (sum(w * c[i] for w, c in zip(weights, (p, q, r, e), strict=True)) for i in (0, 1))
                found.append((x, y))
            elif command == "L":
                found.append((here[0] + s * (points[0][0] - here[0]), here[1] + s * (points[0][1] - here[1])))
        here = points[-1]
    return found


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return abs(a[0] - b[0]) < (a[2] + b[2]) / 2 and abs(a[1] - b[1]) < (a[3] + b[3]) / 2
