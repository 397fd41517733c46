"""The graph evaluated in another layout: below branches, and at all steps at once.

    mixing_branches    on branch 0 alone every function gives slice 0 of what it gives on all branches
    mixing_steps       all steps at once give what one step after another gives, where nothing is drawn

Cost: two evaluations of a graph that branches, one of a graph with a sequence.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from scg.checks.recording import Call, Draws, Recording, close
from scg.errors import GraphError
from scg.evaluation.axes import broadcast


def mixing_branches(recording: Recording, draw: Draws) -> Iterator[tuple[str, str, str]]:
    """On branch 0 alone every function must give slice 0 of what it gave on all branches."""
    try:
        branched = draw(recording.given, branching=True, stepping=True)
    except GraphError:
        raise
    except Exception as error:
        name = draw.latest.at
        yield (
            name,
            "branch",
            f"on one sample of each node it works, below branches it does not: {type(error).__name__}: {error}.\nBranch axes come "
            "first, left of the batch, and a function must broadcast over them; where it reaches no cost, its batch is not known.",
        )
        return
    if not branched.axes.slot:
        return
    first = {n: _first_branch(n, recording, branched) for n in recording.structure.stochastic if n not in recording.given}
    try:
        alone = draw({**recording.given, **first}, like=branched)
    except Exception as error:
        at = min(len(draw.latest.calls), len(branched.calls) - 1)
        yield (
            branched.calls[at].node.name,
            "branch",
            f"it works on all branches at once, but not on one alone: {type(error).__name__}: {error}",
        )
        return
    for call, again in zip(branched.calls, alone.calls, strict=True):
        for together, single in zip(call.content, again.content, strict=False):
            if not isinstance(together, Tensor) or not isinstance(single, Tensor):
                continue
            extra = together.ndim - single.ndim
            slice0 = together[(0,) * extra] if extra > 0 else together
            if slice0.shape != single.shape or not close(slice0, single):
                yield (
                    call.node.name,
                    "branch",
                    f"run on branch 0 alone it gives another result than branch 0 of all branches (shapes {tuple(single.shape)} "
                    f"and {tuple(together.shape)}): its function mixes branches (a reduction, a bmm or a norm over a leading "
                    "axis).\nBranch axes come first: address axes from the right (dim=-1), and use @ rather than bmm.",
                )
                return


def _first_branch(name: str, recording: Recording, branched: Recording) -> Tensor:
    """Branch 0 of every branching node, in the value of a stochastic node; of the shape that an unbranched draw has."""
    axes = branched.axes
    rank = axes.plate + axes.batch + len(recording.distributions[name].event_shape)

    def one(value: Tensor, like: Tensor) -> Tensor:
        value = value.detach()
        return value[(0,) * (value.ndim - rank)].reshape(like.shape) if value.ndim > like.ndim else value

    mine, theirs = recording.trace, branched.trace
    if recording.structure.nodes[name].in_sequence and mine.history and theirs.history:
        steps = zip(theirs.history, mine.history, strict=True)
        return torch.stack(broadcast([one(step.values[name], like.values[name]) for step, like in steps]))
    return one(theirs[name], mine[name])


def mixing_steps(recording: Recording, draw: Draws) -> Iterator[tuple[str, str, str]]:
    """All steps at once must give what one step after another gives, where nothing is drawn."""
    structure = recording.structure
    if recording.steps in (None, 1):
        return
    try:
        at_once = draw(recording.given, stepping=False)
    except GraphError:
        raise
    except Exception as error:
        yield (
            next(
                (n.name for n in structure.inside if any(n.name in note for note in getattr(error, "__notes__", ()))),
                "",
            ),
            "time",
            f"one step after another the graph is evaluated, all steps at once it fails ({type(error).__name__}: {error}).\n"
            "Give what is the same for the whole batch an axis of size 1 in the batch's place.",
        )
        return
    if not at_once.vectorised:
        return
    drawn = {n for n in structure.stochastic if n not in recording.given}
    blocks = {c.node.name: c.content for c in at_once.calls}
    single_steps: dict[str, list[Call]] = {}
    for call in recording.calls:
        single_steps.setdefault(call.node.name, []).append(call)
    for node in structure.inside:
        name = node.name
        if name not in blocks or name in drawn or name in structure.prefixed or any(structure.window(d, name) for d in drawn):
            continue
        for t, call in enumerate(single_steps[name]):
            for block, single in zip(blocks[name], call.content, strict=True):
                if not isinstance(block, Tensor) or block.ndim <= single.ndim:
                    continue
                now = block[t] if block.shape[0] == len(single_steps[name]) else block
                if not agrees(now, single):
                    yield (
                        name,
                        "time",
                        "all steps at once it gives another result than one step after another: its function mixes time steps, "
                        "or counts axes from the left.\nA node of the sequence is a function of one step; what recurs goes "
                        "through prev(…).",
                    )
                    return


def agrees(now: Tensor, single: Tensor) -> bool:
    """One step of a block against the same step alone, which may still be the same for the whole batch: an initial value is."""
    now, single = now.squeeze(), single.squeeze()
    if now.shape == single.shape:
        return close(now, single)
    return (
        single.ndim < now.ndim and now.shape[now.ndim - single.ndim :] == single.shape and close(now, single.expand(now.shape))
    )
