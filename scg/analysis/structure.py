"""The analysis of a graph: the order of its nodes (`edges.py`), their parts (`roles.py`), and who influences whom at which lag.

"Does x at step t influence c at step t'?" is a path question in the lifted graph. It is answered once per pair by a
`Window`: the least and the greatest t' - t over all paths, the greatest INFINITE where a recurrence lies on one.
A window is kept for all paths, and one for the paths without a `detach` edge: only those carry gradients.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from torch.compiler import assume_constant_result

from scg.analysis.edges import arrows, check_edges, topological
from scg.analysis.lags import Arrow, Lags, runs
from scg.analysis.reach import Reach, members, union
from scg.analysis.roles import Roles
from scg.errors import GraphError
from scg.node import Node
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


class Structure(Roles):
    """The analysis of a finished graph. Raises GraphError on what no value could repair."""

    def __init__(self, nodes: Mapping[str, Node], first: str | None) -> None:
        declared = dict(nodes)
        check_edges(declared, first)
        super().__init__(declared, first, topological(declared))
        self.arrows = arrows(self.nodes, self.order)
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
        self._check_baselines()
        # What a cost with trains= trains is known at the first sample only, and with it whose weights count.
        self.check_detached(name for name in self.named(self._cost_set) if self.nodes[name].trains is None)

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
