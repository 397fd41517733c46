"""Which changes are worth trying in a loss: one run of it is listened to, and every expression is asked what it could be.

missing detach                          any expression with a gradient, detached
a detach too many                       detach(), .data, item(), no_grad(), sample(): the gradient let through
own sample in the baseline              a mean, as each element's mean of the others
normalised advantages                   a deviation, as 1 (and its mean as above)
a wrong mean over an axis               a reduction, times or by the size of an axis; along another axis; [n, 1] beside [n]
log-probability of the wrong action     another draw, entry of the recording, or step, as the value
truncation treated as termination       `a | b` as a, or as b; `done` as `terminated`; `truncated` as False
bootstraps beyond a termination         an expression, times 1 - terminated
a wrong sign                            an expression, negated; min as max; the whole loss, negated
a constant factor                       the whole loss, times ½ or 2
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from scg.testing.losses.changes import (
    DRAWING,
    INDEXED,
    At,
    Attached,
    Change,
    Detached,
    Function,
    Masked,
    Recorded,
    Reparameterised,
    Scaled,
    Valued,
    along,
    axes_of,
    leave_one_out,
    name_of,
    ones,
    operand,
    other,
    squeezed,
    times,
)  # fmt: skip
from scg.testing.losses.places import Place, above, direct

REDUCTIONS, SPREADS, PESSIMISTS = (
    ("mean", "sum", "nanmean"),
    ("std", "var", "std_mean", "var_mean"),
    ("min", "max", "minimum", "maximum", "amin", "amax"),
)
ALONG = ("mean", "sum", "cumsum", "softmax", "log_softmax", "logsumexp")
LOSSES = (
    "mse_loss",
    "smooth_l1_loss",
    "huber_loss",
    "l1_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "nll_loss",
)
ARITHMETIC = ("add", "sub", "mul", "div", "truediv", "rsub", "radd", "rmul", "mse_loss", "smooth_l1_loss", "huber_loss")
SIGNED = (*ARITHMETIC, "mean", "sum", "neg", "entropy")
EITHER = ("or", "logical_or", "bitwise_or")


@dataclass
class Heard:
    """One direct call of torch: what it was, on what, and what came of it."""

    place: Place
    name: str
    shapes: tuple[tuple[int, ...], ...]
    axes: tuple[int, ...]
    out: tuple[int, ...] | None
    live: bool
    argument: int  # the identity of its first argument


@dataclass
class Listener(Change):
    """One run of the loss, changed in nothing."""

    heard: list[Heard] = field(default_factory=list)
    live: dict[Place, None] = field(default_factory=dict)  # places that give something with a gradient
    cuts: dict[Place, None] = field(default_factory=dict)
    sampled: dict[Place, bool] = field(default_factory=dict)  # user's draws, and whether rsample is there
    scored: dict[Place, tuple[int, ...]] = field(default_factory=dict)  # where a log-probability is taken, of which shape
    given: Any = None
    kept: list[Any] = field(default_factory=list)  # alive, so that no identity comes twice

    def __post_init__(self) -> None:
        super().__init__("", "")

    def recording(self, given: Any) -> Any:
        self.given = given
        return given

    def call(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found = function(*args, **kwargs)
        name, place = name_of(function), direct()
        chain = above()
        if isinstance(found, Tensor) and found.requires_grad:
            self.live.update(dict.fromkeys(chain))
        if name in Attached.CUTS and chain and not (name == "set_grad_enabled" and place is None and not _bare(chain)):
            self.cuts.update(dict.fromkeys(chain[:1]))
        if place is None:
            return found
        if name in DRAWING:
            self.sampled[place] = False
        if name in INDEXED and len(args) > INDEXED[name]:
            index = args[INDEXED[name]]
            tensors = [
                i for i in (index if isinstance(index, tuple) else (index,)) if isinstance(i, Tensor) and i.dtype == torch.long
            ]
            if tensors and (name != "getitem" or isinstance(index, tuple)):
                self.scored[place] = tuple(tensors[-1].shape)
        first = args[0] if args and isinstance(args[0], Tensor) else None
        self.kept.append(first)
        shapes = tuple(tuple(a.shape) for a in args if isinstance(a, Tensor))
        axes = axes_of(args, kwargs) if first is not None and name in (*REDUCTIONS, *SPREADS, *ALONG) else ()
        out = tuple(found.shape) if isinstance(found, Tensor) else None
        live = isinstance(found, Tensor) and found.requires_grad
        self.heard.append(Heard(place, name, shapes, axes, out, live, id(first)))
        return found

    def method(self, name: str, distribution: Distribution, original: Function, *args: Any, **kwargs: Any) -> Any:
        chain = above()
        if chain and name == "log_prob" and args and isinstance(args[0], Tensor):
            self.scored[chain[0]] = tuple(args[0].shape)
        elif chain and name in ("sample", "rsample"):
            self.sampled[chain[0]] = name == "sample" and distribution.has_rsample
        return original(distribution, *args, **kwargs)


def _bare(chain: tuple[Place, ...]) -> bool:
    """Whether a switch of gradients is a `with` of the user's, and not one inside torch's own functions."""
    return chain[0].source.startswith(("with", "torch.no_grad", "no_grad", "torch.inference_mode", "torch.set_grad_enabled"))


def changes(listener: Listener) -> Iterator[Change]:
    """What to try, most telling first."""
    yield from _values(listener)
    yield from _recorded(listener)
    for heard in _once(listener):
        yield from _reductions(heard, listener)
    for place in listener.cuts:
        yield Attached(place)
    for place, smooth in listener.sampled.items():
        if smooth:
            yield Reparameterised(place)
    for heard in _once(listener):
        if heard.name in PESSIMISTS and heard.live:
            yield At("a wrong sign", f"with the other one of min and max in {heard.place}", heard.place, [heard.name], other)
        if heard.name in SIGNED and heard.live:
            yield At(
                "a wrong sign",
                f"with −({heard.place.source}) at line {heard.place.line}",
                heard.place,
                [heard.name],
                times(-1.0),
            )
    yield from _masks(listener)
    for place in reversed(listener.live):  # the last first: what reads it is found with it
        yield Detached(place)
    yield Scaled("a wrong sign", "with the whole loss negated", -1.0)
    sizes = {n for heard in listener.heard for shape in heard.shapes for n in shape if n > 1}
    for n in sorted(sizes, reverse=True)[:16]:
        for factor, how in ((float(n), "times"), (1 / n, "divided by")):
            yield Scaled("a wrong mean over an axis", f"with the whole loss {how} {n}, the size of an axis", factor)
    yield Scaled("a constant factor", "with half the loss", 0.5)
    yield Scaled("a constant factor", "with twice the loss", 2.0)


def _once(listener: Listener) -> list[Heard]:
    return list({(h.place, h.name): h for h in listener.heard}.values())


def _values(listener: Listener) -> Iterator[Change]:
    keys = []
    if isinstance(listener.given, Mapping):
        keys = [k for k, v in listener.given.items() if isinstance(v, Tensor)]
    for place, shape in listener.scored.items():
        numel = torch.Size(shape).numel()
        for source in listener.sampled:
            if source != place:
                yield Valued(place, source)
        for key in keys:
            if listener.given[key].numel() == numel:
                yield Valued(place, key)
        for axis in range(min(len(shape), 2)):
            if shape[axis] > 1:
                for by in (1, -1):
                    yield Valued(place, (by, axis))
    for place in listener.sampled:
        for source in listener.sampled:
            if source != place:
                yield Valued(place, source, drawn=True)


def _recorded(listener: Listener) -> Iterator[Change]:
    cause = "truncation treated as termination"
    for heard in _once(listener):
        if heard.name in EITHER:
            for i in (0, 1):
                yield At(
                    cause, f"with the {('first', 'second')[i]} of {heard.place} alone", heard.place, [heard.name], operand(i)
                )
    given = listener.given
    if not isinstance(given, Mapping):
        return
    if "truncated" in given:
        yield Recorded(
            cause, "with 'truncated' as False everywhere", lambda g: {**g, "truncated": torch.zeros_like(g["truncated"])}
        )
    for key in ("done", "dones"):
        if key in given and "terminated" in given:
            yield Recorded(cause, f"with 'terminated' for {key!r}", partial(_with_terminated, key))


def _with_terminated(key: str, given: dict[str, Any]) -> dict[str, Any]:
    return {**given, key: given["terminated"].to(given[key].dtype)}


def _masks(listener: Listener) -> Iterator[Change]:
    given = listener.given
    if not isinstance(given, Mapping) or not isinstance(given.get("terminated"), Tensor):
        return
    shape = tuple(given["terminated"].shape)
    for heard in _once(listener):
        if heard.out == shape and heard.name not in ("or", "bool", "get"):
            yield Masked(heard.place, "terminated", [heard.name])


def _reductions(heard: Heard, listener: Listener) -> Iterator[Change]:
    place, name = heard.place, heard.name
    mean = "a wrong mean over an axis"
    shape = heard.shapes[0] if heard.shapes else ()
    sizes = [(a, shape[a]) for a in heard.axes if a < len(shape) and shape[a] > 1]
    if name == "mean" and sizes:
        yield At("own sample in the baseline", f"with the mean of the others in {place}", place, [name], leave_one_out)
    if name in SPREADS and sizes:
        plain = At("normalised advantages", f"without the division by {place}", place, [name], ones)
        yield plain
        centred = [h for h in listener.heard if h.name == "mean" and h.argument == heard.argument]
        if centred:
            both = At("normalised advantages", f"without the division by {place}, and with the mean of the others in {centred[0].place}",
                      place, [name], ones)  # fmt: skip
            yield both.also(At("", "", centred[0].place, ["mean"], leave_one_out))
    if (name in ("mean", "sum") and heard.live) or name in LOSSES:
        if name in LOSSES:
            sizes = [(a, n) for a, n in enumerate(shape) if n > 1]
        for axis, n in sizes:
            if name != "sum":
                yield At(mean, f"with a sum over axis {axis} (of size {n}) in {place}", place, [name], times(n))
            if name != "mean":
                yield At(mean, f"with a mean over axis {axis} (of size {n}) in {place}", place, [name], times(1 / n))
    if name in ALONG and len(heard.axes) == 1:
        for axis in range(len(shape)):
            if axis not in heard.axes and shape[axis] > 1:
                yield At(mean, f"along axis {axis} in {place}", place, [name], along(axis))
    if heard.name in ARITHMETIC and heard.out is not None and len(heard.shapes) >= 2 and _spread(heard):
        yield At(mean, f"with [n, 1] as [n] in {place}, which makes [n, n] of them", place, [name], squeezed)


def _spread(heard: Heard) -> bool:
    """[n, 1] and [n] in, [n, n] made of them."""
    a, b = heard.shapes[:2]
    if len(a) == len(b):
        return False
    wide, narrow = (a, b) if len(a) > len(b) else (b, a)
    return len(wide) == len(narrow) + 1 and wide[-1] == 1 and wide[:-1] == narrow and narrow != () and narrow[-1] > 1
