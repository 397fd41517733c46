"""Black boxes: deterministic nodes whose function autograd cannot differentiate, with a derivative from another source.

    y = f(x₁, …, x_k),        ∂c/∂xᵢ = (∂y/∂xᵢ)ᵀ ∂c/∂y        with ∂y/∂xᵢ from one of

    FiniteDifference    (f(x + h eⱼ) − f(x − h eⱼ)) / 2h        one perturbation an event coordinate     bias O(h²), O(h) one-sided
    SPSA                (f(x + h Δ) − f(x − h Δ)) / 2h Δⱼ       random signs Δ, all coordinates at once  (spsa.py)
    SuppliedJacobian    f returns its value and ∂y/∂xᵢ          exact if the simulator is, checked once
    SuppliedVJP         a function of ∂c/∂y returns ∂c/∂xᵢ      exact if the simulator is, checked once

`shapes` names the event axes as NumPy's generalised ufuncs do, `"(s),(a)->(s)"`, one entry a parameter; without it every
argument and the value are one number per batch element. What lies left of the event is batch: branches, time, batch. All
arguments are broadcast over it before f sees them. `batched=False` is for an f that takes one element at a time.

First order: a second derivative is refused, because differentiating a difference again estimates nothing.
Dennis & Schnabel (1996), section 5.4, for the step.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scg.errors import GraphError
from scg.estimators.black_box_call import Call, Shapes

Pullback = Callable[[Tensor], list[Tensor]]  # ∂c/∂y → ∂c/∂x of every differentiated argument


class BlackBox:
    """The protocol. A kind of derivative defines `linearise`.

    fn        takes tensors (`numpy=True`: arrays) without gradient, returns one tensor, array or number
    dtype     what fn is called with; by default what the arguments have. The value has the arguments' own
    """

    own_slope = (
        True  # its derivative is an estimate, or another's word, which the examination does not hold against differences
    )

    def __init__(
        self,
        fn: Callable[..., Any],
        shapes: str | None = None,
        *,
        batched: bool = True,
        numpy: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not callable(fn):
            raise TypeError(f"{type(self).__name__} wraps a function, got {fn!r}")
        self.fn, self.batched, self.numpy, self.dtype = fn, batched, numpy, dtype
        self.parameters: tuple[str, ...] | None = None
        try:
            signature = inspect.signature(fn.forward if isinstance(fn, nn.Module) else fn)
        except (TypeError, ValueError):
            signature = None
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        if signature is not None and all(p.kind in named for p in signature.parameters.values()):
            self.__signature__ = signature  # the node's edges are the parameters of the function inside
            self.parameters = tuple(signature.parameters)
        self.shapes = Shapes.of(self, shapes, self.parameters)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({getattr(self.fn, '__name__', type(self.fn).__name__)})"

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        call = Call(self, self._named(args, kwargs))
        self.prepare(call)
        leaves = call.leaves()
        if not leaves:
            return self.value(call).to(call.dtype)
        return _Node.apply(self, call, *leaves)  # type: ignore[no-any-return]

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        if self.parameters is None:
            if kwargs:
                raise TypeError(f"{self!r}: its function shows no parameter names, so it is called by position")
            return {str(i): value for i, value in enumerate(args)}
        return dict(self.__signature__.bind(*args, **kwargs).arguments)

    def prepare(self, call: Call) -> None:
        """Random numbers are drawn here, whether or not a gradient is wanted: the stream must not depend on that."""

    def value(self, call: Call) -> Tensor:
        """f, when no gradient is wanted."""
        return call()

    def linearise(self, call: Call) -> tuple[Tensor, Pullback]:
        """f, and the transpose of its derivative."""
        raise NotImplementedError(f"{type(self).__name__} must define linearise(call)")


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, box: BlackBox, call: Call, *leaves: Tensor) -> Tensor:
        value, ctx.pullback = box.linearise(call)
        ctx.title = repr(box)
        ctx.save_for_backward(*leaves)
        return value.to(call.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        found = ctx.pullback(grads[0])
        leaves = ctx.saved_tensors
        if torch.is_grad_enabled():  # a gradient of a cost that is linear in y would hide the second derivative
            found = [_NoSecond.apply(g, leaf, ctx.title) for g, leaf in zip(found, leaves, strict=True)]
        return None, None, *(g.to(leaf.dtype) for g, leaf in zip(found, leaves, strict=True))


class _NoSecond(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, leaf: Tensor, title: str) -> Tensor:
        ctx.title = title
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise GraphError(
            f"a second derivative was asked through {ctx.title}, whose derivative is right to first order only.\n"
            "Write the function in torch where a Hessian is needed, or estimate it with ScoreFunction() above."
        )


class FiniteDifference(BlackBox):
    """Differences along each event coordinate, all of them in one call of a batched f: 2D points (so 2D² numbers a batch
    element), D one-sided. For a D of thousands take `SPSA`.

    step      h is `step · max(1, |x|)`; by default ε^⅓ (central) and ε^½ (forward) of the dtype that f is called with,
              which balances truncation against rounding
    scheme    "central", or "forward": half the calls, and an error of O(h) instead of O(h²)
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        shapes: str | None = None,
        *,
        step: float | None = None,
        scheme: Literal["central", "forward"] = "central",
        batched: bool = True,
        numpy: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(fn, shapes, batched=batched, numpy=numpy, dtype=dtype)
        if scheme not in ("central", "forward"):
            raise ValueError(f"FiniteDifference(scheme={scheme!r}): 'central' or 'forward'")
        self.step, self.scheme = positive_step(self, step), scheme

    def linearise(self, call: Call) -> tuple[Tensor, Pullback]:
        value, points = call(watch=True), [call.flat(x) for x in call.points()]
        sizes = [x.shape[-1] for x in points]
        up, down, width = [], [], []
        for i, x in enumerate(points):
            h = step_at(x, self.step, 1 / 3 if self.scheme == "central" else 1 / 2)
            before, after = sum(sizes[:i]), sum(sizes[i + 1 :])
            own = torch.diag_embed(h).movedim(-1, 0)  # [coordinate, *batch, event]
            offsets = torch.cat([own.new_zeros(before, *x.shape), own, own.new_zeros(after, *x.shape)])
            up.append(x + offsets)
            down.append(x - offsets if self.scheme == "central" else x.expand_as(offsets))
            moved = (up[i] - down[i])[before : before + sizes[i]]  # what was added after rounding, not what was meant
            width.append(moved.diagonal(dim1=0, dim2=-1).movedim(-1, 0))
        if self.scheme == "central":
            above, below = call([torch.cat(pair) for pair in zip(up, down, strict=True)]).chunk(2)
        else:
            above, below = call(up), value
        slopes = finite_slopes(self, value, (above - below) / call.on_value(torch.cat(width)))

        def pullback(grad: Tensor) -> list[Tensor]:
            along = call.over_value(slopes * grad)  # [coordinates, *batch]
            return [g.movedim(0, -1).reshape(x.shape) for g, x in zip(along.split(sizes), call.points(), strict=True)]

        return value, pullback


