"""The graph as a plain program: every node at every step, who reads whom, and what each function gives.

Nothing here knows surrogates, weights or estimators, so that an oracle built on it shares no algebra with what it
judges. A node at a step is an *occurrence* `(name, t)`, `t` None outside the sequence.

    reach(c)    the occurrences that influence the cost occurrence c: by paths without a detach edge (`live`),
                by paths with one (`frozen`), or both
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Transform
from torch.utils._pytree import tree_flatten, tree_map

from scg.errors import GraphError
from scg.graph import Graph
from scg.node import Edge
from scg.tree import rebuilt

Key = tuple[str, int | None]
Read = Callable[[Key], tuple[Any, bool]]  # an occurrence's value, and whether it has the axis of outcomes
Frozen = dict[tuple[Key, str], tuple[Any, bool]]  # the same for a detached edge, by reader and parameter
HELD = "held "  # before the parameter, where a conditional edge detaches it


@dataclass
class Reach:
    live: bool = False
    frozen: bool = False


class NotVectorised(Exception):
    """A node's function does not work along a leading axis: it must be called outcome by outcome."""


class Program:
    """`graph` at given inputs, unrolled over `steps`."""

    def __init__(self, graph: Graph, inputs: Mapping[str, Any], steps: int | None) -> None:
        self.graph, self.structure, self.nodes = graph, graph.structure, graph.structure.nodes
        self.inputs = inputs
        self.steps = self._steps(steps)
        self.keys: list[Key] = [(n.name, None) for n in self.structure.before if n.kind != "observed"]
        self.keys += [(n.name, t) for t in range(self.steps) for n in self.structure.inside if n.kind != "observed"]
        self.keys += [(n.name, None) for n in self.structure.after]
        self.costs = [key for key in self.keys if self.nodes[key[0]].kind == "cost"]
        self.stochastic = [key for key in self.keys if self.nodes[key[0]].kind == "stochastic"]
        self.ranks: dict[str, int] = {}
        self.detaches = any(edge.detached for node in self.nodes.values() for edge in node.parents)
        missing = [n for n in self.structure.required if n not in inputs]
        if missing:
            raise GraphError(f"{missing[0]!r} is missing: the oracle evaluates the graph, so every input must be passed")

    def _steps(self, steps: int | None) -> int:
        if not self.structure.inside:
            return 0
        for node in self.nodes.values():
            if node.kind == "observed" and node.in_sequence and node.name in self.inputs:
                steps = self.inputs[node.name].shape[0]
        if steps is None:
            raise GraphError("this graph has a sequence: say how many steps, steps=3 for instance")
        return steps

    # -- who reads whom ------------------------------------------------------------------------------------

    def occurrence(self, name: str, t: int | None) -> Key:
        """Where a reader at step t finds `name`: at its own step, outside, or at the sequence's last step."""
        if not self.nodes[name].in_sequence:
            return (name, None)
        return (name, self.steps - 1 if t is None else t)

    def sources(self, edge: Edge, t: int | None) -> Iterator[Key]:
        """The occurrences that an edge may take its value from."""
        if edge.prefix:
            if edge.init in self.nodes:
                yield (edge.init, None)  # type: ignore[misc]
            for s in range(self.steps if t is None else t):
                yield (edge.source, s)
        elif edge.lag:
            assert t is not None
            if (t == 0 or self.structure.first in self.inputs) and edge.init in self.nodes:
                yield (edge.init, None)  # type: ignore[misc]
            if t > 0:
                yield (edge.source, t - 1)
        elif edge.source in self.nodes:
            yield self.occurrence(edge.source, t)

    def arrows(self, key: Key) -> Iterator[tuple[Key, bool]]:
        """(source, without a detach edge); a `dist` edge reads what its distribution's function reads."""
        for edge in self.nodes[key[0]].parents:
            if self.nodes[key[0]].kind == "observed":
                return
            if edge.dist:
                for source, live in self.arrows(self.occurrence(edge.source, key[1])):
                    yield source, live and not edge.detached
                continue
            for source in self.sources(edge, key[1]):
                yield source, not edge.detached

    def reach(self, target: Key) -> dict[Key, Reach]:
        """Everything that influences `target`, in the order in which it runs; `target` itself last."""
        found: dict[Key, Reach] = {}
        queue = [(target, True)]
        while queue:
            key, live = queue.pop()
            seen = found.setdefault(key, Reach())
            if seen.live if live else seen.frozen:
                continue
            if live:
                seen.live = True
            else:
                seen.frozen = True
            queue += [(source, live and plain) for source, plain in self.arrows(key)]
        return {key: found[key] for key in self.keys if key in found}

    # -- what each function gives --------------------------------------------------------------------------

    def given(self, name: str, t: int | None) -> Any:
        """The value of an input, or of an observed node at a step."""
        value = self.inputs[name]
        if name in self.nodes and self.nodes[name].in_sequence:
            return value[self.steps - 1 if t is None else t]
        return value

    def arguments(
        self, key: Key, read: Read, axis: int = 0, frozen: Frozen | None = None, held: bool = False
    ) -> list[tuple[Edge, Any, bool]]:
        """(edge, value, has the axis of outcomes). Detached edges are noted in `frozen`, or taken from it once it is full.

        held   every value of a node is detached: what a conditional edge to this node reads
        """
        found = []
        distributions: dict[tuple[str, bool, bool], tuple[Any, bool]] = {}  # asked for twice, it is one object
        for edge in self.nodes[key[0]].parents:
            if edge.optional and edge.source not in self.inputs:
                continue
            if held and edge.source in self.nodes:
                edge = replace(edge, param=HELD + edge.param, detached=True, conditional=False)
            if edge.conditional:
                found.append((edge, *self._shared(edge, key, read, axis, frozen, distributions)))
                continue
            if edge.detached and frozen is not None and (key, edge.param) in frozen:
                value, has = frozen[key, edge.param]
            elif edge.dist:
                value, has = self._shared(edge, key, read, axis, frozen, distributions)
            else:
                value, has = self._value(edge, key[1], read)
                value = rebuilt(value, Tensor.detach, edge.source) if edge.detached else value
            if edge.detached and frozen is not None:
                frozen[key, edge.param] = value, has
            found.append((edge if not held else replace(edge, param=edge.param.removeprefix(HELD)), value, has))
        return found

    def _shared(
        self,
        edge: Edge,
        key: Key,
        read: Read,
        axis: int,
        frozen: Frozen | None,
        distributions: dict[tuple[str, bool, bool], tuple[Any, bool]],
    ) -> tuple[Any, bool]:
        """The distribution that an edge reads; a `conditional` one keeps a gradient to what its function holds."""
        which = edge.source, edge.detached, edge.conditional
        if which not in distributions:
            whole, has = self._result(self.occurrence(edge.source, key[1]), read, axis, frozen, edge.conditional)
            cut = edge.detached and not edge.conditional
            distributions[which] = rebuilt(whole, Tensor.detach, edge.source) if cut else whole, has
        return distributions[which]

    def _prefix(self, edge: Edge, t: int | None, read: Read) -> tuple[Any, bool]:
        """`init ‖ x_0 …`, up to step t or, after the sequence, all of them."""
        event = edge.event
        found = [] if edge.init is None else [self._named(edge.init, None, read)]
        for s in range(self.steps if t is None else t):
            value, has = read((edge.source, s))
            found.append((value.unsqueeze(value.ndim - event), has))
        rank = max(x.ndim - h for x, h in found)
        spread = [x.reshape(*x.shape[:h], *[1] * (rank - x.ndim + h), *x.shape[h:]) for x, h in found]
        lead = torch.broadcast_shapes(*[x.shape[: -1 - event] for x in spread])
        return torch.cat([x.expand(*lead, *x.shape[-1 - event :]) for x in spread], -1 - event), any(h for _, h in found)

    def _value(self, edge: Edge, t: int | None, read: Read) -> tuple[Any, bool]:
        if edge.prefix:
            return self._prefix(edge, t, read)
        if not edge.lag:
            return self._named(edge.source, t, read)
        assert t is not None
        assert edge.init is not None
        initial, initial_has = self._named(edge.init, None, read)
        if t == 0:
            return initial, initial_has
        before, has = self._named(edge.source, t - 1, read)
        if self.structure.first is None or self.structure.first not in self.inputs:
            return before, has
        opens = self.inputs[self.structure.first][t].bool()
        rank = max(before.ndim - has, initial.ndim - initial_has)
        opens = opens.reshape(*opens.shape, *[1] * (rank - opens.ndim))
        return torch.where(opens, initial, before), has or initial_has

    def _named(self, name: str, t: int | None, read: Read) -> tuple[Any, bool]:
        if name not in self.nodes or self.nodes[name].kind == "observed":
            return self.given(name, t), False
        return read(self.occurrence(name, t))

    def call(self, key: Key, arguments: list[tuple[Edge, Any, bool]]) -> Any:
        node = self.nodes[key[0]]
        assert node.fn is not None
        if node.positional:
            result = node.fn(*[value for _, value, _ in arguments])
        else:
            result = node.fn(**{edge.param: value for edge, value, _ in arguments})
        if node.name in self.structure.prefixed:  # one value for each position, of which the last is meant
            place = next(v.ndim - 1 - e.event for e, v, _ in arguments if e.prefix)
            return tree_map(lambda x: x.select(place, -1), result)
        if node.kind != "cost":
            return result
        return node.sign * (result if isinstance(result, Tensor) else torch.as_tensor(result, dtype=torch.get_default_dtype()))

    def result(self, key: Key, read: Read, axis: int = 0, frozen: Frozen | None = None) -> tuple[Any, bool]:
        """What the function gives, a distribution expanded along its node's plate."""
        result, has = self._result(key, read, axis, frozen)
        plate = self.nodes[key[0]].plate
        if plate is None:
            return result, has
        shape = result.batch_shape
        rank = self.ranks.setdefault(key[0], len(shape))  # its own batch rank: the first call is one without outcomes
        if len(shape) - has > rank:  # an ancestor's outcomes left room for the plate
            return result.expand(torch.Size((*shape[:has], plate, *shape[has + 1 :]))), has
        return result.expand(torch.Size((plate, *shape))), has

    def _result(self, key: Key, read: Read, axis: int, frozen: Frozen | None, held: bool = False) -> tuple[Any, bool]:
        """What the function gives on all outcomes at once, and whether that has their axis.

        Held against what it gives on the first and on the last outcome alone: a function that mixes outcomes, or asks
        a tensor for its truth value, cannot be called along an axis (`NotVectorised`).
        """
        arguments, checked = self.arguments(key, read, axis, frozen, held), HELD if held else ""
        if not any(has for _, _, has in arguments):
            return self.call(key, arguments), False
        try:
            together = self.call(key, arguments)
        except Exception as error:
            raise NotVectorised(f"node {key[0]!r}: {error}") from error
        if frozen is not None and (key, checked) in frozen:  # compared with single outcomes when it was first run
            return together, frozen[key, checked][1]
        verdicts = set()
        for i in sorted({0, axis - 1}):
            alone = self.call(key, self.arguments(key, outcome(read, i), held=held))
            for whole, single in zip(content(together), content(alone), strict=True):
                if whole.shape == (axis, *single.shape) and close(whole[i], single):
                    verdicts.add(True)
                elif whole.shape != single.shape or not close(whole, single):
                    raise NotVectorised(f"node {key[0]!r}: all outcomes at once differ from one alone")
            if isinstance(together, Distribution) and together.batch_shape == alone.batch_shape and True in verdicts:
                raise NotVectorised(f"node {key[0]!r}: outcomes reach its distribution other than through its batch shape")
        if frozen is not None:
            frozen[key, checked] = None, True in verdicts
        return together, True in verdicts


