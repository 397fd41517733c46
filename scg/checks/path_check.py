"""Whether the gradient that has to flow along an edge is there, and is the slope of the value.

An edge is looked at where a pathwise sample, or anything else with a gradient, enters a function on its way to a cost:
as a tensor, in a container, or as a distribution. This file finds those edges; `path.py` moves the argument of one, and holds
the function's differences against its slopes. A kink is right to first order; a jump is not, and neither is a slope that
autograd does not see. What a function reads from modules and closures is moved too, where a cost compares or rounds: a jump
there is an error, a detach is taken as meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from scg.analysis.structure import Structure
from scg.checks.operations import CORNERS, STEPS, operations
from scg.checks.path import Held, Path
from scg.checks.recording import Call, Recording
from scg.checks.slopes import COARSE, PANELS
from scg.distributions.laws import own_law
from scg.distributions.samples import has_rsample
from scg.evaluation.objectives import reachable_modules, trained_by
from scg.tree import tensors

_parameters = ContextVar("parameters", default=True)


@contextmanager
def left_to_differences() -> Iterator[None]:
    """Inside, only pathwise edges are examined: an oracle measures by itself what a cost leaves out of a parameter's slope."""
    token = _parameters.set(False)
    try:
        yield
    finally:
        _parameters.reset(token)


class PathCheck:
    """Every edge along which a gradient has to flow to reach a cost; `compare` them at one draw after another."""

    def __init__(self, structure: Structure, given: Mapping[str, Any], large: bool = False) -> None:
        """`large`: where none of a function's operations can jump, its differences are taken at fewer points."""
        self.structure, self.given, self.large = structure, given, large
        self.paths: list[Path] | None = None

    @property
    def settled(self) -> bool:
        """Whether nothing more can be learned from another draw."""
        return self.paths is not None and all(p.settled for p in self.paths)

    def compare(self, recording: Recording, other: Recording) -> None:
        if self.paths is None:
            self.paths = list(self._find(recording))
        calls: dict[str, list[tuple[int, Call, Call]]] = {}
        for mine, theirs in zip(recording.calls, other.calls, strict=True):
            own = calls.setdefault(mine.node.name, [])
            own.append((len(own), theirs, mine))
        for path in self.paths:
            if not path.settled:
                t, call, target = calls[path.node][-1 - path.looked % len(calls[path.node])]
                path.look(call, target, self._outputs(other, call, t))

    def errors(self) -> Iterator[tuple[str, str, str]]:
        """(node, what, message) of each edge whose gradient is missing or does not see a jump."""
        for path in self.paths or ():
            message = path.trouble()
            if message is not None:
                yield path.node, f"path {path.source}", message

    @property
    def kinked(self) -> frozenset[str]:
        """Nodes with a kink that samples move across: a second derivative has a mass there that no sample shows."""
        return frozenset(p.node for p in self.paths or () if p.kink and (p.roots or self._crossed(p.node)))

    def _crossed(self, node: str) -> bool:
        return any(i.node not in self.given and i.node in self.continuous for i in self.structure.influences(node))

    # -- which edges ---------------------------------------------------------------------------------------

    def _find(self, recording: Recording) -> Iterator[Path]:
        structure, nodes = self.structure, self.structure.nodes
        supports = {n: s for n, d in recording.distributions.items() if (s := _continuous(d)) is not None}
        self.continuous = frozenset(supports)
        roots = self._roots()
        seen: set[str] = set()
        asked = {e.source for n in nodes.values() for e in n.parents if e.dist and (e.conditional or not e.detached)}
        for call in recording.calls:
            node = call.node
            reaches = node.kind == "cost" or node.name in asked or structure.counts(node.name, live=True)
            if node.name in seen or not reaches:
                continue
            seen.add(node.name)
            found: list[Path] = []
            open_to_all = _parameters.get() and (node.kind != "cost" or node.trains is None)
            for edge in node.parents:
                key: Any = int(edge.param) if node.positional else edge.param
                if (
                    (edge.detached and not edge.conditional)
                    or (node.positional and key >= len(call.arguments))
                    or (not node.positional and key not in call.named)
                ):
                    continue
                above = roots.get(edge.source, set())
                if edge.conditional:
                    above = set()
                elif edge.dist:
                    above = {r for e in nodes[edge.source].parents if not e.detached for r in roots.get(e.source, ())}
                if above or (open_to_all and any(t.requires_grad for t in tensors(call.named[key]))):
                    estimators = [nodes[r].estimator for r in above]
                    biased = bool(estimators) and not all(e.unbiased for e in estimators)
                    found.append(
                        Path(node.name, edge, tuple(sorted(above)), biased, None if edge.dist else supports.get(edge.source))
                    )
            # Of a deterministic node a step may be meant: quantised codes, hard routing. A cost's is part of the objective.
            held = self._held(call) if _parameters.get() and node.kind == "cost" else []
            done = operations(call) if found or held else set()
            for path in found:
                path.own_slope, path.law = getattr(node.fn, "own_slope", False), node.kind == "stochastic"
                path.smooth = not done & (STEPS | CORNERS)
                path.panels = COARSE if path.smooth and self.large else PANELS
                yield path
            if held and done & STEPS:
                yield Held(node.name, held)

    def _roots(self) -> dict[str, set[str]]:
        """For each node, the pathwise samples that its value moves with."""
        structure = self.structure
        roots: dict[str, set[str]] = {}
        for name in structure.order:
            node = structure.nodes[name]
            if node.kind == "stochastic":
                if node.estimator.moves and name not in self.given:
                    roots[name] = {name}
            elif node.kind == "deterministic":
                for edge in node.parents:
                    if edge.source in roots and not edge.detached and not edge.dist:
                        roots.setdefault(name, set()).update(roots[edge.source])
        return roots

    def _held(self, call: Call) -> list[Tensor]:
        """What a function reads from modules and closures, of what its objective trains."""
        found = {id(t): t for t in tensors(call.node.fn)} if not isinstance(call.node.fn, torch.nn.Module) else {}
        found |= {id(p): p for module in reachable_modules(call.node.fn) for p in module.parameters()}
        trained = None
        if call.node.kind == "cost" and call.node.trains is not None:
            trained = trained_by(call.node, self.structure.nodes)[0]
        return [
            t
            for key, t in found.items()
            if t.requires_grad and t.is_leaf and t.is_floating_point() and (trained is None or key in trained)
        ]

    def _outputs(self, recording: Recording, call: Call, t: int) -> Callable[[Any], list[Tensor]]:
        """What of a function's result has to have a gradient."""
        node, history = call.node, recording.trace.history
        value = None
        if node.kind == "stochastic":
            value = history[t].values[node.name] if node.in_sequence and history else recording.trace.values.get(node.name)

        def outputs(result: Any) -> list[Tensor]:
            if not isinstance(result, Distribution) or node.kind != "stochastic" or not own_law(result):
                return tensors(result)
            found = []  # a law of its own is judged by what it does
            if node.estimator.moves and has_rsample(result):
                torch.set_rng_state(call.state)
                found.append(result.rsample())
            if isinstance(value, Tensor) and (node.estimator.weighs or node.name in self.structure.asked_for):
                found.append(result.log_prob(value.detach()))
            return found

        return outputs


def _continuous(distribution: Distribution) -> Any:
    """The support, where it has no gaps."""
    try:
        support: Any = distribution.support
        return None if support.is_discrete else support
    except NotImplementedError:
        return None
