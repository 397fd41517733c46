"""The part that each node has in an evaluation: what is given, what is computed before, inside and after the sequence.

Evaluations ask for these at every call, inside compiled code too. They are therefore worked out once a graph, and are plain
attributes.
"""

from __future__ import annotations

from torch import nn

from scg.errors import GraphError
from scg.node import Node, NodeKind


class Roles:
    """The nodes of a graph by their parts; `order` is topological."""

    def __init__(self, nodes: dict[str, Node], first: str | None, order: tuple[str, ...]) -> None:
        self.nodes = nodes
        self.first = first
        self.order = order
        self._sort()
        self._lay_plate()

    def is_a(self, kind: NodeKind, name: str) -> bool:
        """Whether this is the name of a node of that kind."""
        return name in self.nodes and self.nodes[name].kind == kind

    def _sort(self) -> None:
        nodes = self.nodes.values()
        computed = tuple(self.nodes[n] for n in self.order if self.nodes[n].kind != "observed")
        read = [e for n in computed for e in n.parents]
        sources = [*(e.source for e in read if not e.optional), *(e.init for e in read if e.init is not None)]

        self.costs = tuple(n.name for n in nodes if n.kind == "cost")
        self.stochastic = tuple(n.name for n in computed if n.kind == "stochastic")
        self.has_sequence = any(n.in_sequence for n in nodes)
        self.observed_inside = tuple(n.name for n in nodes if n.kind == "observed" and n.in_sequence)
        self.observed_outside = tuple(n.name for n in nodes if n.kind == "observed" and not n.in_sequence)
        # Names that are no node are inputs; a call gives them, and the observed nodes that a computed one reads.
        self.inputs = tuple(dict.fromkeys(s for s in sources if s not in self.nodes))
        self.optional_inputs = frozenset(e.source for e in read if e.optional) - set(self.inputs)
        self.known_inputs = frozenset(self.inputs) | self.optional_inputs
        observed = [s for s in dict.fromkeys(sources) if s in self.nodes and self.nodes[s].kind == "observed"]
        self.required = (*self.inputs, *observed, *([self.first] if self.first and self.first not in observed else []))
        # Outside the sequence, nodes come before it, or after it where they read its last step.
        late: set[str] = set()
        for node in computed:
            inside = [e.source for e in node.parents if e.source in self.nodes and self.nodes[e.source].in_sequence]
            if not node.in_sequence and (inside or any(e.source in late for e in node.parents)):
                late.add(node.name)
        self.before = tuple(n for n in computed if not n.in_sequence and n.name not in late)
        self.inside = tuple(n for n in computed if n.in_sequence)
        self.after = tuple(n for n in computed if n.name in late)
        self.learns = any(isinstance(n.estimator, nn.Module) for n in computed)
        # Nodes whose distribution another node takes, and nodes whose previous value a computed node asks for.
        self.asked_for = frozenset(e.source for e in read if e.dist)
        self.recurrent_sources = frozenset(e.source for e in read if e.lag or e.prefix)
        # Of these, the deterministic nodes that compute themselves at all steps at once: nobody else asks for their past.
        asking: dict[str, set[str]] = {}
        for node in computed:
            for edge in node.parents:
                if edge.lag:
                    asking.setdefault(edge.source, set()).add(node.name)
        self.along_time = frozenset(s for s, by in asking.items() if by == {s} and self._runs_along_time(self.nodes[s]))
        # And those that read a prefix; after the sequence a prefix is no more than an argument.
        self.prefixed = frozenset(n.name for n in self.inside if any(e.prefix for e in n.parents))
        self.reads_whole = any(e.prefix for n in self.after for e in n.parents)
        self.reads_prefix = self.reads_whole or bool(self.prefixed)
        # Nodes of the sequence whose value is the same at every step: nothing they read varies in time.
        varying = set(self.observed_inside)
        for node in self.inside:
            if node.kind == "stochastic" or any(e.lag or e.source in varying for e in node.parents):
                varying.add(node.name)
        self.timeless = frozenset(n.name for n in self.inside) - varying

    def _runs_along_time(self, node: Node) -> bool:
        """Whether a node that alone asks for its past may compute all of it in one call: `along_time` gets arguments, not edges,
        so it cannot cut a gradient between steps, and knows where episodes start only if its node reads `first`."""
        return (
            node.kind == "deterministic"
            and hasattr(node.fn, "along_time")
            and not any(e.lag and (e.source != node.name or e.detached) for e in node.parents)
            and (self.first is None or any(e.source == self.first and not e.lag for e in node.parents))
        )

    def _lay_plate(self) -> None:
        """The one plate: its size, the nodes that lie on it, and the costs that reduce it."""
        for node in self.nodes.values():
            if node.plate is not None and (type(node.plate) is not int or node.plate < 1):
                raise GraphError(f"node {node.name!r}: plate={node.plate!r}; it is the number of samples, at least 1")
            if node.plate is not None and self.has_sequence:
                raise GraphError(f"node {node.name!r}: plate= in a graph with a sequence; put the samples into the batch")
        sizes = {n.plate for n in self.nodes.values() if n.plate is not None}
        if len(sizes) > 1:
            raise GraphError(f"plates of different sizes {sorted(sizes)}: a graph has one plate; enumerate or branch the other")
        self.plate = next(iter(sizes), None)
        on: set[str] = set()
        for name in self.order:
            node = self.nodes[name]
            if node.plate is not None or (node.kind != "observed" and any(e.source in on for e in node.parents)):
                on.add(name)
        self.reducing = frozenset(name for name in on if self.nodes[name].kind == "cost")
        self.on_plate = frozenset(on) - self.reducing