class _Supplied(BlackBox):
    """A derivative that is not ours is held against a central difference the first time that it is asked for."""

    def __init__(self, *args: Any, trust: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.trusted = trust

    def verify(self, call: Call, pullback: Pullback, value: Tensor) -> None:
        """⟨g, f(x + h d) − f(x − h d)⟩ / 2h against ⟨fᵀ g, d⟩, random signs g and d, element by element of the batch."""
        if self.trusted:
            return
        own = torch.Generator(device="cpu").manual_seed(0)  # the surrogate's stream is not touched

        def signs(like: Tensor) -> Tensor:
            drawn = torch.randint(0, 2, like.shape, generator=own).to(like)
            return 2 * drawn - 1

        points, grad = call.points(), signs(value)
        h = [call.flat(step_at(x, None, 1 / 3)).amax(-1) for x in points]  # one for all coordinates of an element
        h = [hx.reshape((*hx.shape, *[1] * (x.ndim - hx.ndim))) for hx, x in zip(h, points, strict=True)]
        directions = [signs(x) for x in points]
        above, below = (
            self.value(call.moved([x + s * hx * d for x, hx, d in zip(points, h, directions, strict=True)])) for s in (1, -1)
        )
        # Along x + t h d the difference over t is Σ h ⟨∂y/∂x, d⟩.
        theirs = call.over_value(grad * (above - below) / 2)
        terms = [hx * g * d for hx, g, d in zip(h, pullback(grad), directions, strict=True)]
        ours = torch.stack([call.flat(t).sum(-1) for t in terms]).sum(0)
        scale = torch.stack([call.flat(t).abs().sum(-1) for t in terms]).sum(0) + theirs.abs()
        rounding = call.over_value(value.abs()) * torch.finfo(value.dtype).eps * 8
        wrong = (ours - theirs).abs() > 20 * torch.finfo(value.dtype).eps ** (1 / 3) * scale + rounding
        if bool(wrong.any()):
            raise ValueError(
                f"{self!r}: the derivative that was supplied gives {float(ours[wrong][0]):.6g} along a random direction, a central "
                f"difference of the value {float(theirs[wrong][0]):.6g}.\nCheck its formula and the order of its axes "
                "([*batch, *value, *argument]); trust=True skips this comparison."
            )
        self.trusted = True


class SuppliedJacobian(_Supplied):
    """fn returns `(value, jacobian)`: a tensor `[*batch, *value, *argument]`, a tuple of them in the order of the parameters,
    or a mapping by name. The first gradient that is taken is compared with a central difference; `trust=True` skips that."""

    def value(self, call: Call) -> Tensor:
        return call(take=0)

    def linearise(self, call: Call) -> tuple[Tensor, Pullback]:
        value, matrices = call.with_jacobians(watch=True)

        def pullback(grad: Tensor) -> list[Tensor]:
            return [call.transposed(matrix, grad, x) for matrix, x in zip(matrices, call.points(), strict=True)]

        self.verify(call, pullback, value)
        return value, pullback


class SuppliedVJP(_Supplied):
    """`vjp(grad, *arguments)` returns ∂c/∂x of every argument: a tensor, a tuple in the order of the parameters (None where
    there is none), or a mapping by name. Compared with a central difference at first; `trust=True` skips that."""

    def __init__(
        self,
        fn: Callable[..., Any],
        vjp: Callable[..., Tensor | tuple[Tensor | None, ...] | Mapping[str, Tensor]],
        shapes: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(fn, shapes, **settings)
        self.vjp = vjp

    def linearise(self, call: Call) -> tuple[Tensor, Pullback]:
        value = call(watch=True)

        def pullback(grad: Tensor) -> list[Tensor]:
            return call.pulled(self.vjp, grad)

        self.verify(call, pullback, value)
        return value, pullback


def positive_step(box: BlackBox, step: float | None) -> float | None:
    if step is not None and not step > 0:
        raise ValueError(f"{type(box).__name__}(step={step!r}): the step is a positive number")
    return step


def step_at(x: Tensor, step: float | None, power: float) -> Tensor:
    """h, by default ε^power, times max(1, |x|)."""
    return (torch.finfo(x.dtype).eps ** power if step is None else step) * x.abs().clamp_min(1.0)


def finite_slopes(box: BlackBox, value: Tensor, slopes: Tensor) -> Tensor:
    """A value that is finite beside one that is not would make a gradient that is not, far from here."""
    if bool((torch.isfinite(value) & ~torch.isfinite(slopes)).any()):
        raise ValueError(
            f"{box!r}: its value is finite, but not a step away from it: the argument lies at the end of what the function is "
            "defined on.\nTake a smaller step=…, or keep the argument inside (a softplus, a sigmoid)."
        )
    return slopes
