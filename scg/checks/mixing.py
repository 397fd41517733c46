"""Whether a weight per batch element accounts for everything that depends on its sample.

    Σᵢ wᵢ(xᵢ) · cᵢ        is right where cᵢ is a function of xᵢ, and wrong where another element's xⱼ moves it:
                          ∇E[cᵢ] holds cᵢ ∇log p(xⱼ) then, and wⱼ multiplies cⱼ alone

So the samples of a half of the batch are exchanged for others, at every node whose weights multiply a cost, everything
else is computed again on the same random numbers, and in the other half neither that cost nor a log-density in its
weights may move. Then the halves change places. Log₂(batch) different halvings tell any two elements apart; a function
that treats all elements alike (a normalisation, an attention, a roll) is seen at the first. Cost: two evaluations a halving.

Where there is no weight there is no condition: batch normalisation of inputs, or below a pathwise sample, is right and passes. A
likelihood ratio without a gradient is 1 and changes no mean. So where something moves, the weights are looked at: a cost may
mix the samples of nodes whose distributions reach nothing that it trains (another objective's policy, frozen parameters).
Probabilities and importance weights are not 1 in value, and count whatever they reach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from scg.analysis.structure import Structure
from scg.checks.recording import Recording, close, same, ulps
from scg.distributions.laws import own_law, parameters
from scg.evaluation.branching import plain
from scg.evaluation.objectives import leaves, trained_by

Draw = Callable[[Mapping[str, Any], Recording | None], Recording]

REDRAWN = 16  # times at most, until a discrete sample differs in both halves
DRAWS = 8  # of a node, to see whether its weights are 1/n and its values random

MESSAGE = (
    "element {} of the batch moves when only the samples of other elements do: its function mixes batch elements "
    "(batch normalisation in training mode, a reduction or a product over the wrong axis), and a weight per "
    "element cannot account for that.\nReduce over event axes only (dim=-1, not dim=0 or none); call .eval() on "
    "normalisation layers."
)


_exchanged = ContextVar("elements are exchanged", default=True)


@contextmanager
def known_elementwise() -> Iterator[None]:
    """Inside, batch elements are not exchanged: for graphs of our own whose functions are known not to mix them."""
    token = _exchanged.set(False)
    try:
        yield
    finally:
        _exchanged.reset(token)


def weighed(structure: Structure, name: str, given: Mapping[str, Any]) -> bool:
    """Whether a likelihood ratio of the node's multiplies what lies downstream."""
    if name in given and structure.nodes[name].estimator.moves:
        return f"{name}.log_prob" in given
    return structure.nodes[name].estimator.weighs or f"{name}.log_prob" in given


def mixing(recording: Recording, draw: Draw, halvings: int) -> Iterator[tuple[str, str]]:
    """(node, message) of the first function that mixes batch elements which a weight tells apart.

    `draw(given, like)` evaluates once more, on the random numbers of the recording `like` where there is one.
    """
    if not _exchanged.get():
        return
    found = _mixing(recording, draw, halvings, {})
    if found is not None and (idle := _idle(recording)):
        found = _mixing(recording, draw, halvings, idle)
    if found is not None:
        yield found


def _mixing(recording: Recording, draw: Draw, halvings: int, idle: Mapping[str, int]) -> tuple[str, str] | None:
    """The first find; `idle` has for a target the set of nodes whose weights have no gradient there."""
    given = recording.given
    for ancestors, names in _together(recording, idle):
        judged = _judged(recording, ancestors, names)
        batch = _Batch(recording, names)
        for axis, size in enumerate(reversed(batch.shape)):
            if size < 2:
                continue
            bits = (size - 1).bit_length()
            for turn in range(halvings):
                if turn % bits == 0:
                    order = torch.randperm(size)
                if turn:  # where a function looks at other elements may depend on the sample
                    batch.recording = draw(given, None)
                sides = [torch.where((order >> turn % bits & 1) == side)[0] for side in (0, 1)]
                other = batch.others(ancestors, axis, sides)
                reference = batch.recording
                if any(own_law(d) for d in reference.distributions.values()):
                    # A law of its own may know its last sample by identity, and others by their value: both get copies.
                    everything = torch.arange(size)
                    reference = draw({**given, **batch.mixed(other, axis, everything)}, batch.recording)
                densities: dict[str, Tensor] | None = None
                for kept in sides:
                    try:
                        densities = _densities(reference, judged) if densities is None else densities
                        again = draw({**given, **batch.mixed(other, axis, kept)}, batch.recording)
                        found = batch.moved(reference, again, densities, names, axis, kept)
                    except ValueError:
                        continue  # a given value and inputs that belong to another element may not fit each other
                    if found is not None:
                        return found[0], MESSAGE.format(found[1])
    return None


