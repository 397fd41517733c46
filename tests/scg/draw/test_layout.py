"""The layout without Graphviz: nothing covers anything, on the graphs at hand and on random ones."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from scg.draw import Line, Mark, Picture, picture_of
from scg.draw.canvas import Block
from scg.draw.layout import Arranger, Layout
from tests.scg.draw.graphs import EVERY

Box = tuple[float, float, float, float]


def random_picture(seed: int) -> Picture:
    """Up to 14 marks, a run of them on a plate, with arrows forward and back."""
    rng = random.Random(seed)
    n = rng.randint(2, 14)
    opens = rng.randint(0, n)
    closes = rng.randint(opens, n)
    kinds = ["deterministic", "stochastic", "cost", "observed", "input"]
    marks = []
    for i in range(n):
        notes = ("ScoreFunction(samples=4)",) if rng.random() < 0.3 else ()
        marks.append(Mark(f"n{i}", "n" * rng.randint(1, 12), rng.choice(kinds), notes, opens <= i < closes))  # type: ignore[arg-type]
    lines = []
    for i in range(n):
        for j in range(i):
            if rng.random() < 2.2 / n and not (opens <= i < closes <= j):
                lines.append(Line(f"n{j}", f"n{i}", "value", rng.choice(["", "", "t=1"]), rng.random() < 0.2))
    if closes > opens:
        for _ in range(rng.randint(0, 3)):
            ends = rng.randrange(opens, closes), rng.randrange(opens, closes)
            lines.append(Line(f"n{ends[0]}", f"n{ends[1]}", "prev", "t−1", forward=False))
    return Picture(tuple(marks), tuple(dict.fromkeys(lines)))


def arranged(shown: Picture) -> tuple[Layout, dict[str, Box]]:
    blocks = {m.name: Block(m, 3) for m in shown.marks}
    layout = Arranger({n: b.size for n, b in blocks.items()}, shown.lines, {m.name for m in shown.plate}, {}).layout()
    return layout, {n: (x, y, blocks[n].size[0], blocks[n].size[1]) for n, (x, y) in layout.positions.items()}


def along(start: tuple[float, float], points: tuple[tuple[float, float], ...]) -> list[tuple[float, float]]:
    """Twenty points of a Bézier curve, by de Casteljau's construction."""
    found = []
    for k in range(1, 21):
        s, row = k / 20, [start, *points]
        while len(row) > 1:
            row = [((1 - s) * a + s * c, (1 - s) * b + s * d) for (a, b), (c, d) in pairwise(row)]
        found.append(row[0])
    return found


PICTURES = [pytest.param(picture_of(make()), id=make.__name__) for make in EVERY]
PICTURES += [pytest.param(random_picture(seed), id=f"random{seed}") for seed in range(60)]


@pytest.mark.parametrize("shown", PICTURES)
def test_no_shape_covers_another(shown):
    _, boxes = arranged(shown)
    for one, (x, y, w, h) in boxes.items():
        for other, (u, v, a, b) in boxes.items():
            assert one == other or abs(x - u) >= (w + a) / 2 or abs(y - v) >= (h + b) / 2, f"{one} covers {other}"


@pytest.mark.parametrize("shown", PICTURES)
def test_no_arrow_passes_through_a_shape_that_it_does_not_join(shown):
    layout, boxes = arranged(shown)
    assert set(layout.routes) == set(shown.lines)
    for line, route in layout.routes.items():
        here = route.start
        for _, points in route.pieces:
            for p, q in along(here, points):
                for name, (x, y, w, h) in boxes.items():
                    apart = abs(p - x) >= w / 2 or abs(q - y) >= h / 2
                    assert apart or name in (line.source, line.target), f"{line.source} → {line.target} passes {name}"
            here = points[-1]


@pytest.mark.parametrize("shown", PICTURES)
def test_the_plate_holds_its_own_nodes_and_no_other(shown):
    layout, boxes = arranged(shown)
    assert (layout.plate is None) == (not shown.plate)
    if layout.plate is None:
        return
    left, top, right, bottom = layout.plate
    inside = {m.name for m in shown.plate}
    for name, (x, y, w, h) in boxes.items():
        within = left <= x - w / 2 and x + w / 2 <= right and top <= y - h / 2 and y + h / 2 <= bottom
        without = x + w / 2 <= left or right <= x - w / 2 or y + h / 2 <= top or bottom <= y - h / 2
        assert within if name in inside else without, name
