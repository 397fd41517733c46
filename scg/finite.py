"""A surrogate that is not finite names the node that made the first value or weight that is not.

Eagerly the scalar is looked at, and only where it is not finite are the nodes. Compiled code carries the check along as
an operation of its own, which the compiler neither looks into nor moves: its result is 0, and is added to the surrogate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from scg.errors import GraphError
from scg.scope import leaves as reached

if TYPE_CHECKING:
    from scg.recording import Call
    from scg.trace import Trace


def finite(trace: Trace, total: Tensor) -> Tensor:
    """`total`, checked."""
    if not torch.compiler.is_compiling():
        if not math.isfinite(total.item()):
            from scg.check import blame

            blame(trace)
        return total
    named: list[tuple[str, Tensor]] = []
    for name, weight in trace.evaluation.weights.items():
        named += [(f"node {name!r}: its weight", x.detach()) for x in (weight.score, weight.factor) if x is not None]
    named += [(f"node {name!r}: its value", trace.batch_value(name).detach()) for name in trace.structure.costs]
    return total + assert_finite([x for _, x in named], "\n".join(what for what, _ in named)).to(total.dtype)


def infinite_gradients(calls: Iterable[Call]) -> Iterator[tuple[str, str]]:
    """(node, message) of each function whose result is finite and whose gradient is not: √ and log behind where(), say."""
    from scg.recording import content

    for call in calls:
        leaves: list[Tensor] = []

        def leaf(x: Any, leaves: list[Tensor] = leaves) -> Any:
            if not isinstance(x, Tensor) or not x.requires_grad:
                return x
            leaves.append(x.detach().requires_grad_())
            return leaves[-1]

        changed = {str(key): tree_map(leaf, value) for key, value in call.named.items()}
        torch.set_rng_state(call.state)
        outputs = [o for o in content(call.again(**changed)) if isinstance(o, Tensor) and o.requires_grad]
        if not outputs or not all(bool(torch.isfinite(o).all()) for o in outputs):
            continue
        sources = {**reached(*outputs), **{id(x): x for x in leaves}}
        gradients = torch.autograd.grad([o.sum() for o in outputs], list(sources.values()), allow_unused=True)
        for source, gradient in zip(sources, gradients, strict=True):
            if gradient is not None and not torch.isfinite(gradient).all():
                what = "one of its parents" if any(id(x) == source for x in leaves) else "a parameter that it reads"
                yield (
                    call.node.name,
                    f"its value is finite, and the gradient of it for {what} is not. where(…) keeps a bad value out and lets "
                    "its gradient, 0 · ∞, in: clamp what goes into √, log or a division before it, not after.",
                )
                break


@torch.library.custom_op("scg::assert_finite", mutates_args=())
def assert_finite(tensors: list[Tensor], names: str) -> Tensor:
    """0, or an error with the name of the first tensor that is not finite. On a GPU the error comes when the kernel has run."""
    for tensor, name in zip(tensors, names.split("\n"), strict=True):
        good = torch.isfinite(tensor).all()
        if tensor.is_cuda:
            torch._assert_async(good, f"{name} is not finite")
        elif not good:
            raise GraphError(f"{name} is not finite; evaluate the graph eagerly to see where that begins")
    return tensors[0].new_zeros((), dtype=torch.float32)


@assert_finite.register_fake
def _(tensors: list[Tensor], names: str) -> Tensor:
    return tensors[0].new_zeros((), dtype=torch.float32)