def _idle(recording: Recording) -> dict[str, int]:
    """For every target, the set of weighed nodes whose likelihood ratios reach nothing that it trains.

    Without any gradient there is nothing to tell apart: every weight counts, as it will when there is one.
    """
    structure = recording.structure
    reached = {name: leaves(_parameters(recording, name)) for name in recording.distributions}
    costs = leaves(*(recording.trace[name] for name in structure.costs if name in recording.trace))
    if not costs and not any(reached.values()):
        return {}
    ratios = [x for x in reached if weighed(structure, x, recording.given) and _is_ratio(recording, x)]
    idle: dict[str, int] = {}
    for name in (*structure.costs, *_credits(structure)):
        trained = _trained(recording, name)
        without = {x for x in ratios if not (reached[x] if trained is None else reached[x].keys() & trained)}
        if without:
            idle[name] = structure.those(x in without for x in structure.order)
    return idle


def _trained(recording: Recording, name: str) -> set[int] | None:
    """The identities of what a cost trains; None where that is everything."""
    node = recording.structure.nodes[name]
    if node.kind != "cost" or node.trains is None:
        return None
    own, inputs = trained_by(node, recording.structure.nodes)
    return {*own, *(id(recording.inputs[n]) for n in inputs if n in recording.inputs)}


def _steps(recording: Recording, name: str) -> list[tuple[Any, Any]]:
    """(distribution, value) of a stochastic node, at each step where it is evaluated step by step."""
    history = recording.trace.history
    if history and recording.structure.nodes[name].in_sequence:
        return [(step.distributions[name], step.values[name]) for step in history]
    return [(recording.distributions[name], recording.trace[name])]


def _parameters(recording: Recording, name: str) -> list[list[Any]]:
    return [parameters(distribution) for distribution, _ in _steps(recording, name)]


def _is_ratio(recording: Recording, name: str) -> bool:
    """Whether the node's weights are likelihood ratios (1/n in value) of samples that each element draws for itself.

    Probabilities are not: the values that they weigh are the same in every draw and for every element.
    """
    if f"{name}.log_prob" in recording.given:
        return False
    estimator, (distribution, value) = recording.structure.nodes[name].estimator, _steps(recording, name)[0]
    if name in recording.given:
        return estimator.given(distribution, value).weights is None
    draws = [estimator.branch(distribution) for _ in range(DRAWS)]
    if all(d.weights is None for d in draws):
        return True
    uniform = all(d.weights is None or bool((d.weights * (d.n or 1) - 1).abs().max() < 1e-6) for d in draws)
    return uniform and not all(same(draws[0].values, d.values) for d in draws)


def _judged(recording: Recording, ancestors: Iterable[str], targets: Iterable[str]) -> list[str]:
    """The nodes whose log-densities may not move: those that are exchanged, and the weighed ones between them and the targets.
    Their samples are drawn again, and another law may draw the same value from the same random number."""
    structure, exchanged = recording.structure, set(ancestors)
    first = structure.those(name in exchanged for name in structure.order)
    below, above = first, first
    for name in ancestors:
        below |= structure.below(name, live=True)
    for name in targets:
        above |= structure.above(name, live=True)
    between = structure.those(x in recording.distributions and weighed(structure, x, recording.given) for x in structure.order)
    return list(structure.named(first | above & below & between))


def _densities(recording: Recording, names: Iterable[str]) -> dict[str, Tensor]:
    """log p of the nodes' samples, of those whose distributions have a density: of others, nothing can be read off it."""
    found: dict[str, Tensor] = {}
    for name in names:
        with suppress(NotImplementedError):
            found[name] = recording.trace.log_prob(name)
    return found


