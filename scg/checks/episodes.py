"""Whether an episode that starts in one batch element leaves the others alone.

`first=` with a batch says element by element where an episode starts. A recurrent value meets it axis by axis:

    value [batch…, event…]     the element's value is its initial one where its episode starts
    value [batch…]             the same
    value [event…]             shared by the batch: it needs axes of size 1 in the batch's place, [1, event…]

Nothing says which of them a value is; a distribution would, and so does a parent that has the batch. Where the sizes are the
same, `where` would take the event for the batch without a word. So the episodes of half of the batch are moved, everything is computed
again on the same random numbers, and no cost and no log-density of the other half may differ. Cost: two evaluations, of
graphs with such a value only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from scg.analysis.structure import Structure
from scg.checks.recording import Recording, close, ulps

MESSAGE = (
    "its value of shape {} is read as one value per batch element; but where another element's episode starts, {!r} of this one "
    "moves. If its axes are an event and the batch shares it, give it axes of size 1 in the "
    "batch's place ({}); if functions of it are meant to mix the batch, give it an event axis of size 1 ({})."
)


def crossing(
    recording: Recording, draw: Callable[[Mapping[str, Any], Recording | None], Recording]
) -> Iterator[tuple[str, str]]:
    """(node, message) of a recurrent value that may be an event taken for the batch."""
    first, batch = recording.structure.first, recording.plan.batch_rank
    flags = recording.given.get(first) if first is not None else None
    if first is None or not isinstance(flags, Tensor) or flags.ndim < 2 or len(flags) < 2 or flags[0].numel() < 2:
        return
    unclear = dict(_unclear(recording, batch))
    if not unclear:
        return
    for axis in range(1, flags.ndim):
        order = torch.randperm(flags.shape[axis])
        for kept in order.chunk(2):
            moved = flags.bool().logical_not().to(flags.dtype)
            moved[0] = flags[0]
            given = {**recording.given, first: moved.index_copy(axis, kept, flags.index_select(axis, kept))}
            after = draw(given, recording)
            seen = _moved(recording, after, flags, axis, kept)
            if seen is not None:
                structure = recording.structure
                above = set(structure.named(structure.above(seen)))
                name = next((n for n in unclear if n in above), next(iter(unclear)))
                others = [n for n in unclear if n in above and n != name]
                shown = list(unclear[name])
                message = MESSAGE.format(shown, seen, [*[1] * batch, *shown], [*shown, 1])
                yield (
                    name,
                    message + (f"\nOr this is true of {', '.join(map(repr, others))}, which it reads too." if others else ""),
                )
                return


def _unclear(recording: Recording, batch: int) -> Iterator[tuple[str, torch.Size]]:
    """Recurrent values without a distribution that may have no batch: with no more axes than the batch, or made of nothing that has it."""
    structure, plan, steps = recording.structure, recording.plan, recording.trace.history
    nodes = structure.nodes
    batched = structure.those(
        name != structure.first
        and (plan.ranks.get(name, 0) if nodes[name].kind == "stochastic" else plan.value_ranks.get(name, 0)) > 0
        and nodes[name].kind in ("stochastic", "observed")
        for name in structure.order
    )
    for name in _recurrent(structure):
        if nodes[name].kind == "stochastic" or name in recording.given or not steps:
            continue
        for leaf in tree_leaves(steps[-1].values.get(name)):
            if isinstance(leaf, Tensor) and leaf.ndim and (leaf.ndim <= batch or not structure.above(name) & batched):
                yield name, leaf.shape


def _recurrent(structure: Structure) -> list[str]:
    """Nodes whose previous value is read."""
    return list(
        dict.fromkeys(e.source for node in structure.inside for e in node.parents if e.init is not None and not e.prefix)
    )


def _moved(before: Recording, after: Recording, flags: Tensor, axis: int, kept: Tensor) -> str | None:
    """The first cost or distribution whose elements `kept` along the batch's `axis` differ."""
    structure = before.structure
    for name in (*structure.costs, *before.distributions):
        try:
            one, other = (r.trace[name] if name in structure.costs else r.trace.log_prob(name) for r in (before, after))
        except NotImplementedError:  # a distribution without a density
            continue
        if not isinstance(one, Tensor) or one.shape != other.shape:
            continue
        place = axis - flags.ndim  # counted from the right: time or a plate may stand left of the batch
        if one.ndim - structure.nodes[name].in_sequence >= -place and one.shape[place] == flags.shape[axis]:
            one, other = one.index_select(place, kept), other.index_select(place, kept)
        if not close(one, other, ulps(one)):
            return name
    return None