def outcome(read: Read, i: int) -> Read:
    """`read`, as outcome i alone sees it."""

    def alone(key: Key) -> tuple[Any, bool]:
        value, has = read(key)
        return (tree_map(lambda v: v[i] if isinstance(v, Tensor) else v, value) if has else value), False

    return alone


def lifted(value: Any, n: int, axis: int) -> Any:
    """A value made when there were n outcomes, seen from `axis` of them."""
    if n == axis:
        return value
    return tree_map(lambda v: v.repeat_interleave(axis // n, 0) if isinstance(v, Tensor) else v, value)


def content(result: Any) -> list[Tensor]:
    """The tensors to compare: those of a value, or those that a distribution is made of."""
    if not isinstance(result, Distribution):
        leaves = [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, (Tensor, float, int))]
        return [torch.as_tensor(leaf) for leaf in leaves]
    found: list[Tensor] = []
    for _, value in sorted(vars(result).items()):
        for part in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(part, Distribution):
                found += content(part)
            elif isinstance(part, Tensor):
                found.append(part)
            elif isinstance(part, Transform):
                found += [v for _, v in sorted(vars(part).items()) if isinstance(v, Tensor)]
    return found


def close(a: Tensor, b: Tensor) -> bool:
    """Equal to the rounding of kernels that sum in different orders."""
    tolerance = 1e-4 if a.dtype in (torch.float32, torch.float16, torch.bfloat16) else 1e-9
    a, b = torch.nan_to_num(a.detach().double()), torch.nan_to_num(b.detach().double())
    scale = float(a.abs().max()) if a.numel() else 0.0
    return bool(torch.allclose(a, b, rtol=tolerance, atol=tolerance * scale + 1e-300))
