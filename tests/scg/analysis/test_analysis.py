"""The analysis by bit sets against the same questions asked pair by pair, by walks over names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from random import Random

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

import scg
from scg.analysis.lags import Arrow
from scg.analysis.structure import Influence, Structure, Window
from scg.errors import GraphError
from scg.estimator import Pathwise, ScoreFunction
from scg.node import Edge, Node
from scg.scan import INFINITE


class Slow:
    """One walk a pair: the least lag by trying all, the greatest by a longest path, the classes by stepping sets of names."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self.nodes = dict(nodes)
        self.order = self.topological()
        self.arrows = tuple(a for node in self.nodes.values() for a in self._resolve(node))
        self._out: dict[bool, dict[str, list[Arrow]]] = {False: {}, True: {}}
        for arrow in self.arrows:
            self._out[False].setdefault(arrow.source, []).append(arrow)
            if arrow.live:
                self._out[True].setdefault(arrow.source, []).append(arrow)
        self.stochastic = tuple(n for n in self.order if self.nodes[n].kind == "stochastic")
        self.has_sequence = any(n.in_sequence for n in nodes.values())
        self._influences: dict[str, tuple[Influence, ...]] = {}
        self._reached: dict[tuple[str, bool], frozenset[str]] = {}
        self.refuse_live_beside_detached()

    def refuse_live_beside_detached(self) -> None:
        """Walks of up to 40 steps in time from each weighed sample, with and without a detach on the way."""
        lagged = any(a.lag for a in self.arrows)
        arrivals = {n: self._arrivals(n) for n in self.stochastic if self.nodes[n].estimator.weighs}
        for target in (n for n in self.order if self.nodes[n].kind == "cost"):
            for source in (n for n in self.order if n in arrivals):
                both = [lag for lag in range(40) if {(target, lag, False), (target, lag, True)} <= arrivals[source]]
                if both:
                    when = f" at lag {both[0]}" if lagged and both[0] else ""
                    raise GraphError(
                        f"node {source!r}: the cost {target!r} depends on it with a gradient, and beside that through "
                        f"detach(…){when}. Its likelihood ratio multiplies the whole cost, and cannot leave out one path.\n"
                        "Use Pathwise() there, detach it on all paths or on none, split the cost, or pass the constant as an input."
                    )

    def _arrivals(self, source: str) -> set[tuple[str, int, bool]]:
        seen: set[tuple[str, int, bool]] = set()
        queue = [(source, 0, False)]
        while queue:
            name, lag, cut = queue.pop()
            for arrow in self._out[False].get(name, ()):
                state = (arrow.target, lag + arrow.lag, cut or not arrow.live)
                if state not in seen and state[1] < 40:
                    seen.add(state)
                    queue.append(state)
        return seen

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

    def topological(self) -> tuple[str, ...]:
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
            if classes:  # the first lag leaves the source out
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


NAMES = "abcdefgh"


def random_graph(random: Random) -> dict[str, Node]:
    """Nodes in any order of declaration, inside and outside a sequence, with all kinds of edges; a cycle now and then."""
    names = list(NAMES[: random.randint(2, 8)])
    inside = {n: random.random() < 0.7 for n in names} if random.random() < 0.8 else dict.fromkeys(names, False)
    kinds = {n: random.choice(["stochastic", "stochastic", "deterministic", "cost", "observed"]) for n in names}
    detached = random.choice([0.0, 0.1, 0.5])
    nodes = {}
    for name in random.sample(names, len(names)):
        parents = []
        for _ in range(random.randint(0, 3)):
            source, cut = random.choice(names), random.random() < detached
            if inside[name] and inside[source] and random.random() < 0.4:
                before = [n for n in names if not inside[n] and n < name]
                parents.append(Edge(source, lag=1, init=random.choice([*before, "theta"]), detached=cut))
            elif source < name or random.random() < 0.01:
                parents.append(Edge(source, detached=cut, dist=kinds[source] == "stochastic" and random.random() < 0.3))
        estimator = random.choice([ScoreFunction(), Pathwise()]) if kinds[name] == "stochastic" else None
        fn = None if kinds[name] == "observed" else len
        nodes[name] = Node(name, kinds[name], fn, tuple(parents), inside[name], True, estimator=estimator)
    return nodes


def outcome(what, *arguments):
    try:
        return what(*arguments)
    except GraphError as error:
        return str(error)


@given(st.integers(0, 2**32))
def test_bit_sets_answer_what_walks_answer(seed):
    random = Random(seed)
    for _ in range(10):
        compare(random_graph(random))


def compare(nodes: Mapping[str, Node]) -> None:
    fast, slow = outcome(Structure, nodes, None), outcome(Slow, nodes)
    if isinstance(fast, str):
        event(fast.rpartition(":")[2][:12])
        assert fast == slow
        return
    assert fast.order == slow.order
    assert set(fast.arrows) == set(slow.arrows)
    for source in nodes:
        for live in (False, True):
            assert fast.reached(source, live) == slow.reached(source, live)
            below = {c for c in fast.costs if slow.window(source, c, live)}
            assert set(fast.costs_below(source, live)) == below
            assert fast.counts(source, live) == bool(below)
            for target in nodes:
                assert fast.window(source, target, live) == slow.window(source, target, live)
        reached = (n for n in (source, *sorted(slow.reached(source))) if n in fast.recurrent_sources)
        assert fast.feeds_prev(source) == next(reached, None)
    for target in nodes:
        expected = outcome(slow.influences, target)
        assert outcome(fast.influences, target) == expected
        if isinstance(expected, str):
            event("refused: " + expected.partition("gradient ")[2][:13])
        else:
            event(f"parts: {max((len(i.parts) for i in expected), default=0)}")
            parts = {(i.node, part) for i in expected for part in i.parts}
            assert {(n, (g.window, g.live)) for g in fast.groups(target) for n in fast.named(g.members)} == parts


def test_the_lag_at_which_a_node_is_itself_is_no_repetition():
    """d reaches itself with a gradient at lags 2, 4, … and through detach only at 1, 3, …; taking lag 2 for lag 0 hides the first."""
    graph = scg.Graph()
    with graph.sequence():

        @graph.stochastic(ScoreFunction())
        def d(e=scg.prev("e", init="theta")): ...

        @graph.stochastic(Pathwise())
        def e(d_tm1=scg.prev("d", init="theta"), d_t=scg.detach("d")): ...

    with pytest.raises(GraphError, match="at some lags and through detach"):
        graph.structure.influences("d")
