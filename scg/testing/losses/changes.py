"""One thing done differently inside a loss, while it runs: the counterfactuals of `causes.py`.

A `Change` is a context. Inside, every call of torch and every `sample`, `rsample` and `log_prob` of a distribution passes
through it (`torch.overrides.TorchFunctionMode`; the distributions' methods are wrapped), and it alters those that are made
at its place in the source. The loss itself is not looked into otherwise, and nothing is left changed afterwards.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.overrides import TorchFunctionMode

from scg.testing.losses.places import Place, direct, within

Function = Callable[..., Any]
METHODS = ("sample", "rsample", "log_prob")
_inside = threading.local()


class Change:
    """What is done differently, in words: `cause`, one of a few, and `what`, with its place."""

    def __init__(self, cause: str, what: str) -> None:
        self.cause, self.what = cause, what
        self._stack = ExitStack()

    def __str__(self) -> str:
        return f"{self.cause}: {self.what}"

    def call(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call of torch."""
        return function(*args, **kwargs)

    def method(self, name: str, distribution: Distribution, original: Function, *args: Any, **kwargs: Any) -> Any:
        """`distribution.sample(…)`, `.rsample(…)` or `.log_prob(…)`."""
        return original(distribution, *args, **kwargs)

    def recording(self, given: Any) -> Any:
        return given

    def result(self, value: Tensor) -> Tensor:
        return value

    def __enter__(self) -> Change:
        self._stack = ExitStack()
        if type(self).method is not Change.method:
            self._stack.enter_context(_wrapped(self))
        if type(self).call is not Change.call:
            self._stack.enter_context(_Mode(self))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()


class _Mode(TorchFunctionMode):
    def __init__(self, change: Change) -> None:
        super().__init__()
        self.change = change

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.change.call(func, args, kwargs or {})


@contextmanager
def _wrapped(change: Change) -> Iterator[None]:
    """Methods of all distributions, wrapped; one that another one calls passes as it is."""

    def wrap(name: str, original: Function) -> Function:
        @functools.wraps(original)
        def method(self: Distribution, *args: Any, **kwargs: Any) -> Any:
            if getattr(_inside, "method", False):
                return original(self, *args, **kwargs)
            _inside.method = True
            try:
                return change.method(name, self, original, *args, **kwargs)
            finally:
                _inside.method = False

        return method

    saved = [(cls, name, cls.__dict__[name]) for cls in _classes(Distribution) for name in METHODS if name in cls.__dict__]
    try:
        for cls, name, original in saved:
            setattr(cls, name, wrap(name, original))
        yield
    finally:
        for cls, name, original in saved:
            setattr(cls, name, original)


def _classes(cls: type) -> Iterator[type]:
    yield cls
    below: type
    for below in cls.__subclasses__():
        yield from _classes(below)


def name_of(function: Function) -> str:
    """`mean` of torch.mean and of Tensor.mean; `data` of the attribute."""
    name = getattr(function, "__name__", "")
    if name == "__get__":
        name = getattr(getattr(function, "__self__", None), "__name__", name)
    return name.removesuffix("_") if not name.startswith("_") else name.strip("_")


# -- gradients -----------------------------------------------------------------------------------------------


