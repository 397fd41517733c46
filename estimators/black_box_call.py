"""One call of a black box: it broadcasts the arguments over the batch and evaluates the function at perturbed points.

arguments     [*batch, *event]                     batch: the broadcast of what lies left of each event
points        [n, *batch, *event]                  n of them at once
value         [*batch, *event]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from scg.estimators.black_box import BlackBox

PLAIN = (type(None), bool, int, float, str)


@dataclass(frozen=True)
class Shapes:
    """`"(s),(a)->(s)"`: the event axes of each argument and of the value, named; a number is a fixed size."""

    text: str | None
    arguments: tuple[tuple[str, ...], ...]
    value: tuple[str, ...]

    @staticmethod
    def of(box: BlackBox, text: str | None, parameters: tuple[str, ...] | None) -> Shapes:
        if text is None:
            return Shapes(None, (), ())
        group = r"\(\s*(?:\w+\s*(?:,\s*\w+\s*)*)?\)"
        if not re.fullmatch(rf"\s*{group}\s*(?:,\s*{group}\s*)*->\s*{group}\s*", text):
            raise ValueError(
                f"{box!r}: shapes={text!r} is no signature; name the event axes of each parameter and of the value, as in "
                "'(s),(a)->(s)', or '(d)->()' for a number"
            )
        left, right = text.split("->")
        found = [tuple(re.findall(r"\w+", g)) for g in re.findall(group, left)]
        if parameters is not None and len(found) != len(parameters):
            raise ValueError(
                f"{box!r}: shapes={text!r} has {len(found)} arguments, the function {len(parameters)}: {parameters}"
            )
        return Shapes(text, tuple(found), tuple(re.findall(r"\w+", right)))

    def argument(self, position: int) -> tuple[str, ...]:
        return self.arguments[position] if position < len(self.arguments) else ()


class Call:
    """The arguments of one call. `call(points)` is the function at other values of the differentiated ones."""

    def __init__(self, box: BlackBox, arguments: dict[str, Any]) -> None:
        self.box, self.arguments = box, arguments
        order = list(arguments) if box.parameters is None else list(box.parameters)
        if box.parameters is None and box.shapes.text is not None and len(order) != len(box.shapes.arguments):
            raise ValueError(
                f"{box!r}: shapes={box.shapes.text!r} has {len(box.shapes.arguments)} arguments, it was called with {len(order)}"
            )
        self.events: dict[str, int] = {}
        sizes: dict[str, int] = {}
        for name, value in arguments.items():
            if isinstance(value, Tensor):
                self.events[name] = self._event(name, value, box.shapes.argument(order.index(name)), sizes)
            elif not isinstance(value, PLAIN):
                raise TypeError(
                    f"{box!r}: argument {name!r} is a {type(value).__name__}; a black box takes tensors and plain numbers, so "
                    "that no gradient can pass it unseen"
                )
        shapes = [t.shape[: t.ndim - self.events[name]] for name, t in self._tensors().items()]
        try:
            self.batch = torch.broadcast_shapes(*shapes) if shapes else torch.Size()
        except RuntimeError as error:
            raise ValueError(
                f"{box!r}: its arguments do not broadcast over the batch: "
                + ", ".join(f"{n} {tuple(t.shape)}" for n, t in self._tensors().items())
                + (
                    ".\nSay which axes are event with shapes='(s),(a)->(s)', say"
                    if box.shapes.text is None
                    else f" with shapes={box.shapes.text!r}"
                )
            ) from error
        self.batch_rank, self.sizes = len(self.batch), sizes
        for name, t in self._tensors().items():
            self.arguments[name] = t.expand(self.batch + t.shape[t.ndim - self.events[name] :])
        floating = [t.dtype for t in self._tensors().values() if t.is_floating_point()]
        self.dtype = floating[0] if floating else torch.get_default_dtype()
        for other in floating[1:]:
            self.dtype = torch.promote_types(self.dtype, other)
        self.wanted = [
            n for n, t in self._tensors().items() if t.is_floating_point() and t.requires_grad and torch.is_grad_enabled()
        ]
        self._points: list[Tensor] | None = None
        self.signs: dict[str, Tensor] = {}

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.arguments.items() if isinstance(value, Tensor)}

    def _event(self, name: str, value: Tensor, axes: tuple[str, ...], sizes: dict[str, int]) -> int:
        if value.ndim < len(axes):
            raise ValueError(
                f"{self.box!r}: argument {name!r} has shape {tuple(value.shape)}, and shapes={self.box.shapes.text!r} gives it the "
                f"event axes ({','.join(axes)})"
            )
        for axis, size in zip(axes, value.shape[value.ndim - len(axes) :], strict=True):
            expected = int(axis) if axis.isdigit() else sizes.setdefault(axis, size)
            if size != expected:
                raise ValueError(
                    f"{self.box!r}: argument {name!r} has {size} on its event axis {axis!r}, which is {expected} by "
                    f"shapes={self.box.shapes.text!r}" + ("" if axis.isdigit() else " and the arguments before it")
                )
        return len(axes)

    # -- points ------------------------------------------------------------------------------------------------------

    def leaves(self) -> list[Tensor]:
        """The arguments that a gradient is wanted for, live."""
        return [self.arguments[name] for name in self.wanted]

    def points(self) -> list[Tensor]:
        """The same, detached, of the dtype that the function is called with."""
        if self._points is None:
            self._points = [self._cast(self.arguments[name].detach()) for name in self.wanted]
        return self._points

    def moved(self, points: Sequence[Tensor]) -> Call:
        """The call at other arguments in place of the wanted ones, without gradients."""
        changed = dict(zip(self.wanted, points, strict=True))
        values = {n: changed.get(n, v.detach() if isinstance(v, Tensor) else v) for n, v in self.arguments.items()}
        return Call(self.box, values)

    def floating(self) -> dict[str, Tensor]:
        return {name: value for name, value in self._tensors().items() if value.is_floating_point()}

    def _cast(self, x: Tensor) -> Tensor:
        return x.to(self.box.dtype) if self.box.dtype is not None and x.is_floating_point() else x

    # -- calling -----------------------------------------------------------------------------------------------------

    def __call__(self, points: Sequence[Tensor] | None = None, *, watch: bool = False, take: int | None = None) -> Tensor:
        """The value, `[*batch, *event]`, or `[n, *batch, *event]` at points `[n, *batch, *event]`, flat in their event.

        watch   complain if it has a gradient: then it depends on a tensor that is no argument
        take    of a function that returns several things, which one
        """
        lead: tuple[int, ...] = ()
        values = {n: self._cast(v.detach()) if isinstance(v, Tensor) else v for n, v in self.arguments.items()}
        if points is not None:
            lead = (points[0].shape[0],)
            values = {n: v.expand(lead + v.shape) if isinstance(v, Tensor) else v for n, v in values.items()}
            for name, x in zip(self.wanted, points, strict=True):
                values[name] = x.reshape(lead + self.arguments[name].shape)
        with torch.enable_grad() if watch else torch.no_grad():
            result = self._run(values, lead + tuple(self.batch))
        return self._checked(result if take is None else result[take], lead, watch)

    def _run(self, values: Mapping[str, Any], batch: tuple[int, ...]) -> Any:
        """The function on all elements, or on one after another."""
        if self.box.batched:
            return self._once(self.box.fn, values)
        flat = {n: v.reshape(-1, *v.shape[len(batch) :]) if isinstance(v, Tensor) else v for n, v in values.items()}
        count = int(torch.Size(batch).numel())
        if not count:
            raise ValueError(f"{self.box!r}: an empty batch {batch}; batched=False has nothing to call its function with")
        each = [
            self._once(self.box.fn, {n: v[i] if isinstance(v, Tensor) else v for n, v in flat.items()}) for i in range(count)
        ]
        return _stacked(each, batch, self._tensor)

    def _once(self, fn: Callable[..., Any], values: Mapping[str, Any]) -> Any:
        if self.box.numpy:
            values = {n: v.detach().cpu().numpy().copy() if isinstance(v, Tensor) else v for n, v in values.items()}
        return fn(*values.values()) if self.box.parameters is None else fn(**values)

    def _tensor(self, x: Any) -> Tensor:
        device = next((t.device for t in self._tensors().values()), None)
        if isinstance(x, Tensor):
            return x
        found = torch.as_tensor(x, device=device)
        return found if found.is_floating_point() and hasattr(x, "dtype") else found.to(self.box.dtype or self.dtype)

    def _checked(self, result: Any, lead: tuple[int, ...], watch: bool) -> Tensor:
        value = self._tensor(result)
        if watch and value.requires_grad:
            raise ValueError(
                f"{self.box!r}: its value depends on a tensor that requires a gradient and is no argument (a parameter of a module, "
                "a closure), which would get none.\nMake it an argument of the function, or detach it there."
            )
        rank = len(self.box.shapes.value)
        event = value.shape[value.ndim - rank :]
        expected = [int(a) if a.isdigit() else self.sizes.get(a) for a in self.box.shapes.value]
        fits = all(e is None or e == size for e, size in zip(expected, event, strict=False))
        if tuple(value.shape[: value.ndim - rank]) != lead + tuple(self.batch) or len(event) != rank or not fits:
            raise ValueError(
                f"{self.box!r} returned shape {tuple(value.shape)} for a batch {lead + tuple(self.batch)}; "
                f"by shapes={self.box.shapes.text or 'None (numbers)'!r} it is the batch, then ({','.join(self.box.shapes.value)}).\n"
                "Say the event axes with shapes=…; pass batched=False if the function takes one element at a time."
            )
        if not value.is_floating_point():
            raise ValueError(f"{self.box!r} returned {value.dtype}, which has no derivative; return floating point numbers")
        return value.detach()

    # -- derivatives -------------------------------------------------------------------------------------------------

    def on_value(self, x: Tensor) -> Tensor:
        """`[…, *batch]`, with axes of size 1 for the event of the value."""
        return x.reshape((*x.shape, *[1] * len(self.box.shapes.value)))

    def flat(self, x: Tensor) -> Tensor:
        """`[*batch, event…]` with one event axis."""
        return x.reshape(*self.batch, x.shape[self.batch_rank :].numel())

    def over_value(self, x: Tensor) -> Tensor:
        """The sum over the event of the value."""
        rank = len(self.box.shapes.value)
        return x.sum(tuple(range(-rank, 0))) if rank else x

    def with_jacobians(self, watch: bool) -> tuple[Tensor, list[Tensor]]:
        """What a function that returns `(value, jacobian)` gives: the value, and a matrix for each wanted argument."""
        values = {n: self._cast(v.detach()) if isinstance(v, Tensor) else v for n, v in self.arguments.items()}
        with torch.enable_grad() if watch else torch.no_grad():
            result = self._run(values, tuple(self.batch))
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise ValueError(f"{self.box!r}: its function returns (value, jacobian), got {type(result).__name__}")
        value = self._checked(result[0], (), watch)
        matrices = []
        for name, found in zip(self.wanted, self._of_each(result[1], "jacobian"), strict=True):
            matrix, x = self._tensor(found).detach(), self.arguments[name]
            expected = (*value.shape, *x.shape[self.batch_rank :])
            if tuple(matrix.shape) != expected:
                raise ValueError(
                    f"{self.box!r}: the jacobian for {name!r} has shape {tuple(matrix.shape)}; it is "
                    f"[*batch, *value, *argument] = {expected}"
                )
            matrices.append(matrix)
        return value, matrices

    def transposed(self, matrix: Tensor, grad: Tensor, like: Tensor) -> Tensor:
        """∂c/∂x from ∂y/∂x `[*batch, *value, *argument]`."""
        rows = matrix.reshape(*self.batch, -1, like.shape[self.batch_rank :].numel())
        flat = grad.to(matrix.dtype).reshape(*self.batch, 1, -1)
        return (flat @ rows).reshape(like.shape)

    def pulled(self, vjp: Callable[..., Any], grad: Tensor) -> list[Tensor]:
        """What a user's vjp makes of ∂c/∂y, for each wanted argument."""
        values = {n: self._cast(v.detach()) if isinstance(v, Tensor) else v for n, v in self.arguments.items()}
        grad = self._cast(grad.detach())
        with torch.no_grad():
            if self.box.batched:
                results = self._of_each(self._once_vjp(vjp, grad, values), "vjp")
                found = [self._tensor(r) for r in results]
            else:
                rank = self.batch_rank
                each = []
                for i, g in enumerate(grad.reshape(-1, *grad.shape[rank:])):
                    one = {n: v.reshape(-1, *v.shape[rank:])[i] if isinstance(v, Tensor) else v for n, v in values.items()}
                    each.append(self._of_each(self._once_vjp(vjp, g, one), "vjp"))
                found = [_stacked(list(column), tuple(self.batch), self._tensor) for column in zip(*each, strict=True)]
        for name, g in zip(self.wanted, found, strict=True):
            if g.shape != self.arguments[name].shape:
                raise ValueError(
                    f"{self.box!r}: the vjp for {name!r} has shape {tuple(g.shape)}, the argument {tuple(self.arguments[name].shape)}"
                )
        return found

    def _once_vjp(self, vjp: Callable[..., Any], grad: Tensor, values: Mapping[str, Any]) -> Any:
        given: Any = grad
        if self.box.numpy:
            values = {n: v.cpu().numpy().copy() if isinstance(v, Tensor) else v for n, v in values.items()}
            given = grad.cpu().numpy().copy()
        return vjp(given, *values.values()) if self.box.parameters is None else vjp(given, **values)

    def _of_each(self, found: Any, what: str) -> list[Any]:
        """A mapping by name, a tuple by position, or one thing for the only tensor argument: those that are wanted."""
        if isinstance(found, Mapping):
            named = dict(found)
        else:
            several = found if isinstance(found, (tuple, list)) else (found,)
            names = list(self.arguments) if len(several) == len(self.arguments) else list(self.floating())
            if len(several) != len(names):
                raise ValueError(
                    f"{self.box!r}: {len(several)} {what}s for the arguments {', '.join(self.arguments)}; return one for each, in "
                    "their order, or a mapping by name"
                )
            named = dict(zip(names, several, strict=True))
        missing = [name for name in self.wanted if named.get(name) is None]
        if missing:
            raise ValueError(
                f"{self.box!r}: a gradient is wanted for {missing[0]!r}, and its {what} is missing; detach it if none is meant"
            )
        return [named[name] for name in self.wanted]


def _stacked(each: list[Any], batch: tuple[int, ...], tensor: Callable[[Any], Tensor]) -> Any:
    """Results of single elements, `[*batch, …]`, through tuples and mappings."""
    if isinstance(each[0], Mapping):
        return {key: _stacked([e[key] for e in each], batch, tensor) for key in each[0]}
    if isinstance(each[0], (tuple, list)):
        return tuple(_stacked(list(column), batch, tensor) for column in zip(*each, strict=True))
    whole = torch.stack([tensor(e) for e in each])
    return whole.reshape((*batch, *whole.shape[1:]))
