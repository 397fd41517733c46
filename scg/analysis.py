"""What the structure alone says: order, ancestors, and who influences whom at which lag.

"Does x at step t influence c at step t'?" is a path question in the lifted graph. It is answered once per pair by a
`Window`: the least and the greatest t' - t over all paths, the greatest INFINITE where a recurrence lies on one.
A window is kept for all paths, and one for the paths without a `detach` edge: only those carry gradients.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from scg.errors import GraphError, nearest
from scg.node import Node
from scg.scan import INFINITE


@dataclass(frozen=True)
class Window:
    """Lags `lo … hi` (inclusive, `hi` may be INFINITE) at which one node influences another."""

    lo: int
    hi: float


@dataclass(frozen=True)
class Arrow:
    """A resolved influence `source → target`. `dist` edges are resolved into the arrows of the distribution's parents.

    `first` marks an initial value: the arrow is there at the first step of an episode only.
    """

    source: str
    target: str
    lag: int
    live: bool
    first: bool = False


@dataclass(frozen=True)
class Influence:
    """How one stochastic node reaches a target: over all paths, and over those that carry gradients.

    `parts` cover the lags at which it does, in order: the weight counts live in one, detached in another.
    """

    node: str
    full: Window
    live: Window | None
    parts: tuple[tuple[Window, bool], ...]


class Structure:
    """The analysis of a finished graph. Raises GraphError on what no value could repair."""

    def __init__(self, nodes: Mapping[str, Node], first: str | None) -> None:
        self.nodes = dict(nodes)
        self.first = first
        self._check_edges()
        self.arrows = tuple(a for node in self.nodes.values() for a in self._resolve(node))
        self._out: dict[bool, dict[str, list[Arrow]]] = {False: {}, True: {}}
        for arrow in self.arrows:
            self._out[False].setdefault(arrow.source, []).append(arrow)
            if arrow.live:
                self._out[True].setdefault(arrow.source, []).append(arrow)
        self.order = self._topological()
        self._influences: dict[str, tuple[Influence, ...]] = {}
        self._reached: dict[tuple[str, bool], frozenset[str]] = {}
        self._sort()
        self._lay_plate()
        self._check_baselines()

    # -- names ---------------------------------------------------------------------------------------------

    def _sort(self) -> None:
        """Everything that evaluation asks for by name, once: it is asked at every call, inside compiled code too."""
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
        self.recurrent_sources = frozenset(e.source for e in read if e.lag)
        # Nodes of the sequence whose value is the same at every step: nothing they read varies in time.
        varying = set(self.observed_inside)
        for node in self.inside:
            if node.kind == "stochastic" or any(e.lag or e.source in varying for e in node.parents):
                varying.add(node.name)
        self.timeless = frozenset(n.name for n in self.inside) - varying

    def _lay_plate(self) -> None:
        """The one plate: its size, the nodes that lie on it, and the costs that reduce it."""
        sizes = {n.plate for n in self.nodes.values() if n.plate is not None}
        if len(sizes) > 1:
            raise GraphError(f"plates of different sizes {sorted(sizes)}: a graph has one plate; enumerate or branch the other")
        self.plate = next(iter(sizes), None)
        for node in self.nodes.values():
            if node.plate is not None and (not isinstance(node.plate, int) or node.plate < 1):
                raise GraphError(f"node {node.name!r}: plate={node.plate!r}; it is the number of samples, at least 1")
            if node.plate is not None and self.has_sequence:
                raise GraphError(f"node {node.name!r}: plate= in a graph with a sequence; put the samples into the batch")
        on: set[str] = set()
        for name in self.order:
            node = self.nodes[name]
            if node.plate is not None or (node.kind != "observed" and any(e.source in on for e in node.parents)):
                on.add(name)
        self.reducing = frozenset(name for name in on if self.nodes[name].kind == "cost")
        self.on_plate = frozenset(on) - self.reducing

    # -- construction --------------------------------------------------------------------------------------

    def _check_edges(self) -> None:
        if self.first is not None and (self.first not in self.nodes or self.nodes[self.first].kind != "observed"):
            raise GraphError(
                f"sequence(first={self.first!r}): declare it inside the sequence as graph.observed({self.first!r})"
                + nearest(self.first, self.nodes)
            )
        for node in self.nodes.values():
            for edge in node.parents:
                source = self.nodes.get(edge.source)
                if edge.optional and source is not None:
                    raise GraphError(
                        f"node {node.name!r}: parameter {edge.param!r} has a default, but {edge.source!r} is a node; "
                        "drop the default, or rename the parameter"
                    )
                if edge.dist and (source is None or source.kind != "stochastic"):
                    found = "no node" if source is None else f"a {source.kind} node"
                    raise GraphError(
                        f"node {node.name!r}: dist({edge.source!r}) needs a stochastic node, but {edge.source!r} is {found}."
                        + nearest(edge.source, (n.name for n in self.nodes.values() if n.kind == "stochastic"))
                    )
                if not edge.lag:
                    continue
                if source is None or not source.in_sequence:
                    raise GraphError(
                        f"node {node.name!r}: prev({edge.source!r}) needs a node of the sequence."
                        + nearest(edge.source, (n.name for n in self.nodes.values() if n.in_sequence))
                    )
                if edge.init is None and node.kind != "observed":
                    raise GraphError(
                        f"node {node.name!r}: prev({edge.source!r}) has no value at the first step; "
                        f"say prev({edge.source!r}, init='…') with a node or an input"
                    )
                if edge.init in self.nodes and self.nodes[edge.init].in_sequence:
                    raise GraphError(f"node {node.name!r}: init={edge.init!r} is inside the sequence; declare it outside")
            for what, name in (("baseline", node.baseline), ("credit", node.credit)):
                if isinstance(name, str) and name not in self.nodes:
                    raise GraphError(f"node {node.name!r}: {what}={name!r} is no node.{nearest(name, self.nodes)}")

    def _resolve(self, node: Node) -> Iterable[Arrow]:
        for edge in node.parents:
            if edge.source not in self.nodes:
                pass
            elif edge.dist:
                for arrow in self._resolve(self.nodes[edge.source]):
                    yield Arrow(arrow.source, node.name, arrow.lag, arrow.live and not edge.detached, arrow.first)
            else:
                yield Arrow(edge.source, node.name, edge.lag, not edge.detached)
            if edge.init in self.nodes:
                yield Arrow(edge.init, node.name, 0, not edge.detached, first=True)

    def _topological(self) -> tuple[str, ...]:
        """Declaration order where it is one already; every node after all it needs within its step."""
        needs = {
            n.name: [e.source for e in n.parents if e.source in self.nodes and not e.lag]
            + [e.init for e in n.parents if e.init in self.nodes]
            for n in self.nodes.values()
        }
        order: list[str] = []
        state: dict[str, int] = {}

        def visit(name: str, path: tuple[str, ...]) -> None:
            if state.get(name) == 2:
                return
            if state.get(name) == 1:
                cycle = " → ".join((*path[path.index(name) :], name))
                raise GraphError(f"node {name!r}: cycle {cycle}; break it with prev(…) inside a sequence")
            state[name] = 1
            for source in needs[name]:
                visit(source, (*path, name))
            state[name] = 2
            order.append(name)

        for name in self.nodes:
            visit(name, ())
        late = set()
        for name in order:
            node = self.nodes[name]
            inside = [s for s in needs[name] if self.nodes[s].in_sequence or s in late]
            if not node.in_sequence and inside:
                late.add(name)
            elif node.in_sequence and any(s in late for s in needs[name]):
                source = next(s for s in needs[name] if s in late)
                raise GraphError(
                    f"node {name!r}: it is inside the sequence and needs {source!r}, which waits for its last step"
                )
        return tuple(order)

    def _check_baselines(self) -> None:
        for node in self.nodes.values():
            if isinstance(node.baseline, str):
                window = self.window(node.name, node.baseline)
                if node.baseline == node.name or (window is not None and window.lo == 0):
                    raise GraphError(
                        f"node {node.name!r}: its baseline {node.baseline!r} is influenced by {node.name!r} itself, "
                        "so subtracting it changes the gradient; condition the baseline on what comes before the sample"
                    )

    # -- influence -----------------------------------------------------------------------------------------

    def reached(self, name: str, live: bool = False) -> frozenset[str]:
        """Everything that `name` influences, itself only through a recurrence."""
        key = (name, live)
        if key not in self._reached:
            seen: set[str] = set()
            queue = [name]
            while queue:
                for arrow in self._out[live].get(queue.pop(), ()):
                    if arrow.target not in seen:
                        seen.add(arrow.target)
                        queue.append(arrow.target)
            self._reached[key] = frozenset(seen)
        return self._reached[key]

    def window(self, source: str, target: str, live: bool = False) -> Window | None:
        """The lags at which `source` influences `target`; None if it does not. A node reaches itself only in time."""
        if target not in self.reached(source, live):
            return None
        on_path = {n for n in {source, *self.reached(source, live)} if n == target or target in self.reached(n, live)}
        arrows = {n: [a for a in self._out[live].get(n, ()) if a.target in on_path] for n in on_path}
        least: dict[str, int] = {}
        frontier = [(a.lag, a.target) for a in arrows[source]]
        while frontier:  # few nodes: the smallest first, by sorting
            frontier.sort(reverse=True)
            lag, name = frontier.pop()
            if name not in least:
                least[name] = lag
                frontier += [(lag + a.lag, a.target) for a in arrows[name]]
        if any(n in self.reached(n, live) for n in on_path):
            return Window(least[target], INFINITE)
        greatest: dict[str, int] = {source: 0}
        for name in self._by_arrows(on_path, arrows):
            for a in arrows[name]:
                greatest[a.target] = max(greatest.get(a.target, 0), greatest[name] + a.lag)
        return Window(least[target], greatest[target])

    def _by_arrows(self, names: set[str], arrows: Mapping[str, list[Arrow]]) -> list[str]:
        """Topological order over all arrows of an acyclic set, lagged ones too."""
        order: list[str] = []
        seen: set[str] = set()

        def visit(name: str) -> None:
            if name not in seen:
                seen.add(name)
                for a in arrows[name]:
                    visit(a.target)
                order.append(name)

        for name in names:
            visit(name)
        return order[::-1]

    def influences(self, target: str) -> tuple[Influence, ...]:
        """The stochastic nodes that reach `target`, in topological order."""
        if target not in self._influences:
            found = []
            for name in self.stochastic:
                full = self.window(name, target)
                if full is not None:
                    live = self.window(name, target, live=True)
                    found.append(Influence(name, full, live, self._parts(name, target, full, live)))
            self._influences[target] = tuple(found)
        return self._influences[target]

    def _parts(self, source: str, target: str, full: Window, live: Window | None) -> tuple[tuple[Window, bool], ...]:
        """The full window, cut where live lags meet lags at which only detached paths arrive. Lags of neither do no harm."""
        outside = not self.nodes[source].in_sequence
        if live is None:
            return ((self._steps_reached(source, target, full) if outside else full, False),)
        if not self.nodes[source].estimator.weighs:  # its gradient is in the values, its weight has none
            return ((self._steps_reached(source, target, full) if outside else full, True),)
        if outside:
            self._refuse_changing_times(source, target)
            return ((self._steps_reached(source, target, full), True),)
        classes, period = self._lag_classes(source, target)
        if False not in classes:
            return ((full, True),)
        tail = set(classes[len(classes) - period :]) - {None} if full.hi == INFINITE else set()
        if len(tail) > 1:
            raise GraphError(
                f"node {source!r}: it reaches {target!r} with a gradient at some lags and through detach(…) only at others, again and "
                "again; no window tells them apart. Detach it on all paths, or on none."
            )
        runs: list[tuple[Window, bool]] = []
        for lag, kind in enumerate(classes):
            if kind is None or lag < full.lo:
                continue
            if runs and runs[-1][1] == kind:
                runs[-1] = (Window(runs[-1][0].lo, lag), kind)
            else:
                runs.append((Window(lag, lag), kind))
        if full.hi == INFINITE:
            last = bool(tail.pop())
            if runs[-1][1] == last:
                runs[-1] = (Window(runs[-1][0].lo, INFINITE), last)
            else:
                runs.append((Window(int(runs[-1][0].hi) + 1, INFINITE), last))
        return tuple(runs)

    def _lag_classes(self, source: str, target: str) -> tuple[list[bool | None], int]:
        """For each lag: True where a live path arrives, False where only detached ones do, None where none does.

        The set of nodes reached at one lag follows from that at the lag before, so it repeats in the end; the second
        result is the length of the repeating tail.
        """
        states: dict[tuple[frozenset[str], frozenset[str]], int] = {}
        classes: list[bool | None] = []
        reached = {live: self._at_once({source}, live) for live in (False, True)}
        while True:
            state = (frozenset(reached[False]), frozenset(reached[True]))
            if state in states:
                return classes, len(classes) - states[state]
            states[state] = len(classes)
            here = {live: nodes - ({source} if not classes else set()) for live, nodes in reached.items()}
            classes.append(True if target in here[True] else False if target in here[False] else None)
            for live, nodes in reached.items():
                later = {a.target for n in nodes for a in self._out[live].get(n, ()) if a.lag}
                reached[live] = self._at_once(later, live)

    def _at_once(self, names: set[str], live: bool) -> set[str]:
        """`names` of the sequence and what they reach within the step, or, after the sequence, from its last step."""
        seen, queue = set(names), list(names)
        while queue:
            for a in self._out[live].get(queue.pop(), ()):
                if not a.lag and a.target not in seen:
                    seen.add(a.target)
                    queue.append(a.target)
        return seen

    def _refuse_changing_times(self, source: str, target: str) -> None:
        """A node outside has one weight for all steps, so it reaches a target with a gradient at every step, or at none."""
        inside = {name for name, node in self.nodes.items() if node.in_sequence}
        if not self.has_sequence or target in self._around(source, live=True):
            return
        entry: dict[tuple[bool, bool], set[str]] = {}
        for live in (False, True):
            before = {source} | (set(self.reached(source, live)) - inside)
            arrows = [a for n in before for a in self._out[live].get(n, ()) if a.target in inside]
            entry[live, True] = {a.target for a in arrows}
            entry[live, False] = {a.target for a in arrows if not a.first}  # initial values enter at the first step only
        reached = {live: self._at_once(entry[live, True], live) for live in (False, True)}
        states: set[tuple[frozenset[str], frozenset[str]]] = set()
        classes: set[bool] = set()
        while (state := (frozenset(reached[False]), frozenset(reached[True]))) not in states:
            states.add(state)
            if target in reached[False]:
                classes.add(target in reached[True])
            for live, nodes in reached.items():
                later = {a.target for n in nodes for a in self._out[live].get(n, ()) if a.lag}
                reached[live] = self._at_once(later | entry[live, False], live)
        if len(classes) == 2:
            raise GraphError(
                f"node {source!r}: it reaches {target!r} with a gradient at some steps and through detach(…) only at others, and has one "
                "weight for all of them. Detach it on all paths or on none, or use Pathwise() there."
            )

    def _steps_reached(self, source: str, target: str, full: Window) -> Window:
        """The steps since the start of an episode at which a node outside the sequence reaches a target.

        What enters at every step reaches all later ones; an initial value enters at the first step only.
        """
        if not self.has_sequence or target in self._around(source, live=False):
            return Window(0, INFINITE)
        inside = {name for name, node in self.nodes.items() if node.in_sequence}
        entries = {
            a.target
            for n in self._around(source, live=False)
            for a in self._out[False].get(n, ())
            if a.target in inside and not a.first
        }
        always = any(n == target or target in self.reached(n) for n in entries)
        return Window(full.lo, INFINITE if always else full.hi)

    def _around(self, source: str, live: bool) -> set[str]:
        """What a node outside the sequence reaches without passing through it."""
        seen, queue = {source}, [source]
        while queue:
            for a in self._out[live].get(queue.pop(), ()):
                if a.target not in seen and not self.nodes[a.target].in_sequence:
                    seen.add(a.target)
                    queue.append(a.target)
        return seen

    def feeds_prev(self, name: str) -> str | None:
        """A node at or below `name` whose previous value is asked for, if there is one."""
        return next((n for n in (name, *sorted(self.reached(name))) if n in self.recurrent_sources), None)
