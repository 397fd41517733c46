"""Where the shapes and arrows of a picture lie: a layered layout, from left to right.

    1. layers      longest path over the forward arrows; what has no parents moves up to its first reader
    2. order       within layers, by barycentres, keeping the order with the fewest crossings
    3. heights     least squares against neighbours under the order's spacing (pool adjacent violators)
    4. arrows      cross from layer to layer in the gaps, where no shape is; returning arrows run below

Long arrows pass through a dummy in every layer between, so they have room of their own. Shapes off the plate go
above it, so that the plate is a rectangle of its own. Sugiyama, Tagawa & Toda (1981). Points; y grows downwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from scg.draw.picture import Line

GAP, ROW, TRACK, LEAD = 34.0, 20.0, 13.0, 10.0


@dataclass
class Route:
    """An arrow: straight and cubic pieces from `start`, its way by `(command, points)`; a place for its label."""

    start: tuple[float, float]
    pieces: list[tuple[str, tuple[tuple[float, float], ...]]] = field(default_factory=list)
    label: tuple[float, float] = (0.0, 0.0)

    def to(self, x: float, y: float) -> None:
        self.pieces.append(("L", ((x, y),)))

    def curve(self, x0: float, y0: float, x: float, y: float) -> None:
        middle = (x0 + x) / 2
        self.pieces.append(("C", ((middle, y0), (middle, y), (x, y))))

    def corner(self, at: tuple[float, float], x: float, y: float) -> None:
        self.pieces.append(("Q", (at, (x, y))))


@dataclass
class Layout:
    positions: dict[str, tuple[float, float]]
    routes: dict[Line, Route]
    plate: tuple[float, float, float, float] | None
    size: tuple[float, float, float, float]
    """left, top, right, bottom"""


class Arranger:
    """One layout in progress. `sizes` are full widths and heights, `widths` those of the lines' labels."""

    def __init__(
        self, sizes: dict[str, tuple[float, float]], lines: Sequence[Line], plate: set[str], widths: dict[Line, float]
    ) -> None:
        self.names, self.plate, self.widths = list(sizes), plate, widths
        self.loops = [line for line in lines if line.source == line.target]
        lines = [line for line in lines if line.source != line.target]
        self.layer = self._layers([line for line in lines if line.forward])
        self.forward = [line for line in lines if line.forward and self.layer[line.source] < self.layer[line.target]]
        self.returning = [line for line in lines if line not in self.forward]
        self.sizes: dict[object, tuple[float, float]] = dict(sizes.items())
        for loop in self.loops:
            width, height = sizes[loop.source]
            self.sizes[loop.source] = (width, height + 2 * 26)
        self.shapes = sizes
        self._chains()
        self._order()
        self._heights()
        self._columns()

    # -- 1. layers -----------------------------------------------------------------------------------------

    def _layers(self, lines: Sequence[Line]) -> dict[str, int]:
        into: dict[str, list[str]] = {name: [] for name in self.names}
        for line in lines:
            into[line.target].append(line.source)
        layer: dict[str, int] = {}

        def visit(name: str, path: frozenset[str]) -> int:
            if name not in layer:
                sources = [s for s in into[name] if s not in path]  # an arrow that closes a cycle returns
                layer[name] = 1 + max((visit(s, path | {name}) for s in sources), default=-1)
            return layer[name]

        for name in self.names:
            visit(name, frozenset())
        last = max((layer[n] for n in self.plate), default=len(layer))
        for name in sorted(self.names, key=lambda n: layer[n]):  # what reads the sequence's end stands behind it
            if name not in self.plate and any(s in self.plate or layer[s] > last for s in into[name]):
                layer[name] = max([last + 1, *(layer[s] + 1 for s in into[name])])
        out: dict[str, list[str]] = {name: [] for name in self.names}
        for line in lines:
            out[line.source].append(line.target)
        for name in sorted(self.names, key=lambda n: -layer[n]):
            if out[name] and len(into[name]) < len(out[name]) + (not into[name]):
                layer[name] = max(layer[name], min(layer[t] for t in out[name]) - 1)
        dense = {k: i for i, k in enumerate(sorted(set(layer.values())))}
        return {name: dense[k] for name, k in layer.items()}

    def _chains(self) -> None:
        """Dummies for the layers that an arrow passes."""
        self.chains: dict[Line, list[object]] = {}
        self.inside: dict[object, bool] = {name: name in self.plate for name in self.names}
        self.layers: list[list[object]] = [[] for _ in range(max(self.layer.values(), default=-1) + 1)]
        for name in self.names:
            self.layers[self.layer[name]].append(name)
        for line in self.forward:
            chain: list[object] = [line.source]
            for k in range(self.layer[line.source] + 1, self.layer[line.target]):
                dummy = (line, k)
                self.sizes[dummy] = (0.0, 6.0)
                self.inside[dummy] = line.source in self.plate and line.target in self.plate
                self.layers[k].append(dummy)
                chain.append(dummy)
            self.chains[line] = [*chain, line.target]

    # -- 2. order ------------------------------------------------------------------------------------------

    def _order(self) -> None:
        self.left: dict[object, list[object]] = {v: [] for layer in self.layers for v in layer}
        self.right: dict[object, list[object]] = {v: [] for layer in self.layers for v in layer}
        for chain in self.chains.values():
            for a, b in pairwise(chain):
                self.right[a].append(b)
                self.left[b].append(a)
        for layer in self.layers:
            layer.sort(key=lambda v: self.inside[v])
        best, fewest = [list(layer) for layer in self.layers], self._crossings()
        for sweep in range(12):
            down = sweep % 2 == 0
            for layer in self.layers[1:] if down else self.layers[-2::-1]:
                place = {v: i / max(1, len(row) - 1) if len(row) > 1 else 0.5 for row in self.layers for i, v in enumerate(row)}
                near = self.left if down else self.right
                centre = {v: sum(place[u] for u in near[v]) / len(near[v]) if near[v] else place[v] for v in layer}
                layer.sort(key=lambda v: (self.inside[v], centre[v]))
            crossings = self._crossings()
            if crossings < fewest:
                best, fewest = [list(layer) for layer in self.layers], crossings
        self.layers = best

    def _crossings(self) -> int:
        total = 0
        for layer in self.layers[:-1]:
            place = {v: i for row in self.layers for i, v in enumerate(row)}
            pairs = [(place[v], place[u]) for v in layer for u in self.right[v]]
            total += sum((a - c) * (b - d) < 0 for i, (a, b) in enumerate(pairs) for c, d in pairs[:i])
        return total

    # -- 3. heights ----------------------------------------------------------------------------------------

    def _heights(self) -> None:
        self.y: dict[object, float] = {}
        for layer in self.layers:
            self._settle(layer, dict.fromkeys(layer, 0.0))
        for sweep in range(24):
            for layer in self.layers if sweep % 2 == 0 else self.layers[::-1]:
                near = {v: [*self.left[v], *self.right[v]] for v in layer}
                wish = {v: sum(self.y[u] for u in near[v]) / len(near[v]) if near[v] else self.y[v] for v in layer}
                self._settle(layer, wish)
        covered = [k for k, layer in enumerate(self.layers) if any(self.inside[v] for v in layer)]
        if not covered:
            return
        top = min(self.y[v] - self.sizes[v][1] / 2 for v in self.y if self.inside[v])
        for k in range(covered[0], covered[-1] + 1):
            limit = top - 22.0
            for v in reversed([v for v in self.layers[k] if not self.inside[v]]):
                self.y[v] = min(self.y[v], limit - self.sizes[v][1] / 2)
                limit = self.y[v] - self.sizes[v][1] / 2 - ROW

    def _settle(self, layer: list[object], wish: dict[object, float]) -> None:
        """min Σ (y − wish)² with room between neighbours: subtract the room, pool what violates the order."""
        room, offsets = 0.0, []
        for i, v in enumerate(layer):
            if i:
                before = layer[i - 1]
                room += (self.sizes[before][1] + self.sizes[v][1]) / 2 + ROW
                room += 30.0 * (self.inside[before] != self.inside[v])
            offsets.append(room)
        pools: list[list[float]] = []  # [weighted sum, weight, members]
        for v, offset in zip(layer, offsets, strict=True):
            weight = 4.0 if isinstance(v, tuple) else 1.0  # long arrows run straight
            pools.append([weight * (wish[v] - offset), weight, 1])
            while len(pools) > 1 and pools[-2][0] / pools[-2][1] > pools[-1][0] / pools[-1][1]:
                pools[-2:] = [[a + b for a, b in zip(*pools[-2:], strict=True)]]
        levels = [total / weight for total, weight, members in pools for _ in range(int(members))]
        for v, offset, level in zip(layer, offsets, levels, strict=True):
            self.y[v] = level + offset

    # -- 4. columns and arrows -----------------------------------------------------------------------------

    def _columns(self) -> None:
        """Left and right edges of every layer; gaps wide enough for labels and for arrows that turn back."""
        self.leaving = {k: [r for r in self.returning if self.layer[r.source] == k] for k in range(len(self.layers))}
        self.entering = {k: [r for r in self.returning if self.layer[r.target] == k] for k in range(len(self.layers))}
        self.edges: list[tuple[float, float]] = []
        x = 0.0
        for k, layer in enumerate(self.layers):
            x += TRACK * len(self.entering[k])
            width = max(self.sizes[v][0] for v in layer)
            self.edges.append((x - LEAD, x + width + LEAD))
            labels = [self.widths.get(r, 0.0) for r in self.forward if self.layer[r.target] == k + 1]
            spread = max((abs(self.y[a] - self.y[b]) for a in layer for b in self.right[a]), default=0.0)
            x += width + GAP + TRACK * len(self.leaving[k]) + max(labels, default=0.0) + min(40.0, spread / 4)
            if any(self.inside.values()) and k + 1 < len(self.layers):
                changes = any(map(self.inside.get, layer)) != any(map(self.inside.get, self.layers[k + 1]))
                x += 16.0 * changes

    def layout(self) -> Layout:
        positions = {name: (sum(self.edges[self.layer[name]]) / 2, self.y[name]) for name in self.names}
        ports = self._ports()
        routes = {line: self._passing(line, ports) for line in self.forward}
        routes |= {line: self._looping(line, positions) for line in self.loops}
        inner = [r for r in self.returning if r.source in self.plate and r.target in self.plate]
        heights = {v: self.shapes[v][1] if isinstance(v, str) else height for v, (_, height) in self.sizes.items()}
        floors = {k: max((self.y[v] + heights[v] / 2 for v in layer), default=0.0) for k, layer in enumerate(self.layers)}
        for line in sorted(inner, key=self._span):
            routes[line] = self._returning(line, ports, self._track(line, floors))
        plate = self._plate(positions, floors) if self.plate else None
        if plate:
            floors = {k: max(floor, plate[3]) for k, floor in floors.items()}
        for line in sorted((r for r in self.returning if r not in inner), key=self._span):
            routes[line] = self._returning(line, ports, self._track(line, floors))
        points = [p for r in routes.values() for _, ps in r.pieces for p in ps]
        boxes = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for n, (x, y) in positions.items() for w, h in [self.sizes[n]]]
        boxes += [(x, y, x, y) for x, y in points] + ([plate] if plate else [])
        size = [f(b[i] for b in boxes) for i, f in enumerate((min, min, max, max))] if boxes else [0.0] * 4
        return Layout(positions, routes, plate, (size[0], size[1], size[2], size[3]))

    def _span(self, line: Line) -> int:
        return abs(self.layer[line.source] - self.layer[line.target])

    def _track(self, line: Line, floors: dict[int, float]) -> float:
        """A height below everything that the line passes, which then counts as the floor there."""
        ends = sorted((self.layer[line.source], self.layer[line.target]))
        span = range(ends[0], ends[1] + 1)
        level = max(floors[k] for k in span) + 16.0
        floors.update((k, level) for k in span)
        return level

    def _plate(self, positions: dict[str, tuple[float, float]], floors: dict[int, float]) -> tuple[float, float, float, float]:
        columns = [self.layer[n] for n in self.plate]
        inside = [n for n in self.names if n in self.plate]
        left, right = self.edges[min(columns)][0], self.edges[max(columns)][1]
        inner = [r for r in self.returning if r.source in self.plate and r.target in self.plate]
        left -= 6.0 + TRACK * sum(self.layer[r.target] == min(columns) for r in inner)
        right += 6.0 + TRACK * sum(self.layer[r.source] == max(columns) for r in inner)
        top = min(positions[n][1] - self.sizes[n][1] / 2 for n in inside) - 12.0
        bottom = max(floors[k] for k in range(min(columns), max(columns) + 1))
        return left, top, right, bottom + 26.0

    def _ports(self) -> dict[tuple[Line, str], float]:
        """The height at which each line leaves its source and enters its target, spread over the shape's side."""
        sides: dict[tuple[str, str], list[tuple[float, Line]]] = {}
        for line in self.forward:
            chain = self.chains[line]
            sides.setdefault((line.source, "out"), []).append((self.y[chain[1]], line))
            sides.setdefault((line.target, "in"), []).append((self.y[chain[-2]], line))
        for line in self.returning:
            sides.setdefault((line.source, "out"), []).append((math.inf, line))
            sides.setdefault((line.target, "in"), []).append((math.inf, line))
        ports: dict[tuple[Line, str], float] = {}
        for (name, side), found in sides.items():
            found.sort(key=lambda pair: pair[0])
            step = min(12.0, 0.6 * self.shapes[name][1] / max(1, len(found) - 1))
            for i, (_, line) in enumerate(found):
                ports[line, side] = (i - (len(found) - 1) / 2) * step
        return ports

    def _start(self, line: Line, ports: dict[tuple[Line, str], float]) -> tuple[Route, float, float]:
        """The route up to the right edge of its first layer."""
        x, y = sum(self.edges[self.layer[line.source]]) / 2, self.y[line.source] + ports[line, "out"]
        route, right = Route((x, y)), self.edges[self.layer[line.source]][1]
        route.to(right, y)
        return route, right, y

    def _passing(self, line: Line, ports: dict[tuple[Line, str], float]) -> Route:
        route, x, y = self._start(line, ports)
        chain = self.chains[line]
        for k, v in enumerate(chain[1:], self.layer[line.source] + 1):
            left, right = self.edges[k]
            height = self.y[v] + (ports[line, "in"] if v == line.target else 0.0)
            route.label = ((x + left) / 2, (y + height) / 2)
            route.curve(x, y, left, height)
            x, y = right, height
            route.to(sum(self.edges[k]) / 2 if v == line.target else right, height)
        return route

    def _returning(self, line: Line, ports: dict[tuple[Line, str], float], level: float) -> Route:
        """Out to the right, down to its track below everything, back, and up into the target from the left."""
        route, right, y = self._start(line, ports)
        a, b = self.layer[line.source], self.layer[line.target]
        out = right + TRACK * (0.5 + self.leaving[a].index(line))
        back = self.edges[b][0] - TRACK * (0.5 + self.entering[b].index(line))
        height, r = self.y[line.target] + ports[line, "in"], 6.0
        route.to(out - r, y)
        route.corner((out, y), out, y + r)
        route.to(out, level - r)
        route.corner((out, level), out - r, level)
        route.to(back + r, level)
        route.corner((back, level), back, level - r)
        route.to(back, height + r)
        route.corner((back, height), back + r, height)
        route.to(sum(self.edges[b]) / 2, height)
        route.label = ((out + back) / 2, level)
        return route

    def _looping(self, line: Line, positions: dict[str, tuple[float, float]]) -> Route:
        """A bow above the shape."""
        x, y = positions[line.source]
        top = y - self.shapes[line.source][1] / 2
        nth = self.loops.index(line) if len({loop.source for loop in self.loops}) < len(self.loops) else 0
        reach = 20.0 + 3.0 * nth
        route = Route((x + 9.0, y))
        route.to(x + 9.0, top - 2.0)
        route.pieces.append(("C", ((x + 12.0, top - reach), (x - 12.0, top - reach), (x - 9.0, top - 2.0))))
        route.to(x - 9.0, y)
        route.label = (x, top - reach + 3.0)
        return route