class Detached(Change):
    """What the expression at `place` gives, without its gradient."""

    def __init__(self, place: Place) -> None:
        super().__init__("missing detach", f"with {place} detached")
        self.place = place

    def call(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found = function(*args, **kwargs)
        if isinstance(found, Tensor) and found.requires_grad and within(self.place):
            return found.detach()
        if isinstance(found, tuple) and within(self.place):
            parts = [x.detach() if isinstance(x, Tensor) else x for x in found]
            return type(found)(parts) if hasattr(found, "n_fields") else tuple(parts)
        return found


class Attached(Change):
    """The gradient let through where the source cuts it."""

    CUTS = ("detach", "data", "item", "set_grad_enabled")

    def __init__(self, place: Place) -> None:
        super().__init__("a detach too many", f"with the gradient let through {place}")
        self.place = place

    def call(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = name_of(function)
        if name in self.CUTS and within(self.place):
            return function(True) if name == "set_grad_enabled" else args[0]
        return function(*args, **kwargs)


class Reparameterised(Change):
    def __init__(self, place: Place) -> None:
        super().__init__("a detach too many", f"with rsample() for sample() in {place}")
        self.place = place

    def method(self, name: str, distribution: Distribution, original: Function, *args: Any, **kwargs: Any) -> Any:
        if name == "sample" and within(self.place):
            return distribution.rsample(*args, **kwargs)
        return original(distribution, *args, **kwargs)


# -- reductions ----------------------------------------------------------------------------------------------


class At(Change):
    """Another value of the calls that are made directly at `place`."""

    def __init__(self, cause: str, what: str, place: Place, names: Sequence[str], value: Callable[..., Any]) -> None:
        super().__init__(cause, what)
        self.edits: dict[Place, tuple[frozenset[str], Callable[..., Any]]] = {place: (frozenset(names), value)}

    def also(self, other: At) -> At:
        self.edits.update(other.edits)
        return self

    def call(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = name_of(function)
        if any(name in names for names, _ in self.edits.values()):
            names, value = self.edits.get(direct() or Place(self.call.__code__, 0), (frozenset(), None))
            if name in names and value is not None:
                return value(function, args, kwargs)
        return function(*args, **kwargs)


def axes_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, ...]:
    """The axes that a reduction goes over."""
    x = args[0]
    dim = kwargs.get("dim", kwargs.get("axis", next((a for a in args[1:] if not isinstance(a, (Tensor, bool))), None)))
    dims = tuple(range(x.ndim)) if dim is None or dim == () else (dim,) if isinstance(dim, int) else tuple(dim)
    return tuple(d % max(x.ndim, 1) for d in dims)


def leave_one_out(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The mean of the others, for each element."""
    x, axes = args[0], axes_of(args, kwargs)
    n = 1
    for a in axes:
        n *= x.shape[a]
    return (x.sum(axes, keepdim=True) - x) / (n - 1)


def times(factor: float) -> Callable[..., Tensor]:
    return lambda function, args, kwargs: function(*args, **kwargs) * factor


def ones(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    found = function(*args, **kwargs)
    if isinstance(found, tuple):  # std_mean
        return (torch.ones_like(found[0]), leave_one_out(function, args, kwargs))
    return torch.ones_like(found)


def along(axis: int) -> Callable[..., Any]:
    """The same function along another axis."""

    def value(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x, *others = args
        kept = {k: v for k, v in kwargs.items() if k not in ("dim", "axis")}
        if others and not isinstance(others[0], (Tensor, bool)):
            others = others[1:]
        return function(x, axis, *others, **kept)

    return value


def squeezed(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """[n, 1] beside [n] as [n] beside [n]."""
    least = min(a.ndim for a in args if isinstance(a, Tensor) and a.ndim)
    return function(*(a.squeeze(-1) if isinstance(a, Tensor) and a.ndim > least else a for a in args), **kwargs)


def other(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """min for max, and max for min."""
    swap: dict[str, Function] = {
        "min": torch.max,
        "max": torch.min,
        "minimum": torch.maximum,
        "maximum": torch.minimum,
        "amin": torch.amax,
        "amax": torch.amin,
    }
    return swap[name_of(function)](*args, **kwargs)


def operand(i: int) -> Callable[..., Any]:
    return lambda function, args, kwargs: args[i]


# -- values --------------------------------------------------------------------------------------------------

INDEXED = {"gather": 2, "take_along_dim": 1, "cross_entropy": 1, "nll_loss": 1, "one_hot": 0, "getitem": 1}
DRAWING = ("multinomial", "bernoulli", "randint", "argmax", "normal")


class Valued(Change):
    """Another value in place of the one whose log-probability is taken, or that is drawn, at `place`.

    source   a place whose last draw is taken; a key of the recording; or how far the value is rolled along an axis
    """

    def __init__(self, place: Place, source: Place | str | tuple[int, int], drawn: bool = False) -> None:
        what = (
            f"with the draw of {source}" if isinstance(source, Place)
            else f"with {source!r} of the recording" if isinstance(source, str)
            else f"with its value moved by {source[0]} along axis {source[1]}"
        )  # fmt: skip
        super().__init__("log-probability of the wrong action", f"{what} in {place}")
        self.place, self.source, self.drawn = place, source, drawn
        self.last: Tensor | None = None

    def recording(self, given: Any) -> Any:
        if isinstance(self.source, str):
            self.last = given[self.source]
        return given

    def __enter__(self) -> Change:
        if not isinstance(self.source, str):
            self.last = None
        return super().__enter__()

    def method(self, name: str, distribution: Distribution, original: Function, *args: Any, **kwargs: Any) -> Any:
        if name == "log_prob":
            value = self._instead(args[0]) if args and not self.drawn and within(self.place) else None
            return original(distribution, *(args if value is None else (value,)), **kwargs)
        found = original(distribution, *args, **kwargs)
        return self._drawn(found)

    def call(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = name_of(function)
        if name in DRAWING and not getattr(_inside, "method", False):
            return self._drawn(function(*args, **kwargs))
        where = INDEXED.get(name)
        if where is not None and not self.drawn and len(args) > where and direct() == self.place:
            return function(*args[:where], self._indexed(args[where]), *args[where + 1 :], **kwargs)
        return function(*args, **kwargs)

    def _drawn(self, found: Tensor) -> Tensor:
        if self.drawn and self.last is not None and within(self.place):
            return self._instead(found)
        if isinstance(self.source, Place) and within(self.source):
            self.last = found
        return found

    def _instead(self, value: Tensor) -> Tensor:
        if isinstance(self.source, tuple):
            return value.roll(*self.source)
        if self.last is None or self.last.numel() != value.numel():
            return value
        return self.last.reshape(value.shape).to(value.dtype)

    def _indexed(self, index: Any) -> Any:
        if isinstance(index, tuple):  # log_probs[rows, actions]
            return tuple(self._instead(i) if isinstance(i, Tensor) and not _is_range(i) else i for i in index)
        return self._instead(index) if isinstance(index, Tensor) and not index.is_floating_point() else index


def _is_range(index: Tensor) -> bool:
    flat = index.flatten()
    return bool(torch.equal(flat, torch.arange(len(flat), device=flat.device)))


class Recorded(Change):
    """Another entry in the recording."""

    def __init__(self, cause: str, what: str, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        super().__init__(cause, what)
        self.edit = edit

    def recording(self, given: Any) -> Any:
        return self.edit(dict(given))


class Masked(Change):
    """What the expression at `place` gives, times 1 - an entry of the recording."""

    def __init__(self, place: Place, key: str, names: Sequence[str]) -> None:
        super().__init__("bootstraps beyond a termination", f"with {place} multiplied by 1 - {key}")
        self.place, self.key, self.names, self.mask = place, key, frozenset(names), torch.zeros(())

    def recording(self, given: Any) -> Any:
        self.mask = 1 - given[self.key].to(torch.get_default_dtype())
        return given

    def call(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found = function(*args, **kwargs)
        return found * self.mask if name_of(function) in self.names and direct() == self.place else found


class Scaled(Change):
    """The whole loss, times a number."""

    def __init__(self, cause: str, what: str, factor: float) -> None:
        super().__init__(cause, what)
        self.factor = factor

    def result(self, value: Tensor) -> Tensor:
        return value * self.factor
