"""What is wrong with a biased loss: changes that were tried, each measured as the loss itself was.

A change of the catalogue is named as a cause if the loss with it (and nothing else changed) passes the sequential test, or
if the loss's own gradient passes against the gradient of another objective. So each named cause is wrong, for a bias of the
detectable size, with probability at most `false_alarm`; the probability that some cause is wrong is at most that times the
number of changes that reach the test. On the way to that test,

    1. changes that change nothing at two seeds, or make the loss raise, are dropped; those with the same effect are one
    2. changes whose mean of 12, then of 64 gradients is far from the true one are dropped
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scg.testing.losses.calls import Calls, Stream
from scg.testing.losses.catalogue import Listener, changes
from scg.testing.losses.changes import Change
from scg.testing.losses.objective import Rival, Truth

ENOUGH = 1  # causes: the most telling changes come first
SCREENS = ((12, 12.0), (64, 7.0))  # gradients, and how many standard errors are too many
Judge = Callable[[Callable[[int], Tensor], Truth], Any]


@dataclass(frozen=True)
class Cause:
    """A change with which the loss is right. `same`: changes with the same effect on its gradient."""

    cause: str
    what: str
    calls: int
    same: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.cause}: {self.what}"


@dataclass
class Search:
    """How the causes were found. `tried`: changes that alter the gradient; `left`: not looked at, for lack of time or because enough were found."""

    causes: list[Cause] = field(default_factory=list)
    tried: int = 0
    left: int = 0


@dataclass
class _Group:
    change: Change
    effect: Tensor
    same: list[Change] = field(default_factory=list)


def search(calls: Calls, truth: Truth, rows: Tensor, accepted: Callable[..., int | None], seed: int, seconds: float) -> Search:
    """`accepted(take, oracle)`: the calls after which a stream of gradients passed against an oracle, None if it did not."""
    found, start = Search(), time.process_time()
    groups = list(_groups(calls, seed))
    found.tried += len(groups)
    for i, group in enumerate(groups):
        if time.process_time() - start > seconds or len(found.causes) == ENOUGH:
            found.left = len(groups) - i
            break
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                drawn = _passes(calls, truth, group.change, accepted, seed)
        except Exception:  # what a change makes of a loss may fail at any call
            continue
        if drawn is not None:
            found.causes.append(Cause(group.change.cause, group.change.what, drawn, tuple(map(str, group.same))))
    for rival in truth.rivals() if not found.causes else ():
        found.tried += 1
        if _near(rows, rival.oracle, 7.0) and (drawn := accepted(None, rival.oracle)) is not None:
            found.causes.append(Cause(rival.cause, rival.what, drawn))
    return found


def _passes(calls: Calls, truth: Truth, change: Change, accepted: Callable[..., int | None], seed: int) -> int | None:
    stream = Stream(seed + 1)
    for count, limit in SCREENS:
        if not _near(calls.rows(count, 1, stream, change), truth.oracle, limit):
            return None
    return accepted(change, truth.oracle)


def _near(rows: Tensor, oracle: Any, limit: float) -> bool:
    if not bool(torch.isfinite(rows).all()):
        return False
    gap = (rows.mean(0) - oracle.exact).abs() - oracle.error
    scale = float(oracle.exact.abs().max().clamp_min(rows.mean(0).abs().max()))
    se = (rows.var(0) / len(rows) + oracle.se.square()).sqrt()
    return bool((gap <= limit * se + 0.02 * scale).all())


def _groups(calls: Calls, seed: int) -> Iterator[_Group]:
    """Changes by their effect on the gradient at two seeds."""

    def gradient(change: Change | None) -> Tensor:
        return torch.cat([calls.rows(1, 1, Stream(seed + 17 * k), change)[0] for k in (1, 2)])

    plain, listener = gradient(None), Listener()
    calls.rows(1, 1, Stream(seed + 17), listener)
    found: list[_Group] = []
    slack = 1e-9 if calls.parameters.epsilon < 1e-10 else 1e-5
    for change in changes(listener):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                effect = gradient(change)
        except Exception:  # not every value can stand where another one did
            continue
        if not bool(torch.isfinite(effect).all()) or _same(effect, plain, slack):
            continue
        twin = next((g for g in found if _same(effect, g.effect, slack)), None)
        if twin is None:
            found.append(_Group(change, effect))
        else:
            twin.same.append(change)
    yield from found


def _same(a: Tensor, b: Tensor, slack: float) -> bool:
    return bool((a - b).abs().max() <= slack * b.abs().max().clamp_min(1e-30))


__all__ = ["Cause", "Rival", "Search", "search"]
