"""Evaluations that keep every call of a node function, and what it takes to compare two of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.utils._pytree import tree_leaves

from scg.distributions.laws import parameters
from scg.evaluation.evaluation import Evaluation
from scg.evaluation.plan import Plan
from scg.evaluation.record import Record
from scg.node import Node
from scg.randomness import seed
from scg.specification import Specification
from scg.tree import leaves, tensors


class Call:
    """One call of a node function: what it got, what it gave, and where the random stream stood."""

    def __init__(self, node: Node, arguments: Any, state: Tensor) -> None:
        self.node, self.state = node, state
        self.arguments = arguments
        self.content: list[Any] = []
        self.written: str | None = None
        self.after = state

    @cached_property
    def named(self) -> dict[str, Any]:
        """Arguments by parameter; edges by the same key."""
        return dict(enumerate(self.arguments)) if self.node.positional else self.arguments  # type: ignore[arg-type]

    def again(self, **changes: Any) -> Any:
        """Run the function on these arguments, some of them changed."""
        assert self.node.fn is not None
        if not changes:
            return self.node.fn(*self.arguments) if self.node.positional else self.node.fn(**self.arguments)
        if self.node.positional:
            arguments = list(self.arguments)
            for key, value in changes.items():
                arguments[int(key)] = value
            return self.node.fn(*arguments)
        return self.node.fn(**{**self.arguments, **changes})


class Recording(Evaluation):
    """An evaluation that keeps every call. With `like`, what is drawn is drawn from the random numbers of that recording.

    watched     afterwards `altered` says whether some argument was written to in place: a comparison for each value
    tracking    each call says whether it wrote into what it got: a comparison for each edge
    """

    def __init__(
        self, *args: Any, like: Recording | None = None, watched: bool = False, tracking: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.calls: list[Call] = []
        self.like, self.watched, self.tracking = like, watched, tracking
        self.verifying = True
        self.trace: Record
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def altered(self) -> bool:
        """Whether a value is another one than when it was made. By content: what is written through numpy counts no version."""
        if self._parts:
            return True
        return not same([t for t, _ in self._kept.values()], [before for _, before in self._kept.values()])

    def put_back(self) -> None:
        """Undo what was written into the inputs."""
        for t, before in self._kept.values():
            if not same(t, before):
                t.data.copy_(before)

    _parts = False
    at = ""  # the node whose function was called last

    caching = False  # a call is to be a function of its arguments

    def _call(self, node: Node, arguments: Any, instead: Any = None) -> Any:
        self.at = node.name
        if self.like is not None:
            torch.set_rng_state(self.like.calls[len(self.calls)].state)
        call = Call(node, arguments, torch.get_rng_state() if self.like is None else self.like.calls[len(self.calls)].state)
        held = tensors(arguments) if self.watched or self.tracking else []
        before = [t.detach().clone() for t in held] if self.tracking else []
        if self.watched:
            self._kept.update((id(t), (t, t.detach().clone())) for t in held if id(t) not in self._kept)
        parts = identities(arguments) if self.watched or self.tracking else None
        result = super()._call(node, arguments, instead)
        call.content = content(result)
        if parts is not None and identities(arguments) != parts:
            self._parts = True
            call.written = node.name
        if self.tracking and not same(before, held):
            call.written = node.name
        if self.like is None:
            call.after = torch.get_rng_state()
        else:
            call.after = self.like.calls[len(self.calls)].after
            torch.set_rng_state(call.after)
        self.calls.append(call)
        return result


class Draws:
    """Recordings of one graph. Each begins with a seed of its own, from a stream that functions which are run again cannot rewind."""

    def __init__(self, graph: Specification, plan: Plan, inputs: Mapping[str, Any], steps: int | None) -> None:
        self.graph, self.plan, self.inputs, self.steps = graph, plan, inputs, steps
        self.stream = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        self.latest: Recording  # also where it ended in an error

    def seed(self) -> None:
        """New random numbers."""
        seed(int(torch.randint(2**31, (), generator=self.stream)))

    def __call__(
        self,
        given: Mapping[str, Any],
        like: Recording | None = None,
        *,
        branching: bool = False,
        stepping: bool = True,
        watched: bool = False,
        tracking: bool = False,
    ) -> Recording:
        self.seed()
        recording = Recording(
            self.graph,
            self.plan,
            given,
            self.inputs,
            self.steps,
            branching=branching,
            stepping=stepping,
            like=like,
            watched=watched,
            tracking=tracking,
        )
        self.latest = recording
        recording.trace = recording.run()
        return recording


def identities(thing: Any) -> list[int]:
    """What containers hold, by identity: an entry that is added, taken away or exchanged changes it."""
    if isinstance(thing, Tensor):
        return [id(thing)]
    if isinstance(thing, list) and all(isinstance(value, Tensor) for value in thing):
        return [*map(id, thing)]
    if isinstance(thing, Mapping):
        return [part for key, value in thing.items() for part in (hash(key), *identities(value))]
    if isinstance(thing, (list, tuple)):
        return [part for value in thing for part in identities(value)]
    if is_dataclass(thing):
        return [part for f in fields(thing) for part in identities(getattr(thing, f.name, None))]
    return [id(thing)]


def content(result: Any) -> list[Any]:
    """What can be compared in a node's result: the tensors of a distribution, the leaves of a value or container."""
    return parameters(result) if isinstance(result, Distribution) else leaves(result)


def same(a: Any, b: Any) -> bool:
    """Equal to the bit, NaN equal to NaN."""
    xs, ys = _flat(a), _flat(b)
    if len(xs) != len(ys):
        return False
    for x, y in zip(xs, ys, strict=True):
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            if x.shape != y.shape:
                return False
            if not torch.equal(x, y) and not torch.equal(torch.nan_to_num(x.detach()), torch.nan_to_num(y.detach())):
                return False
        elif isinstance(x, (int, float, bool, str)) and x != y:
            return False
    return True


def _flat(thing: Any) -> list[Any]:
    if isinstance(thing, Tensor):
        return [thing]
    if isinstance(thing, list) and all(isinstance(part, Tensor) for part in thing):
        return thing
    return tree_leaves(thing)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-3) -> bool:
    """Equal to rounding: by default to that of batched and unbatched kernels, which sum in different orders."""
    equal = bool(torch.equal(a, b))
    if equal or not a.is_floating_point():
        return equal
    a, b = a.detach().double(), b.detach().double()
    scale = float(torch.nan_to_num(a).abs().max()) if a.numel() else 0.0
    return bool(torch.allclose(torch.nan_to_num(a), torch.nan_to_num(b), rtol=tolerance, atol=tolerance * scale + 1e-12))


def ulps(x: Tensor) -> float:
    """The shapes are the same, and so are the kernels: nothing but a reduction in another order may differ."""
    return 256 * torch.finfo(x.dtype).eps if x.is_floating_point() else 0.0
