"""Whether a node that reads a prefix sees no later position: its mask is examined, not believed.

    in one call, each batch element has its values from another position on exchanged           nothing before may move
    one step after another, and all steps at once                                               the same values
    `extend`, on the new positions alone                                                        the same values

The first is done on as many positions as the call has, on which all values are ones that were drawn; the others on the steps
of the examination. Where a few passes of the batch have an element for each position, the exchange begins at every position once;
else the positions where it begins are spread over the length, and are others the next time that a graph is examined. A mask that
leaks at one position alone may then be missed the first time; one that leaks over more positions than lie between two of them is
not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from scg.checks.recording import Call, Recording, close, content
from scg.evaluation.prefix import extent
from scg.node import Node

PASSES = 8  # at most, where the batch has fewer elements than there are places to cut at
LARGE = 2**16  # positions of all passes together, from which on there are fewer passes


def leaking(recording: Recording, draw: Callable[[], Recording], steps: int) -> Iterator[tuple[str, str]]:
    """(node, message) of each node of the sequence whose value at a step depends on what comes later.

    draw    another draw of the graph
    steps   of the call that is examined, of which the recording may have fewer
    """
    calls: dict[str, list[Call]] = {}
    for call in recording.calls:
        if call.node.name in recording.structure.prefixed:
            calls.setdefault(call.node.name, []).append(call)
    if not calls or steps < 2:
        return
    other = {call.node.name: call for call in draw().calls}  # the last of each node
    with torch.no_grad():
        for name, own in calls.items():
            node = own[0].node
            found = _masked(recording, node, own[-1], other[name], steps)
            found = found or _stepped(node, own) or _cached(node, own)
            if found is not None:
                yield name, found


def _masked(recording: Recording, node: Node, call: Call, other: Call, steps: int) -> str | None:
    """The mask: later values exchanged, from another position on in each element of the batch."""
    lead, length = extent(node, call.arguments)
    opening = length - (recording.steps or 1) + 1  # positions before the first value of the sequence
    mine, theirs = _longer(node, call, lead, opening, steps), _longer(node, other, lead, opening, steps)
    before = _results(call, mine)
    cuts = list(range(opening, opening + steps - 1))  # what is exchanged begins here
    tokens = next(iter(mine.values()))
    elements = max(1, tokens.shape[:lead].numel())
    passes = min(PASSES, -(-len(cuts) // elements), max(1, LARGE // (elements * tokens.shape[lead])))
    spread_cuts = _spread(cuts, elements * passes, tokens)
    hits = []
    for i in range(passes):
        chosen = spread_cuts[i::passes]
        cut = torch.tensor(chosen, device=tokens.device).reshape(tokens.shape[:lead])
        hits.append(_moved(call, mine, theirs, before, cut, lead))
    if not any(hits):
        return None
    hits += [_moved(call, mine, theirs, before, torch.full(tokens.shape[:lead], cut), lead) for cut in cuts]
    position, cut_at = min(hit for hit in hits if hit is not None)
    return (
        f"its value at step {max(0, position - opening + 1)} moves when only the values of step {cut_at - opening} and later are "
        "exchanged: its mask lets a position see later ones, so that what is computed on a recording is not what was sampled "
        "from.\nA node that reads a prefix is causal: position i is a function of positions 0 … i (is_causal=True, or a mask "
        "that hides j > i)."
    )


def _spread(cuts: list[int], count: int, tokens: Tensor) -> list[int]:
    """So many of the places to cut at: all of them, over again, or every so many-th from one that depends on what was drawn."""
    if count >= len(cuts):
        return [cuts[i % len(cuts)] for i in range(count)]
    drawn = torch.nan_to_num(tokens.double()).abs().sum()
    begin = float(torch.frac(drawn * 0.6180339887))  # other draws, other cuts; the random stream is left alone
    return [cuts[int((i + begin) * len(cuts) / count)] for i in range(count)]


def _longer(node: Node, call: Call, lead: int, opening: int, steps: int) -> dict[Any, Tensor]:
    """The prefixes that a call read, as long as the longest one of so many steps: what was drawn, over again."""
    found = {}
    for i, edge in enumerate(node.parents):
        key: Any = i if node.positional else edge.param
        if not edge.prefix or key not in call.named:
            continue
        x = call.named[key].detach()
        drawn = x.narrow(lead, opening, x.shape[lead] - opening)
        times = -(-(steps - 1) // max(1, drawn.shape[lead]))
        longer = torch.cat([drawn] * times, lead).narrow(lead, 0, steps - 1)
        found[key] = torch.cat([x.narrow(lead, 0, opening), longer], lead)
    return found


def _results(call: Call, prefixes: dict[Any, Tensor]) -> list[Tensor]:
    changed = call.again(**{str(key): value for key, value in prefixes.items()})
    return [x.detach().clone() for x in content(changed) if isinstance(x, Tensor)]


def _moved(
    call: Call, mine: dict[Any, Tensor], theirs: dict[Any, Tensor], before: list[Tensor], cut: Tensor, lead: int
) -> tuple[int, int] | None:
    """(position that moved, where its element was cut), the earliest; None where nothing did."""
    mixed = {}
    for key, x in mine.items():
        positions = torch.arange(x.shape[lead], device=x.device)
        later = positions >= cut.to(x.device).unsqueeze(-1)
        y = theirs[key] if theirs[key].shape == x.shape else x
        # Where both draws agree an exchange shows nothing: values of other positions stand in.
        y = torch.where(y == x, x.roll(1, lead), y)
        mixed[key] = torch.where(later.reshape(*later.shape, *[1] * (x.ndim - later.ndim)), y, x)
    found: tuple[int, int] | None = None
    for x, y in zip(before, _results(call, mixed), strict=True):
        spread = x.shape[: lead + 1]
        tolerance = 256 * torch.finfo(x.dtype).eps if x.is_floating_point() else 0.0
        a, b = (torch.nan_to_num(v.double()) for v in (x, y))
        scale = a.abs().max() if a.numel() else a.new_zeros(())
        gap = (a - b).abs().reshape(*spread, -1).amax(-1) > tolerance * scale
        early = gap & (torch.arange(spread[lead], device=x.device) < cut.to(x.device).unsqueeze(-1))
        if bool(early.any()):
            position = int(early.reshape(-1, spread[lead]).any(0).nonzero()[0])
            at = int(early.select(lead, position).reshape(-1).nonzero()[0])
            hit = (position, int(cut.reshape(-1)[at]))
            found = hit if found is None or hit < found else found
    return found


def _stepped(node: Node, calls: list[Call]) -> str | None:
    """The last call's positions against the calls of each step."""
    lead, length = extent(node, calls[-1].arguments)
    for t, call in enumerate(calls[:-1]):
        place = length - len(calls) + t
        for whole, own in zip(calls[-1].content, call.content, strict=True):
            together, alone = whole.select(lead, place), own.select(own.ndim - whole.ndim + lead, -1)
            if not close(together, alone.expand(together.shape)):
                return (
                    f"all steps at once it gives another value at step {t} than on that step's prefix alone: it depends on how many "
                    "positions follow (a norm or a mean over them, positions counted from the end).\nPosition i is a function of "
                    "positions 0 … i."
                )
    return None


def _cached(node: Node, calls: list[Call]) -> str | None:
    """`extend` from position to position against the last call."""
    extend = getattr(node.fn, "extend", None)
    if extend is None:
        return None
    lead, length = extent(node, calls[-1].arguments)
    state, begin = None, 0
    for t in range(len(calls)):
        end = length - len(calls) + t + 1
        arguments = {
            key: (value.narrow(lead, begin, end - begin) if _is_prefix(node, i) else value)
            for i, (key, value) in enumerate(calls[-1].named.items())
        }
        result = extend(state, *arguments.values()) if node.positional else extend(state, **arguments)
        values, state = result
        for whole, own in zip(calls[-1].content, content(values), strict=True):
            if not close(whole.select(lead, end - 1), own.select(lead, -1)):
                return (
                    f"extend gives another value at step {t} than one call on the whole prefix: what it keeps from call to call is "
                    "not what that call computes. Sampling and recordings would follow different policies."
                )
        begin = end
    return None


def _is_prefix(node: Node, i: int) -> bool:
    return node.parents[i].prefix
