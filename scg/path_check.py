"""Whether the gradient that has to flow along an edge is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scg.recording import Call, Recording, content, same

if TYPE_CHECKING:
    from scg.analysis import Structure


class PathCheck:
    """Every edge along which a pathwise gradient has to flow to reach a cost; `compare` it at one draw after another."""

    def __init__(self, structure: Structure, given: Mapping[str, Any]) -> None:
        self.paths = list(_paths(structure, given))

    @property
    def settled(self) -> bool:
        """Whether nothing more can be learned from another draw."""
        return all(p.settled for p in self.paths)

    def compare(self, recording: Recording, other: Recording) -> None:
        for path in self.paths:
            for mine, theirs in zip(recording.calls, other.calls, strict=True):
                if mine.node.name != path.node or path.settled:
                    continue
                key: Any = int(path.param) if mine.node.positional else path.param
                here, there = mine.named[key], theirs.named[key]
                if not isinstance(here, Tensor) or not here.is_floating_point():
                    continue
                try:
                    torch.set_rng_state(mine.state)
                    moved = mine.again(**{path.param: there.detach()})
                    path.moved |= not same(mine.content, content(moved))
                    path.gradient = path.gradient or any(_sloped(mine, path.param, x) for x in (there, (here + there) / 2))
                except ValueError:
                    continue  # one draw's value may not fit another draw's other arguments

    def errors(self) -> Iterator[tuple[str, str, str]]:
        """(node, what, message) of each edge where a gradient is missing."""
        for path in self.paths:
            if path.moved and not path.gradient:
                yield (
                    path.node,
                    f"path {path.source}",
                    f"the pathwise gradient of {path.source!r} ends here: the value of {path.node!r} moves with it, and the "
                    "gradient is zero wherever it was looked at (round, a comparison, .item() and integer casts do this).\n"
                    f"Use ScoreFunction() at {', '.join(map(repr, path.roots))}, or detach({path.source!r}) if no gradient is meant.",
                )


class _Path:
    """One edge of a pathwise gradient: did the value move with the parent, was there ever a gradient?"""

    def __init__(self, node: str, source: str, param: str, roots: tuple[str, ...]) -> None:
        self.node, self.source, self.param, self.roots = node, source, param, roots
        self.moved = self.gradient = False

    @property
    def settled(self) -> bool:
        return self.gradient


def _paths(structure: Structure, given: Mapping[str, Any]) -> Iterator[_Path]:
    roots: dict[str, set[str]] = {}
    for name in structure.stochastic:
        if structure.nodes[name].estimator.moves and name not in given:
            roots.setdefault(name, set()).add(name)
    for name in structure.order:
        node = structure.nodes[name]
        if node.kind == "deterministic":
            for edge in node.parents:
                if edge.source in roots and not edge.detached and not edge.dist:
                    roots.setdefault(name, set()).update(roots[edge.source])
    useful = set(structure.costs)
    for name in structure.order:
        node = structure.nodes[name]
        reaches = name in useful or structure.counts(name, live=True)
        if node.kind == "observed" or not reaches:
            continue
        for edge in node.parents:
            if edge.source in roots and not edge.detached and not edge.dist:
                yield _Path(name, edge.source, edge.param, tuple(sorted(roots[edge.source])))


def _sloped(call: Call, param: str, value: Tensor) -> bool:
    """Whether a call's result has a gradient with respect to one argument, at a value of it."""
    leaf = value.detach().requires_grad_()
    torch.set_rng_state(call.state)
    outputs = [o for o in content(call.again(**{param: leaf})) if isinstance(o, Tensor) and o.requires_grad]
    if not outputs:
        return False
    probe = sum((o * torch.randn_like(o)).sum() for o in outputs)
    (gradient,) = torch.autograd.grad(probe, leaf, allow_unused=True)  # type: ignore[arg-type]
    return gradient is not None and bool((gradient != 0).any())