def _together(recording: Recording, idle: Mapping[str, int]) -> list[tuple[tuple[str, ...], list[str]]]:
    """(ancestors, targets) whose samples can be exchanged at once: what a target is not weighed with does not reach it.

    One group for most graphs, so that the cost of all this grows as the graph does, and not with each of its costs.
    """
    structure, given = recording.structure, recording.given
    weighing = structure.those(
        structure.nodes[x].kind == "stochastic" and weighed(structure, x, given) for x in structure.order
    )
    groups: list[tuple[torch.Size, int, int, list[str]]] = []  # batch, ancestors, what may not be exchanged, targets
    random = structure.those(structure.nodes[x].kind == "stochastic" for x in structure.order)
    for name in dict.fromkeys((*structure.costs, *_credits(structure), *_boxes(recording))):
        # A black box moves all elements of the batch at once, so they may not mix there, weights or none.
        box = getattr(structure.nodes[name].fn, "own_slope", False)
        ancestors = structure.above(name, live=True) & (random if box else weighing & ~idle.get(name, 0))
        if not ancestors:
            continue
        free, shape = structure.above(name) & weighing & ~ancestors, _Batch(recording, [name]).shape
        for i, (batch, united, spared, names) in enumerate(groups):
            if shape == batch and not (spared & ancestors or free & united):
                names.append(name)
                groups[i] = (batch, united | ancestors, spared | free, names)
                break
        else:
            groups.append((shape, ancestors, free, [name]))
    return [(structure.named(united), names) for _, united, _, names in groups]


def _boxes(recording: Recording) -> list[str]:
    """Deterministic nodes whose derivative is not autograd's, with a value per element of the batch."""
    nodes = recording.structure.nodes
    boxes = [n.name for n in nodes.values() if getattr(n.fn, "own_slope", False) and getattr(n.fn, "batched", False)]
    return [name for name in boxes if isinstance(recording.trace[name], Tensor)]


def _credits(structure: Structure) -> list[str]:
    return [n.credit for n in structure.nodes.values() if isinstance(n.credit, str) and n.credit in structure.nodes]


