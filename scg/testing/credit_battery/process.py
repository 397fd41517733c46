"""Small decision processes of which every outcome can be listed.

A block of T steps holds one or several episodes. At each step the policy chooses one of two actions; the process
terminates by chance and starts again, and the record may be cut after given steps. The state is numbered together with
its step, x = t · S + s, so that policies and critics may differ from step to step:

    Q(x, a) = c(s, a) + γ (1 − stop(s, a)) Σ_s' P(s' | s, a) V(x'),      V(x) = Σ_a π(a|x) Q(x, a)

The gradient that credits estimate is

    Σ_x d(x) Σ_a ∇π(a|x) Q(x, a)

with d(x) the probability of x under the policy that recorded the block, in which the share of the episode's earlier steps
may be replaced: by the policy's own probabilities (`own`), by those times γ^k (`leading`), k steps into the episode.
d comes from a recursion, and not from the list of outcomes, so the two check each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

STATES = ACTIONS = 2
COST = ((1.0, -0.4), (0.3, 2.0))
MOVES = ((0.8, 0.3), (0.4, 0.1))  # P(s' = 0 | s, a)
STOPS = ((0.2, 0.3), (0.5, 0.1))  # P(terminated | s, a)
START = (0.6, 0.4)
BEYOND = (0.9, -1.3)  # the value of what follows a block that is cut at its end


@dataclass(frozen=True)
class Process:
    """`cuts`: the steps after which the record is cut; the last step of the block terminates unless it is among them.

    single      nothing terminates before the last step: the block is one episode
    indifferent no action has a consequence, and every step costs 1: the true gradient is 0
    """

    steps: int = 3
    discount: float = 1.0
    cuts: tuple[int, ...] = ()
    single: bool = False
    indifferent: bool = False

    @property
    def rows(self) -> int:
        """How many x there are: T · S, and the states that follow the block."""
        return (self.steps + 1) * STATES

    def stop(self, t: int, s: int, a: int) -> float:
        if t == self.steps - 1 and t not in self.cuts:
            return 1.0
        return 0.0 if self.single else STOPS[s][0 if self.indifferent else a]

    def move(self, s: int, a: int) -> tuple[float, float]:
        p = MOVES[s][0 if self.indifferent else a]
        return p, 1 - p

    def cost(self, s: int, a: int) -> float:
        return 1.0 if self.indifferent else COST[s][a]

    def critics(self, policy: Tensor) -> tuple[Tensor, Tensor]:
        """The exact V `[X]` and Q `[X, A]` of `policy [X, A]`."""
        v, q = torch.zeros(self.rows), torch.zeros(self.rows, ACTIONS)
        v[-STATES:] = torch.tensor(BEYOND)
        for t in reversed(range(self.steps)):
            for s in range(STATES):
                x = t * STATES + s
                for a in range(ACTIONS):
                    onward = sum(p * v[x - s + STATES + n] for n, p in enumerate(self.move(s, a)))
                    q[x, a] = self.cost(s, a) + self.discount * (1 - self.stop(t, s, a)) * onward
                v[x] = policy[x] @ q[x]
        return v, q

    def visits(self, behaviour: Tensor, policy: Tensor, own: bool = False, leading: bool = False) -> Tensor:
        """`d(x)`, `[X]`."""
        plain, found = torch.zeros(self.rows), torch.zeros(self.rows)
        plain[:STATES] = found[:STATES] = torch.tensor(START)
        factor = self.discount if leading else 1.0
        acting = policy if own else behaviour
        for t in range(self.steps - 1):
            fresh = 0.0
            for s in range(STATES):
                x = t * STATES + s
                for a in range(ACTIONS):
                    stop = 1.0 if t in self.cuts else self.stop(t, s, a)
                    fresh += float(plain[x] * behaviour[x, a]) * stop
                    for n, p in enumerate(self.move(s, a)):
                        following = (t + 1) * STATES + n
                        plain[following] += plain[x] * behaviour[x, a] * (1 - stop) * p
                        found[following] += factor * found[x] * acting[x, a] * (1 - stop) * p
            for s in range(STATES):
                plain[(t + 1) * STATES + s] += fresh * START[s]
                found[(t + 1) * STATES + s] += fresh * START[s]
        return found


@dataclass(frozen=True)
class Recording:
    """Every outcome of a block: what was seen, `[time, N]`, and the probabilities of the process alone, `[N]`."""

    seen: dict[str, Tensor]
    chance: Tensor

    def probabilities(self, behaviour: Tensor) -> Tensor:
        """Of each outcome under `behaviour [X, A]`, `[N]`; differentiable."""
        return self.chance * behaviour[self.seen["x"], self.seen["action"]].prod(0)


@lru_cache(maxsize=32)
def recording(process: Process) -> Recording:
    """All outcomes of `process`."""
    outcomes = list(_grown(process, [], 0, True, 1.0))
    keys = ("x", "action", "terminated", "next_x", "first")
    seen = {key: torch.tensor([[step[i] for step in path] for path, _ in outcomes]).T for i, key in enumerate(keys)}
    seen = {key: value.bool() if key in ("terminated", "first") else value for key, value in seen.items()}
    costs = torch.tensor([[process.cost(s, a) for a in range(ACTIONS)] for s in range(STATES)], dtype=torch.float64)
    seen["cost"] = costs[seen["x"] % STATES, seen["action"]]
    return Recording(seen, torch.tensor([p for _, p in outcomes], dtype=torch.float64))


Step = tuple[int, int, bool, int, bool]


def _grown(process: Process, path: list[Step], s: int | None, first: bool, p: float) -> Iterator[tuple[list[Step], float]]:
    """Every way in which a record goes on after `path`, with its probability up to the actions."""
    t = len(path)
    if t == process.steps:
        yield path, p
        return
    if first:
        for fresh, start in enumerate(START):
            yield from _taken(process, path, fresh, True, p * start)
    else:
        assert s is not None
        yield from _taken(process, path, s, False, p)


def _taken(process: Process, path: list[Step], s: int, first: bool, p: float) -> Iterator[tuple[list[Step], float]]:
    t = len(path)
    x, after = t * STATES + s, (t + 1) * STATES
    for a in range(ACTIONS):
        stop = process.stop(t, s, a)
        if stop > 0:
            yield from _grown(process, [*path, (x, a, True, after, first)], None, True, p * stop)
        if stop < 1:
            for n, chance in enumerate(process.move(s, a)):
                yield from _grown(
                    process, [*path, (x, a, False, after + n, first)], n, t in process.cuts, p * (1 - stop) * chance
                )
