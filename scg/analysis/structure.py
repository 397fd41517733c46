"""What the structure alone says: order, ancestors, and who influences whom at which lag.

"Does x at step t influence c at step t'?" is a path question in the lifted graph. It is answered once per pair by a
`Window`: the least and the greatest t' - t over all paths, the greatest INFINITE where a recurrence lies on one.
A window is kept for all paths, and one for the paths without a `detach` edge: only those carry gradients.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from torch import nn
from torch.compiler import assume_constant_result

from scg.analysis.lags import Arrow, Lags, runs
from scg.analysis.reach import Reach, members, union
from scg.errors import GraphError, nearest
from scg.node import Edge, Node, NodeKind
from scg.scan import INFINITE


@dataclass(frozen=True)
class Window:
    """Lags `lo … hi` (inclusive, `hi` may be INFINITE) at which one node influences another."""

    lo: int
    hi: float


@dataclass(frozen=True)
class Influence:
    """How one stochastic node reaches a target: over all paths, and over those that carry gradients.

    `parts` cover the lags at which it does, in order: the weight counts live in one, detached in another.
    """

    node: str
    full: Window
    live: Window | None
    parts: tuple[tuple[Window, bool], ...]


@dataclass(frozen=True)
class Group:
    """Stochastic nodes that reach a target at the same lags: with a gradient (`live`), or without. Bit i of `members` is `order[i]`."""

    members: int
    window: Window
    live: bool


NOW, EVERY = Window(0, 0), Window(0, INFINITE)


class Structure:
    """The analysis of a finished graph. Raises GraphError on what no value could repair."""

    def __init__(self, nodes: Mapping[str, Node], first: str | None) -> None:
        self.nodes = dict(nodes)
        self.first = first
        self._check_edges()
        self.order = self._topological()
        self.arrows = self._resolved()
        self.index = {name: i for i, name in enumerate(self.order)}
        numbered = [(self.index[a.source], self.index[a.target], a) for a in self.arrows]
        self._full = Reach(len(self.order), ((s, t, a.lag) for s, t, a in numbered))
        every = all(a.live for a in self.arrows)
        self._live = self._full if every else Reach(len(self.order), ((s, t, a.lag) for s, t, a in numbered if a.live))
        self._lags = Lags(
            numbered, self._full, self._live, self.those(n.in_sequence for n in (self.nodes[name] for name in self.order))
        )
        self._cost_set = self.those(self.nodes[n].kind == "cost" for n in self.order)
        self._stochastic_set = self.those(self.nodes[n].kind == "stochastic" for n in self.order)
        self.inside_set = self._lags.inside
        self.credited = self.those(self.nodes[n].credit is not None for n in self.order)
        self.shares_sums = self._stochastic_set.bit_count() > 8  # targets whose sums of scores are worth looking up
        self._groups: dict[str, tuple[Group, ...]] = {}
        self._scoring: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._influences: dict[str, tuple[Influence, ...]] = {}
        self._reached: dict[tuple[str, bool], frozenset[str]] = {}
        self._sort()
        self._lay_plate()
        self._check_baselines()
        # What a cost with trains= trains is known at the first sample only, and with it whose weights count.
        self.check_detached(name for name in self.named(self._cost_set) if self.nodes[name].trains is None)

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
                if edge.conditional and source is not None and source.in_sequence and not node.in_sequence:
                    raise GraphError(
                        f"node {node.name!r}: conditional({edge.source!r}) from outside the sequence; declare {node.name!r} inside it, "
                        f"or read dist({edge.source!r}), the distribution of the last step"
                    )
                if edge.prefix:
                    self._check_prefix(node, edge, source)
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

    def _check_prefix(self, node: Node, edge: Edge, source: Node | None) -> None:
        where = f"node {node.name!r}: prefix({edge.source!r})"
        if source is None or source.kind != "stochastic" or not source.in_sequence:
            found = (
                "no node" if source is None else f"a {source.kind} node" + " outside the sequence" * (not source.in_sequence)
            )
            raise GraphError(f"{where} needs a stochastic node of the sequence, but {edge.source!r} is {found}")
        if self.first is not None:
            raise GraphError(
                f"{where} in a sequence with first={self.first!r}: a prefix begins with the block, and knows no episodes within "
                "it. Give each episode a batch element of its own"
            )
        if not node.in_sequence:
            return
        if node.kind != "deterministic":
            raise GraphError(
                f"{where}: within the sequence a deterministic node reads it, one value per position; this is a {node.kind} "
                "node. Declare the module as a deterministic node and read that"
            )
        if edge.init is None:
            raise GraphError(
                f"{where} is empty at the first step; say prefix({edge.source!r}, init='…') with a node or an input of at least "
                "one position: a prompt, a token that opens"
            )
        for other in node.parents:
            found_other = self.nodes.get(other.source)
            if not other.prefix and (found_other is not None and found_other.in_sequence):
                raise GraphError(
                    f"{where}: beside a prefix it reads {other.source!r} at one step, which at all steps at once has no place in "
                    f"one call. Read prefix({other.source!r}), or let another node bring them together"
                )

    def _resolved(self) -> tuple[Arrow, ...]:
        """The arrows of all edges; those of a distribution are known before it is read.

        What reads a prefix is influenced at every lag: an arrow to itself says so.
        """
        into: dict[str, dict[Arrow, None]] = {}
        for name in self.order:
            found = into[name] = {}
            for edge in self.nodes[name].parents:
                if edge.dist:
                    for arrow in into[edge.source]:
                        live = arrow.live and not edge.detached
                        found[Arrow(arrow.source, name, arrow.lag, live, arrow.first)] = None
                elif edge.source in self.nodes:
                    found[Arrow(edge.source, name, edge.lag, not edge.detached)] = None
                if edge.prefix:
                    found[Arrow(name, name, 1, True)] = None
                if edge.init in self.nodes:
                    found[Arrow(edge.init, name, 0, not edge.detached, first=not edge.prefix)] = None
        return tuple(arrow for name in self.nodes for arrow in into[name])

    def _topological(self) -> tuple[str, ...]:
        """Declaration order where it is one already; every node after all it needs within its step."""
        needs = {
            n.name: [e.source for e in n.parents if e.source in self.nodes and not e.lag]
            + [e.init for e in n.parents if e.init in self.nodes]
            for n in self.nodes.values()
        }
        order: list[str] = []
        done: set[str] = set()
        for root in self.nodes:
            path = {} if root in done else {root: iter(needs[root])}  # depth first; names in the order of descent
            while path:
                name = next(reversed(path))
                source = next(path[name], None)
                if source is None:
                    del path[name]
                    done.add(name)
                    order.append(name)
                elif source in path:
                    names = list(path)
                    cycle = " → ".join((*names[names.index(source) :], source))
                    raise GraphError(f"node {source!r}: cycle {cycle}; break it with prev(…) inside a sequence")
                elif source not in done:
                    path[source] = iter(needs[source])
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

    def check_detached(self, costs: Iterable[str], ignored: Container[str] = ()) -> None:
        """A likelihood ratio multiplies a whole cost: it cannot count for one path to it and leave out another, detached one.

        ignored   nodes whose weights do not count for these costs
        """
        numbered = [(self.index[a.source], self.index[a.target], a) for a in self.arrows]
        own = [0] * len(self.order)
        for s, t, a in numbered:
            if not a.live:
                own[t] |= self._full.above[s] | 1 << s
        if not any(own):
            return
        cut = self._full.gathered(own)
        weighing = self.those(
            n.kind == "stochastic" and n.estimator.weighs and n.credit is None and n.name not in ignored
            for n in (self.nodes[name] for name in self.order)
        )
        split: Lags | None = None
        for target in costs:
            t = self.index[target]
            for i in members(cut[t] & self._live.above[t] & weighing):
                lag: int | None = 0
                if self._full.lagged:
                    split = split or self._split_by_detach(numbered)
                    found, _ = split.classes(2 * t)
                    lag = next((lag for lag, (bits, _) in enumerate(found) if bits >> 2 * i & 3 == 3), None)
                if lag is not None:
                    when = f" at lag {lag}" if lag else ""
                    raise GraphError(
                        f"node {self.order[i]!r}: the cost {target!r} depends on it with a gradient, and beside that through "
                        f"detach(…){when}. Its likelihood ratio multiplies the whole cost, and cannot leave out one path.\n"
                        "Use Pathwise() there, detach it on all paths or on none, split the cost, or pass the constant as an input."
                    )

    def _split_by_detach(self, numbered: list[tuple[int, int, Arrow]]) -> Lags:
        """The lags of live and of cut paths side by side: node i is 2i on paths without a detach yet, seen from the target, and
        2i + 1 on those with one."""
        pairs = [
            (2 * s + (before or not a.live), 2 * t + before, a._replace(live=True)) for s, t, a in numbered for before in (0, 1)
        ]
        reach = Reach(2 * len(self.order), ((s, t, a.lag) for s, t, a in pairs))
        inside = union(j for i in members(self.inside_set) for j in (2 * i, 2 * i + 1))
        return Lags(pairs, reach, reach, inside)

    def is_a(self, kind: NodeKind, name: str) -> bool:
        """Whether this is the name of a node of that kind."""
        return name in self.nodes and self.nodes[name].kind == kind

    # -- influence -----------------------------------------------------------------------------------------

    def those(self, flags: Iterable[bool]) -> int:
        """The set of the nodes for which a flag, one a node in topological order, is true."""
        return int("".join("1" if flag else "0" for flag in flags)[::-1] or "0", 2)

    def named(self, bits: int) -> tuple[str, ...]:
        """The nodes of a set, in topological order."""
        return tuple(self.order[i] for i in members(bits))

    def above(self, name: str, live: bool = False) -> int:
        """The set of everything that influences `name`, itself only through a recurrence."""
        return (self._live if live else self._full).above[self.index[name]]

    def below(self, name: str, live: bool = False) -> int:
        """The set of everything that `name` influences."""
        return (self._live if live else self._full).below[self.index[name]]

    def reached(self, name: str, live: bool = False) -> frozenset[str]:
        """Everything that `name` influences, itself only through a recurrence."""
        key = (name, live)
        if key not in self._reached:
            self._reached[key] = frozenset(self.named(self.below(name, live)))
        return self._reached[key]

    def read_for(self, targets: Iterable[str]) -> frozenset[str]:
        """All nodes whose values or distributions the targets are computed from, through edges of every kind, and they themselves."""
        found, queue = set(targets), list(targets)
        while queue:
            sources = {s for e in self.nodes[queue.pop()].parents for s in (e.source, e.init) if s in self.nodes}
            queue += sources - found
            found |= sources
        return frozenset(found)

    @assume_constant_result
    def costs_below(self, name: str, live: bool = False) -> tuple[str, ...]:
        """The costs that `name` influences, in topological order."""
        return self.named(self.below(name, live) & self._cost_set)

    @assume_constant_result
    def counts(self, name: str, live: bool = False) -> bool:
        """Whether any cost is downstream of `name`."""
        return bool(self.below(name, live) & self._cost_set)

    @assume_constant_result
    def window(self, source: str, target: str, live: bool = False) -> Window | None:
        """The lags at which `source` influences `target`; None if it does not. A node reaches itself only in time."""
        reach, i = self._live if live else self._full, self.index[source]
        if not reach.above[self.index[target]] >> i & 1:
            return None
        if not reach.lagged:
            return NOW
        return next(Window(*window) for window, bits in reach.windows(self.index[target]).items() if bits >> i & 1)

    @assume_constant_result
    def influences(self, target: str) -> tuple[Influence, ...]:
        """The stochastic nodes that reach `target`, in topological order."""
        if target not in self._influences:
            above, found = self.above(target) & self._stochastic_set, []
            windows = {live: self._windows(target, live) for live in (False, True)} if self._full.lagged else {}
            for i in members(above):
                full = windows[False][i] if windows else NOW
                live = windows[True].get(i) if windows else NOW if self.above(target, live=True) >> i & 1 else None
                found.append(Influence(self.order[i], full, live, self._parts(i, target, full, live)))
            self._influences[target] = tuple(found)
        return self._influences[target]

    def _windows(self, target: str, live: bool) -> dict[int, Window]:
        found = (self._live if live else self._full).windows(self.index[target])
        return {i: window for (lo, hi), bits in found.items() for window in (Window(lo, hi),) for i in members(bits)}

    @assume_constant_result
    def scoring(self, targets: tuple[str, ...]) -> tuple[str, ...]:
        """The stochastic nodes that reach any of the targets with a gradient, in topological order."""
        if targets not in self._scoring:
            above = 0
            for target in targets:
                above |= self.above(target, live=True)
            self._scoring[targets] = self.named(above & self._stochastic_set)
        return self._scoring[targets]

    @assume_constant_result
    def groups(self, target: str) -> tuple[Group, ...]:
        """`influences`, the nodes with the same lags together. A node with several parts is in several groups."""
        if target not in self._groups:
            found: dict[tuple[Window, bool], int] = {}
            if self._full.lagged:
                for influence in self.influences(target):
                    for part in influence.parts:
                        found[part] = found.get(part, 0) | 1 << self.index[influence.node]
            else:  # no time passes on any path
                above, inside = self.above(target) & self._stochastic_set, self.inside_set
                for live, those in ((True, self.above(target, live=True)), (False, ~self.above(target, live=True))):
                    found[NOW, live], found[EVERY, live] = above & those & inside, above & those & ~inside
            self._groups[target] = tuple(Group(bits, *part) for part, bits in found.items() if bits)
        return self._groups[target]

    def _parts(self, i: int, target: str, full: Window, live: Window | None) -> tuple[tuple[Window, bool], ...]:
        """The full window, cut where live lags meet lags at which only detached paths arrive. Lags of neither do no harm."""
        source, t = self.nodes[self.order[i]], self.index[target]
        window = full if source.in_sequence else self._steps_reached(i, t, full)
        if live is None:
            return ((window, False),)
        # Without likelihood ratio, its gradient is in the values; and where no path is cut, it is there at all lags.
        if not source.estimator.weighs or not self._full.lagged or not self._lags.cut[t] >> i & 1:
            return ((window, True),)
        if not source.in_sequence:
            if not self._lags.around(i, t, live=True) and self._lags.mixed(i) >> t & 1:
                raise GraphError(
                    f"node {source.name!r}: it reaches {target!r} with a gradient at some steps and through detach(…) only at others, "
                    "and has one weight for all of them. Detach it on all paths or on none, or use Pathwise() there."
                )
            return ((window, True),)
        found, period = self._lags.classes(t)
        kinds = [True if at_live >> i & 1 else False if at_all >> i & 1 else None for at_all, at_live in found]
        if False not in kinds:
            return ((full, True),)
        if full.hi == INFINITE and len(set(kinds[-period:]) - {None}) > 1:
            raise GraphError(
                f"node {source.name!r}: it reaches {target!r} with a gradient at some lags and through detach(…) only at others, again "
                "and again; no window tells them apart. Detach it on all paths, or on none."
            )
        return tuple((Window(lo, hi), kind) for lo, hi, kind in runs(kinds, full.lo, full.hi == INFINITE))

    def _steps_reached(self, i: int, t: int, full: Window) -> Window:
        """The steps since the start of an episode at which a node outside the sequence reaches a target.

        What enters at every step reaches all later ones; an initial value enters at the first step only.
        """
        if not self._full.lagged or self._lags.around(i, t, live=False):
            return EVERY
        return Window(full.lo, INFINITE) if self._lags.always(i, t) else full

    @assume_constant_result
    def feeds_prev(self, name: str) -> str | None:
        """A node at or below `name` whose previous value is asked for, if there is one."""
        if name in self.recurrent_sources:
            return name
        asked = self.those(n in self.recurrent_sources for n in self.order) & self.below(name) if self.recurrent_sources else 0
        return min(self.named(asked), default=None)
