"""A graph taken apart for measuring: each node's random numbers from a seed of its own, each cost switched on or off.

x = G(ε_x; parents)     ε_x, the noise of node x, depends on its seed alone: it can be drawn again by itself
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from scg.checks.signature import examination
from scg.comparison.seeds import reseed, seed_of
from scg.graph import Graph


class RandomStreams:
    """A copy of a graph whose nodes draw from seeds of their own while `seeds` is set, and whose costs are multiplied by
    `switches`."""

    def __init__(self, graph: Graph, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self.seeds: Mapping[str, int] | None = None
        self.switches: Mapping[str, float] = {}
        self._calls: dict[str, int] = {}
        self.graph = Graph()
        self.graph.first = graph.first
        for name, node in graph.nodes.items():
            if node.kind == "stochastic" and node.fn is not None:
                node = replace(node, fn=partial(self._seeded, name, node.fn))
            elif node.kind == "cost" and node.fn is not None:
                node = replace(node, fn=partial(self._switched, name, node.fn))
            self.graph.nodes[name] = node

    def draw(self, seeds: Mapping[str, int], switches: Mapping[str, float], call: Callable[[Graph], Any]) -> Any:
        """`call(graph)` with these seeds and switches (a cost without a switch is on).

        The graph is to be evaluated once before, on values of the same kinds: an examination calls the nodes' functions,
        and each call counts as a step.
        """
        self.seeds, self.switches, self._calls = seeds, switches, {}
        try:
            with examination(again=False):
                return call(self.graph)
        finally:
            self.seeds, self.switches = None, {}

    def _seeded(self, name: str, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A node's function; what is drawn next is that node's branches, which are to depend on its seed alone."""
        distribution = fn(*args, **kwargs)
        if self.seeds is not None:
            count = self._calls[name] = self._calls.get(name, 0) + 1  # one a step in a sequence
            reseed(seed_of(self.seeds[name], count), self.device)
        return distribution

    def _switched(self, name: str, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        value = fn(*args, **kwargs)
        switch = self.switches.get(name, 1.0)
        return value if switch == 1.0 else value * switch
