"""What an examination is valid for, and when the next one is due.

A plan is kept for a *signature*: everything that a check's answer depends on. A call with another signature is examined
anew, and so is each signature at its samples 2, 4, 8, …: by then a schedule has moved, parameters have drifted, a branch
of code is taken that was not before.

    given values and inputs   names, dtypes, requires_grad, sizes as 0, 1, 2 or more; the same of what containers hold
    the call                  number of steps as 1, 2 or more; gradients on or off
    modules                   train or eval, requires_grad of each parameter, of all that node functions can reach

An eager call holds its exact sizes against those seen before, and only new ones are reduced. Compiled code has no room
for an examination at run time: it is examined while it is traced, on the values that it is traced with, and not again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from scg.checks.check import first_sample
from scg.checks.untouched import transformed
from scg.distributions.laws import parameters
from scg.errors import GraphError
from scg.evaluation.call_arguments import known, split
from scg.evaluation.objectives import watched
from scg.evaluation.plan import Plan
from scg.specification import Specification

# Examinations after a signature's first may take so many seconds, or that share of the time since then if it is more.
ALLOWANCE, SHARE = 0.1, 0.01
REMEMBERED = 256  # calls of different exact sizes; what is forgotten costs a walk through the key, no examination

_again: ContextVar[bool] = ContextVar("scg.examination", default=True)


@contextmanager
def examination(*, again: bool) -> Iterator[None]:
    """With `again=False` no signature is examined a second time inside the block; its first sample is examined as always.

    For code whose node functions are known to stay what they are, where up to 1 % of the time matters.
    """
    token = _again.set(again)
    try:
        yield
    finally:
        _again.reset(token)


class Refused(GraphError, AssertionError):
    """A finding of an examination that ran while the compiler traced: an AssertionError, which the compiler passes on unchanged."""


class Examined:
    """A plan, how many samples have used it, and the number of the sample at which it is examined again."""

    __slots__ = ("cost", "due", "plan", "samples")

    def __init__(self, plan: Plan, cost: float) -> None:
        self.plan, self.cost = plan, cost
        self.samples, self.due = 0, 2


class Plans:
    """The plans of one graph by signature."""

    def __init__(self, graph: Specification) -> None:
        self.graph = graph
        self.exact: dict[Any, Examined] = {}
        self.broad: dict[Any, Examined] = {}
        self.modules: list[nn.Module] | None = None
        self.parameters: list[dict[str, Any]] = []
        self.loose: list[Tensor] = []
        self.compiled = SimpleNamespace()
        self.started = self.spent = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {"graph": self.graph}  # a copy of the graph may reach copies of its modules

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["graph"])  # type: ignore[misc]

    def find(self, given: Mapping[str, Any], inputs: Mapping[str, Any], steps: int | None) -> Plan:
        """The plan for an eager call, from an examination of its signature."""
        if self.modules is None:
            self._watch()
        key: list[Any] = [torch.is_grad_enabled(), steps]
        for values in (given, inputs):
            for name, v in values.items():
                key.append((name, (v.shape, v.dtype, v.requires_grad) if isinstance(v, Tensor) else described(v)))
            key.append(None)
        if self.modules or self.loose:
            key += self._state()
        exact = tuple(key)
        examined = self.exact.get(exact)
        if examined is None:
            examined = self._new(exact, given, inputs, steps)
        examined.samples += 1
        if examined.samples == examined.due:
            self._doubt(examined, given, inputs, steps)
        return examined.plan

    def trace(self, given: Mapping[str, Any], inputs: Mapping[str, Any], steps: int | None) -> Plan:
        """The same while the compiler traces: sizes as classes, so that none is tied to its number."""
        names = (tuple(given), tuple(inputs))
        values = (*given.values(), *inputs.values())
        key = (torch.is_grad_enabled(), steps, names, tuple([described(v, broad=True) for v in values]))
        name = self._traced(key)
        if name is None:
            for title, value in (*given.items(), *inputs.items()):
                if not isinstance(value, (Tensor, float, int, bool, str, type(None))):
                    raise Refused(
                        f"{title!r} is a {type(value).__name__}: a graph that takes one must be evaluated once before it is "
                        "compiled, on values of the same kinds"
                    )
            name = self._examined_now(key, *values)
        return getattr(self.compiled, name)  # by attribute: a guard on one plan does not fail when another is added

    # -- eager ---------------------------------------------------------------------------------------------

    def _new(self, exact: tuple[Any, ...], given: Mapping[str, Any], inputs: Mapping[str, Any], steps: int | None) -> Examined:
        broad = (exact[0], _steps(steps), *[_classes(part) for part in exact[2:]])
        examined = self.broad.get(broad)
        if examined is None:
            self.broad[broad] = examined = Examined(*self._examine(given, inputs, steps, 0))
            self.started = self.started or time.perf_counter()
        if len(self.exact) >= REMEMBERED:
            self.exact.clear()
        self.exact[exact] = examined
        return examined

    def _doubt(self, examined: Examined, given: Mapping[str, Any], inputs: Mapping[str, Any], steps: int | None) -> None:
        """Sample 2, 4, 8, …: examine again, where it can be afforded."""
        examined.due *= 2
        budget = max(ALLOWANCE, SHARE * (time.perf_counter() - self.started))
        if not _again.get() or self.spent + examined.cost > budget or transformed():
            return
        begun = time.perf_counter()
        self._watch()
        examined.plan, examined.cost = self._examine(given, inputs, steps, examined.due.bit_length() - 2)
        self.spent += time.perf_counter() - begun

    def _examine(
        self, given: Mapping[str, Any], inputs: Mapping[str, Any], steps: int | None, before: int
    ) -> tuple[Plan, float]:
        begun = time.perf_counter()
        known(self.graph.structure, given)
        plan = first_sample(self.graph, *split(self.graph.structure, given, inputs), steps, before)
        plan.observed = tuple(name for name in inputs if name in self.graph.nodes)
        return plan, time.perf_counter() - begun

    def _watch(self) -> None:
        """Look up the modules and tensors that node functions reach now; where they are others than before, every plan is dropped."""
        modules, loose = watched(self.graph.nodes)
        if modules != self.modules or [id(t) for t in loose] != [id(t) for t in self.loose]:
            self.modules, self.loose = modules, loose
            self.parameters = [m._parameters for m in modules if m._parameters]
            self.exact, self.broad = {}, {}

    def _state(self) -> list[Any]:
        assert self.modules is not None
        state: list[Any] = [m.training for m in self.modules]
        found = [p for own in self.parameters for p in own.values() if p is not None]
        state += map(id, found)
        state += [p.requires_grad for p in found]
        state += [t.requires_grad for t in self.loose]
        return state

    # -- compiled ------------------------------------------------------------------------------------------
    # The compiler runs these two while it traces, on the values that it traces with, and keeps their results.

    @torch._dynamo.assume_constant_result  # type: ignore[attr-defined,misc]
    def _traced(self, key: tuple[Any, ...]) -> str | None:
        if self.modules is None:
            self._watch()
        examined = self.broad.get(self._traced_key(key))
        return None if examined is None else self._named(examined)

    @torch._dynamo.assume_constant_result  # type: ignore[attr-defined,misc]
    def _examined_now(self, key: tuple[Any, ...], *values: Any) -> str:
        _, steps, (first, second), _ = key
        given = dict(zip(first, values, strict=False))
        inputs = dict(zip(second, values[len(first) :], strict=True))
        flag, torch.compiler._is_compiling_flag = torch.compiler._is_compiling_flag, False
        try:
            examined = Examined(*self._examine(given, inputs, steps, 0))
        except GraphError as error:
            raise Refused(str(error)) from error
        finally:
            torch.compiler._is_compiling_flag = flag
        self.broad[self._traced_key(key)] = examined
        return self._named(examined)

    def _named(self, examined: Examined) -> str:
        name = f"plan_{id(examined.plan)}"
        setattr(self.compiled, name, examined.plan)
        return name

    def _traced_key(self, key: tuple[Any, ...]) -> tuple[Any, ...]:
        """As `find` makes it."""
        grad, steps, (given, inputs), values = key
        named = list(zip((*given, *inputs), values, strict=True))
        return (grad, _steps(steps), *named[: len(given)], None, *named[len(given) :], None, *self._state())


def described(value: Any, broad: bool = False) -> Any:
    """What a plan depends on in a value that is no plain tensor, as something to hash."""
    if isinstance(value, Tensor):
        return (_sizes(value) if broad else value.shape, value.dtype, value.requires_grad)
    if isinstance(value, (bool, type(None))):
        return value
    if isinstance(value, (int, float, str)):
        return type(value)  # a step counter or a temperature follows a schedule: its value is no part of the signature
    if isinstance(value, Mapping):
        return (type(value), tuple([(key, described(part, broad)) for key, part in value.items()]))
    if isinstance(value, (list, tuple)):
        return (type(value), tuple([described(part, broad) for part in value]))
    if is_dataclass(value):
        return (type(value), tuple([described(getattr(value, f.name, None), broad) for f in fields(value)]))
    if isinstance(value, Distribution):
        return (type(value), tuple([described(part, broad) for part in parameters(value)]))
    return type(value)


def _steps(steps: int | None) -> int | None:
    return steps and min(steps, 3)


def _classes(part: Any) -> Any:
    """A key with sizes reduced to 0, 1, 2 and more."""
    if isinstance(part, torch.Size):
        return tuple([min(size, 3) for size in part])
    return tuple([_classes(p) for p in part]) if type(part) is tuple else part


def _sizes(tensor: Tensor) -> tuple[int, ...]:
    """The same for the compiler, to which a size may be a symbol."""
    return tuple([0 if n == 0 else 1 if n == 1 else 2 if n == 2 else 3 for n in tensor.shape])
