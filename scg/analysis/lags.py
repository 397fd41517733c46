"""At which lags a path that carries gradients arrives, and at which only paths through `detach` do.

    B₀ = what reaches the target within its step,   B_{k+1} = what reaches, within a step, a lagged arrow into B_k

once over all arrows and once over the live ones. The pair of sets at a lag follows from that before, so it repeats.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from scg.analysis.reach import Reach, members, union
from scg.scan import INFINITE


class Arrow(NamedTuple):
    """A resolved influence `source → target`. `dist` edges are resolved into the arrows of the distribution's parents.

    `first` marks an initial value: the arrow is there at the first step of an episode only.
    """

    source: str
    target: str
    lag: int
    live: bool
    first: bool = False


class Lags:
    """The lags of live and of detached paths, for nodes numbered in topological order."""

    def __init__(self, numbered: list[tuple[int, int, Arrow]], full: Reach, live: Reach, inside: int) -> None:
        self.arrows = {False: numbered, True: [a for a in numbered if a[2].live]}
        self.reach = {False: full, True: live}
        self.inside, self.size = inside, len(full.into)
        self._cut: list[int] | None = None
        self._steady: list[int] | None = None
        self._closures: dict[bool, Reach] | None = None
        self._detours: dict[bool, Reach] | None = None
        self._mixed: dict[int, int] = {}
        self._classes: dict[int, tuple[list[tuple[int, int]], int]] = {}

    @property
    def cut(self) -> list[int]:
        """For each node what reaches it on a path that a `detach` cuts, with no live arrow beside it."""
        if self._cut is None:
            self._cut = self._cuts()
        return self._cut

    def _cuts(self) -> list[int]:
        live = {(s, t, a.lag, a.first) for s, t, a in self.arrows[True]}
        full, own = self.reach[False], [0] * self.size
        for s, t, a in self.arrows[False]:
            if not a.live and (s, t, a.lag, False) not in live and (s, t, a.lag, a.first) not in live:
                own[t] |= full.above[s] | 1 << s
        return full.gathered(own)

    @property
    def _within(self) -> dict[bool, Reach]:
        """Within a step, or, after the sequence, from its last step."""
        if self._closures is None:
            self._closures = {
                live: Reach(self.size, [(s, t, 0) for s, t, a in arrows if not a.lag]) for live, arrows in self.arrows.items()
            }
        return self._closures

    @property
    def _around(self) -> dict[bool, Reach]:
        """What nodes outside the sequence reach without passing through it."""
        if self._detours is None:
            self._detours = {
                live: Reach(self.size, [(s, t, 0) for s, t, a in arrows if not (self.inside >> s | self.inside >> t) & 1])
                for live, arrows in self.arrows.items()
            }
        return self._detours

    def around(self, source: int, target: int, live: bool) -> bool:
        """Whether a node outside the sequence reaches another without passing through it."""
        return bool(self._around[live].above[target] >> source & 1)

    def always(self, source: int, target: int) -> bool:
        """Whether a node outside the sequence enters it at every step and then reaches the target: initial values enter at the first only."""
        if self._steady is None:
            above, own = self._around[False].above, [0] * self.size
            for s, t, a in self.arrows[False]:
                if self.inside >> t & 1 and not self.inside >> s & 1 and not a.first:
                    own[t] |= above[s] | 1 << s
            self._steady = self.reach[False].gathered(own)
        return bool(self._steady[target] >> source & 1)

    def classes(self, target: int) -> tuple[list[tuple[int, int]], int]:
        """For each lag: what reaches the target on any path, and on a live one; and how many lags at the end repeat."""
        if target not in self._classes:
            self._classes[target] = self._repeated(target)
        return self._classes[target]

    def _repeated(self, target: int) -> tuple[list[tuple[int, int]], int]:
        """Lags, backwards from the target, until they repeat."""
        before = {
            live: [(t, self._within[live].above[s] | 1 << s) for s, t, a in arrows if a.lag]
            for live, arrows in self.arrows.items()
        }
        here = {live: self._within[live].above[target] | 1 << target for live in before}
        states: dict[tuple[int, int], int] = {}
        found: list[tuple[int, int]] = []
        while (state := (here[False], here[True])) not in states:
            if found:
                states[state] = len(found)
                found.append(state)
            else:  # a node does not influence itself at once; a later lag with the same sets is no repetition of this one
                found.append((state[0] & ~(1 << target), state[1] & ~(1 << target)))
            here = {live: _joined(closed for t, closed in before[live] if here[live] >> t & 1) for live in before}
        return found, len(found) - states[state]

    def mixed(self, source: int) -> int:
        """What a node outside the sequence reaches with a gradient at some steps, at others only without."""
        if source not in self._mixed:
            self._mixed[source] = self._simulated(source)
        return self._mixed[source]

    def _simulated(self, source: int) -> int:
        """Steps of an episode, forwards, until they repeat."""
        always: dict[bool, int] = {}
        here: dict[bool, int] = {}
        later: dict[bool, list[tuple[int, int]]] = {}
        for live, arrows in self.arrows.items():
            outside = (self.reach[live].below[source] | 1 << source) & ~self.inside
            entered = [(t, a.first) for s, t, a in arrows if outside >> s & 1 and self.inside >> t & 1]
            here[live] = self._at_once(union(t for t, _ in entered), live)
            always[live] = union(t for t, first in entered if not first)  # initial values enter at the first step only
            later[live] = [(s, t) for s, t, a in arrows if a.lag]
        with_gradient = without = 0
        states: set[tuple[int, int]] = set()
        while (state := (here[False], here[True])) not in states:
            states.add(state)
            with_gradient |= state[0] & state[1]
            without |= state[0] & ~state[1]
            here = {
                live: self._at_once(always[live] | union(t for s, t in later[live] if here[live] >> s & 1), live)
                for live in here
            }
        return with_gradient & without

    def _at_once(self, bits: int, live: bool) -> int:
        """A set and what it reaches within the step."""
        below = self._within[live].below
        return bits | _joined(below[i] for i in members(bits))


def runs(kinds: Iterable[bool | None], least: int, endless: bool) -> list[tuple[int, float, bool]]:
    """Lags from `least` on, as (first, last, live): neighbours of one kind together. Lags of no kind do no harm."""
    found: list[tuple[int, float, bool]] = []
    for lag, kind in enumerate(kinds):
        if kind is None or lag < least:
            continue
        if found and found[-1][2] == kind:
            found[-1] = (found[-1][0], lag, kind)
        else:
            found.append((lag, lag, kind))
    if endless:
        found[-1] = (found[-1][0], INFINITE, found[-1][2])
    return found


def _joined(sets: Iterable[int]) -> int:
    bits = 0
    for one in sets:
        bits |= one
    return bits