class _Batch:
    """The batch of some targets, and where its axes lie in each value: counted from its right end."""

    def __init__(self, recording: Recording, names: list[str]) -> None:
        self.recording, self.structure = recording, recording.structure
        shapes = [self._values(recording, name).shape[self._lead(name) :] for name in names]
        rank = recording.plan.batch_rank  # a black box may have an event
        shapes = [s[:rank] if not self.structure.is_a("cost", name) else s for s, name in zip(shapes, names, strict=True)]
        self.shape = torch.broadcast_shapes(*shapes)

    def _lead(self, name: str) -> int:
        """Axes left of the batch: time, or a plate."""
        return int(self.structure.nodes[name].in_sequence) + int(name in self.structure.on_plate)

    def _values(self, recording: Recording, name: str) -> Any:
        """`[time or plate, batch…, event…]`."""
        if name in recording.given:
            return recording.given[name]
        value = recording.trace[name]
        node = self.structure.nodes[name]
        if node.kind == "stochastic" or not node.in_sequence or not isinstance(value, Tensor):
            return value
        history = recording.trace.history
        if history is None:
            return value
        return torch.stack(
            torch.broadcast_tensors(*[torch.as_tensor(step.values[name]) for step in history])
        )  # a step may lack the batch

    def _axis(self, name: str, value: Tensor, axis: int) -> int | None:
        """Where the batch axis lies in the value of a node, None where it is not there."""
        rank = len(self.shape)
        if self.structure.nodes[name].kind == "stochastic":
            rank = value.ndim - self._lead(name) - len(self.recording.distributions[name].event_shape)
        elif self.structure.is_a("cost", name):
            rank = value.ndim - self._lead(name)
        place = self._lead(name) + rank - 1 - axis
        if axis >= rank or place >= value.ndim or value.shape[place] != self.shape[-1 - axis]:
            return None
        return place

    def others(self, ancestors: tuple[str, ...], axis: int, sides: list[Tensor]) -> dict[str, Tensor]:
        """Another sample of each ancestor from its own distribution, and other elements' values where it was given; of what
        was observed below, those of the same elements."""
        shift = int(torch.randint(1, self.shape[-1 - axis], ()))
        others: dict[str, Tensor] = {}
        for name in (*ancestors, *self._observed(ancestors)):
            mine = self._values(self.recording, name)
            if not isinstance(mine, Tensor):
                continue
            place = self._axis(name, mine, axis)
            if place is None:
                others[name] = mine.detach()
            elif name in self.recording.given:
                others[name] = mine.detach() if name == self.structure.first else mine.detach().roll(shift, place)
            else:
                others[name] = self._drawn(name, mine.detach(), place, sides)
        return others

    def _observed(self, ancestors: tuple[str, ...]) -> list[str]:
        """Observed nodes below the ancestors."""
        known = set(ancestors)
        above = self.structure.those(n in known for n in self.structure.order)
        nodes = self.structure.nodes
        given = [n for n in self.recording.given if n in nodes and nodes[n].kind == "observed"]
        return [n for n in given if self.structure.above(n) & above]

    def _drawn(self, name: str, mine: Tensor, place: int, sides: list[Tensor]) -> Tensor:
        """Up to REDRAWN samples of a node, until one differs in each half."""
        node, history = self.structure.nodes[name], self.recording.trace.history
        here = [step.distributions[name] for step in history] if history and node.in_sequence else None
        other = mine
        for _ in range(REDRAWN):
            if here is not None:
                other = torch.stack(torch.broadcast_tensors(*[plain(node, d).values.detach() for d in here]))
            else:
                other = plain(node, self.recording.distributions[name]).values.detach()
            if other.shape != mine.shape:
                return mine  # a sample of another shape each time: nothing to exchange
            if not any(same(mine.index_select(place, s), other.index_select(place, s)) for s in sides):
                break
        return other

    def mixed(self, others: Mapping[str, Tensor], axis: int, kept: Tensor) -> dict[str, Tensor]:
        """Values to give: those of `kept` as they were, those of the other elements from the other samples."""
        values: dict[str, Tensor] = {}
        for name, theirs in others.items():
            mine = self._values(self.recording, name).detach()
            place = self._axis(name, mine, axis)
            values[name] = mine
            if place is not None and mine.shape == theirs.shape:
                values[name] = theirs.index_copy(place, kept, mine.index_select(place, kept))
        return values

    def moved(
        self, reference: Recording, again: Recording, densities: Mapping[str, Tensor], names: list[str], axis: int, kept: Tensor
    ) -> tuple[str, int] | None:
        """The first node that moved though its samples did not, and the element where it did; `densities` of the reference."""
        hit: dict[str, int | None] = {}
        for name in names:
            before, after = self._values(reference, name), self._values(again, name)
            if isinstance(before, Tensor):
                hit[name] = self._moved(before, after, self._axis(name, before, axis), kept)
        for name, before in densities.items():
            place = before.ndim - 1 - axis
            there = place >= self._lead(name) and before.shape[place] == self.shape[-1 - axis]
            if hit.get(name) is None:
                hit[name] = self._moved(before, again.trace.log_prob(name), place if there else None, kept)
        found = {name: element for name, element in hit.items() if element is not None}
        if not found:
            return None
        first, element = next(iter(found.items()))
        above = self.structure.those(n in found for n in self.structure.order)
        for name in found:
            above |= self.structure.above(name)
        involved = set(self.structure.named(above))
        for mine, theirs in zip(reference.calls, again.calls, strict=True):
            if mine.node.name not in involved:
                continue
            for before, after in zip(mine.content, theirs.content, strict=False):
                if isinstance(before, Tensor) and isinstance(after, Tensor) and before.shape == after.shape:
                    plated = int(mine.node.name in self.structure.on_plate and before.ndim > len(self.shape))
                    place = plated + len(self.shape) - 1 - axis
                    if place < before.ndim and before.shape[place] == self.shape[-1 - axis]:
                        before, after = before.index_select(place, kept), after.index_select(place, kept)
                    if not close(before, after, ulps(before)):
                        return mine.node.name, element
        return first, element

    def _moved(self, before: Tensor, after: Tensor, place: int | None, kept: Tensor) -> int | None:
        """The first element of `kept`, along the axis `place`, that moved."""
        if place is None:
            return None if close(before, after, ulps(before)) else int(kept[0])
        before, after = before.index_select(place, kept), after.index_select(place, kept)
        tolerance = ulps(before)
        if close(before, after, tolerance):
            return None
        moved = (int(k) for i, k in enumerate(kept) if not close(before.select(place, i), after.select(place, i), tolerance))
        return next(moved, int(kept[0]))
