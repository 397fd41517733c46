"""Where the axes of a value lie: the one module that looks at ranks.

    a node's value     [branch axes n_k … n_0, (time,) (plate,) batch…, event…]     only the axes that it has
    a block            [branch axes n_k … n_0,  time,   plate,  batch…]             every axis of the graph, size 1 where absent

Costs, weights, baselines and credits have no event axes. They are laid out as blocks before they meet, so that no sum,
product or mean along an axis depends on what a value happened to have, or on sizes that coincide.

A value that lies below a branching node has, right of its branch axes, *every* other axis that the graph has in this
evaluation: `branching` places samples so, and functions of them keep it. Its rank without branch axes is learned once,
for each leaf of a container, from a draw in which each stochastic node has P branches along one common axis, P being a
size that nothing else has (`learned`). So the branch axes of a value are counted, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

Ranks = tuple[int, ...]  # of the leaves of a value, in the order of torch's pytrees


@dataclass(slots=True)
class Axes:
    """The layout of one evaluation.

    batch, plate, time   how many axes a block has of each: the costs' rank at one step; 1 with a plate; 1 with a sequence
    at_once              1 where the values of a sequence are evaluated at all steps at once, and carry the time axis
    below                by node and leaf, the rank at one step below a branching node, without branch axes
    slot                 the branch axis of each node that branched, counted leftwards from the time axis
    """

    batch: int
    plate: int
    time: int
    at_once: int
    below: Mapping[str, Ranks]
    slot: dict[str, int] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """Axes of a block, without branch axes."""
        return self.time + self.plate + self.batch

    @property
    def inner(self) -> int:
        """Axes right of the branch axes of a sample in this evaluation, without its event."""
        return self.at_once + self.plate + self.batch

    @property
    def time_dim(self) -> int:
        return -1 - self.plate - self.batch

    @property
    def plate_dim(self) -> int:
        return -1 - self.batch

    def slot_dim(self, slot: int) -> int:
        """A branch axis of a block, counted from the right."""
        return -1 - slot - self.rank

    # -- blocks --------------------------------------------------------------------------------------------

    def block(self, x: Tensor, reduced: bool = False) -> Tensor:
        """A tensor without event axes, of the whole evaluation or of one step, as a block.

        reduced   it lies below a plate that its function has reduced: no plate axis stands right of its branch axes
        """
        if not self.time and not self.plate and x.ndim >= self.batch:
            return x
        if self.at_once and x.ndim == self.rank and not reduced:
            return x
        inner = self.plate * (not reduced) + self.batch
        timed = (
            self.at_once if self.at_once and x.ndim > inner else 0
        )  # outside the sequence, and where nothing varies, it has none
        slots = max(0, x.ndim - inner - timed)
        head, rest = x.shape[:slots], x.shape[slots + timed :]
        along = x.shape[slots : slots + timed] if timed else (1,) * self.time
        return x.reshape((*head, *along, *[1] * (self.plate + self.batch - len(rest)), *rest))

    def along_time(self, steps: Sequence[Tensor]) -> Tensor:
        """One tensor a step, none with a time axis, as a block."""
        inner = self.plate + self.batch
        alike = broadcast(steps)
        return grown(torch.stack(alike, max(0, alike[0].ndim - inner)), inner - alike[0].ndim)

    def given(self, x: Tensor) -> Tensor:
        """A given `[time, batch…]`, without event axes, as a block: what is the same for the whole batch may come as `[time]`."""
        return grown(x, self.plate + self.batch + 1 - x.ndim)

    def final(self, block: Tensor) -> Tensor:
        """The last step of a block, with its time axis."""
        return block.narrow(self.time_dim, block.shape[self.time_dim] - 1, 1)

    def natural(self, block: Tensor, timed: bool) -> Tensor:
        """A block as users see it: without a time axis outside the sequence, and without axes that it only has for its rank."""
        x = block if timed or not self.time else block.squeeze(self.time_dim)
        while x.ndim > self.rank - (0 if timed or not self.time else 1) and x.shape[0] == 1:
            x = x.squeeze(0)
        return x

    # -- values --------------------------------------------------------------------------------------------

    def slots(self, name: str, leaf: int, x: Tensor) -> int:
        """How many branch axes a leaf of node `name` has."""
        below = self.below.get(name)
        return 0 if below is None or leaf >= len(below) else max(0, x.ndim - below[leaf] - self.at_once)

    def stacked(self, name: str, steps: Sequence[Any]) -> Any:
        """A node's value at each step as one value, `[branch…, time, batch…, event…]`; a list where it is no tensors."""
        if isinstance(steps[0], Tensor):
            return self._stacked(name, 0, list(steps))
        leaves = [tree_flatten(step)[0] for step in steps]
        spec = tree_flatten(steps[0])[1]
        if not all(isinstance(leaf, Tensor) for step in leaves for leaf in step) or len({len(step) for step in leaves}) > 1:
            return list(steps)
        return tree_unflatten([self._stacked(name, i, list(leaf)) for i, leaf in enumerate(zip(*leaves, strict=True))], spec)

    def _stacked(self, name: str, leaf: int, steps: list[Tensor]) -> Tensor:
        alike = broadcast(steps)
        return torch.stack(alike, self.slots(name, leaf, alike[0]))

    def last(self, name: str, value: Any) -> Any:
        """The last step of a value of the sequence that is there for all steps at once.

        Below a branching node the time axis is kept, with size 1: nodes outside the sequence have it there as well.
        """
        leaves, spec = tree_flatten(value)
        return tree_unflatten([self._last(name, i, x) for i, x in enumerate(leaves)], spec)

    def _last(self, name: str, leaf: int, x: Any) -> Any:
        if not isinstance(x, Tensor) or not self.varies(name, leaf, x):
            return x
        slots = self.slots(name, leaf, x)
        return x.narrow(slots, x.shape[slots] - 1, 1) if slots else x.select(0, -1)

    def varies(self, name: str, leaf: int, x: Tensor) -> bool:
        """Whether a leaf has the time axis. Where nothing varies in time, a function's result is the same at each step."""
        below = self.below.get(name, ())
        return bool(self.at_once) and leaf < len(below) and x.ndim > below[leaf]

    def shared(self, value: Any, missing: Ranks | None) -> Any:
        """A given value `[time, batch…, event…]` with axes of size 1 for the batch that it does not have: `[time]` as `[time, 1]`.

        missing   how many axes of the batch each of its leaves lacks
        """
        if not missing or not any(missing):
            return value
        leaves, spec = tree_flatten(value)
        return tree_unflatten([grown(x, lacks) for x, lacks in zip(leaves, missing, strict=True)], spec)

    def over(self, mask: Tensor, name: str, leaf: int, x: Tensor, event: int | None = None) -> Tensor:
        """A mask `[(time,) batch…]` with axes of size 1 for the event of a leaf, of so many axes where that is known."""
        if event is None:
            below = self.below.get(name)
            known = below is not None and leaf < len(below)  # else nothing branches yet
            event = max(0, below[leaf] - self.batch - self.plate if known else x.ndim - mask.ndim)  # type: ignore[index]
        return mask.reshape((*mask.shape, *[1] * event))


