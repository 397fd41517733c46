"""Who reaches whom, for all pairs of nodes at once. A set of nodes is an integer: bit i stands for node i.

    above(v) = ∪_{u → v} above(u) ∪ {u}        once, in topological order of the strongly connected components

A pair is one bit of memory: some 25 MB for 10,000 nodes. Components: Tarjan (1972).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from scg.scan import INFINITE


def members(bits: int) -> Iterator[int]:
    """The nodes of a set, in ascending order."""
    digits = f"{bits:b}"[::-1]
    at = digits.find("1")
    while at >= 0:
        yield at
        at = digits.find("1", at + 1)


def union(of: Iterable[int]) -> int:
    """The set of some nodes."""
    bits = 0
    for i in of:
        bits |= 1 << i
    return bits


class Reach:
    """The transitive closure of `(source, target, lag)` arrows. Arrows of lag 0 go from smaller to greater numbers."""

    def __init__(self, size: int, arrows: Iterable[tuple[int, int, int]]) -> None:
        self.into: list[list[tuple[int, int]]] = [[] for _ in range(size)]
        self.lagged = False
        for source, target, lag in dict.fromkeys(arrows):
            self.into[target].append((source, lag))
            self.lagged = self.lagged or lag > 0
        self.components = self._components() if self.lagged else [[i] for i in range(size)]
        self.recurrent = union(
            i for c in self.components for i in c if len(c) > 1 or (self.lagged and any(s == i for s, _ in self.into[i]))
        )
        # For each node what influences it: itself only through a recurrence.
        self.above = self.gathered([union(s for s, _ in into) for into in self.into])
        self._below: list[int] | None = None
        self._windows: dict[int, dict[tuple[int, float], int]] = {}

    @property
    def below(self) -> list[int]:
        """For each node what it influences."""
        if self._below is None:
            self._below = self._influenced()
        return self._below

    def _influenced(self) -> list[int]:
        found = [0] * len(self.into)
        for component in reversed(self.components):
            together = 0
            for i in component:
                together |= found[i]
            if self.recurrent >> component[0] & 1:
                together |= union(component)
            for i in component:
                found[i] = together
                closed = together | 1 << i
                for source, _ in self.into[i]:
                    found[source] |= closed
        return found

    def gathered(self, own: Sequence[int]) -> list[int]:
        """For each node the union of what it has of its `own` and what the nodes above it have."""
        found = list(own)
        for component in self.components:
            together = 0
            for i in component:
                together |= found[i]
                for source, _ in self.into[i]:
                    together |= found[source]
            for i in component:
                found[i] = together
        return found

    def windows(self, target: int) -> dict[tuple[int, float], int]:
        """The nodes above `target`, by the least and the greatest lag of their paths to it."""
        if not self.lagged:
            return {(0, 0): self.above[target]} if self.above[target] else {}
        if target not in self._windows:
            found: dict[tuple[int, float], int] = {}
            greatest = self._greatest(target)
            for source, lag in self._least(target).items():
                window = (lag, greatest[source])
                found[window] = found.get(window, 0) | 1 << source
            self._windows[target] = found
        return self._windows[target]

    def _least(self, target: int) -> dict[int, int]:
        """Backwards, breadth first by lag."""
        least: dict[int, int] = {}
        frontier = deque((lag, source) for source, lag in sorted(self.into[target], key=lambda arrow: arrow[1]))
        while frontier:
            so_far, node = frontier.popleft()
            if node in least:
                continue
            least[node] = so_far
            for source, lag in self.into[node]:
                if lag:
                    frontier.append((so_far + lag, source))
                else:
                    frontier.appendleft((so_far, source))
        return least

    def _greatest(self, target: int) -> dict[int, float]:
        """Backwards through the components: the longest path, without end where a recurrence lies on one."""
        on_path = self.above[target]
        greatest: dict[int, float] = dict.fromkeys(members(on_path & self.recurrent), INFINITE)
        if self.recurrent >> target & 1:
            return dict.fromkeys(members(on_path), INFINITE)
        for component in reversed(self.components):
            for node in component:
                if node != target and not on_path >> node & 1:
                    continue
                here = 0 if node == target else greatest[node]
                for source, lag in self.into[node]:
                    greatest[source] = max(greatest.get(source, 0), here + lag)
        return greatest

    def _components(self) -> list[list[int]]:
        """Strongly connected components, each after those above it."""
        number: dict[int, int] = {}
        low: dict[int, int] = {}
        stack: list[int] = []
        waiting: set[int] = set()
        components: list[list[int]] = []
        for root in range(len(self.into)):
            if root in number:
                continue
            path = [(root, iter(self.into[root]))]
            number[root] = low[root] = len(number)
            stack.append(root)
            waiting.add(root)
            while path:
                node, sources = path[-1]
                source = next(sources, (None, 0))[0]
                if source is None:
                    path.pop()
                    if path:
                        low[path[-1][0]] = min(low[path[-1][0]], low[node])
                    if low[node] == number[node]:
                        component: list[int] = []
                        while not component or component[-1] != node:
                            component.append(stack.pop())
                        waiting.difference_update(component)
                        components.append(sorted(component))
                elif source not in number:
                    number[source] = low[source] = len(number)
                    stack.append(source)
                    waiting.add(source)
                    path.append((source, iter(self.into[source])))
                elif source in waiting:
                    low[node] = min(low[node], number[source])
        return components