def broadcast(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same tensors, of one shape: axes that only some have are grown on the left."""
    shape = tensors[0].shape
    if all(t.shape == shape for t in tensors):
        return list(tensors)
    shape = torch.broadcast_shapes(*[t.shape for t in tensors])
    return [t.expand(shape) for t in tensors]


def grown(x: Tensor, by: int) -> Tensor:
    """`[time, …]` with so many axes of size 1 after the first."""
    return x if by <= 0 else x.reshape((x.shape[0], *[1] * by, *x.shape[1:]))


def at_step(value: Any, t: int) -> Any:
    """One step of a given value, of each leaf of a container."""
    return value[t] if isinstance(value, Tensor) else tree_map(lambda x: x[t] if isinstance(x, Tensor) else x, value)


def ranks(value: Any) -> Ranks:
    return tuple(x.ndim if isinstance(x, Tensor) else 0 for x in tree_flatten(value)[0])


def unlike(values: Any) -> int:
    """A size that no axis of these tensors has."""
    sizes = {size for x in tree_flatten(values)[0] if isinstance(x, Tensor) for size in x.shape}
    return next(p for p in range(2, len(sizes) + 4) if p not in sizes)


def learned(
    plain: Sequence[Mapping[str, Any]], branched: Sequence[Mapping[str, Any]], size: int, batch: int
) -> dict[str, Ranks]:
    """`below` of each node, from its values at each step on a plain draw and on one with `size` branches along a common axis."""
    below: dict[str, list[int]] = {}
    for before, after in zip(plain, branched, strict=True):
        for name, value in after.items():
            one, many = tree_flatten(before.get(name))[0], tree_flatten(value)[0]
            known = below.setdefault(name, [0] * len(many))
            for i, x in enumerate(many[: len(known)]):
                if not isinstance(x, Tensor):
                    continue
                alone = one[i].ndim if i < len(one) and isinstance(one[i], Tensor) else x.ndim
                branches = x.ndim > alone and x.shape[0] == size
                known[i] = max(known[i], batch, x.ndim - branches)
    return {name: tuple(known) for name, known in below.items()}
