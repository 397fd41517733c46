"""Evaluations that keep every call of a node function, and what it takes to compare two of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.utils._pytree import tree_leaves

from scg.distributions import parameters
from scg.evaluate import Evaluation
from scg.node import Node
from scg.trace import Trace
from scg.tree import leaves


class Call:
    """One call of a node function: what it got, what it gave, and where the random stream stood."""

    def __init__(self, node: Node, arguments: Any, state: Tensor) -> None:
        self.node, self.state = node, state
        self.arguments = arguments
        self.content: list[Any] = []
        self.written: str | None = None

    @property
    def named(self) -> dict[str, Any]:
        """Arguments by parameter; edges by the same key."""
        return dict(enumerate(self.arguments)) if self.node.positional else self.arguments  # type: ignore[arg-type]

    def again(self, **changes: Any) -> Any:
        """Run the function on these arguments, some of them changed."""
        assert self.node.fn is not None
        if self.node.positional:
            arguments = [changes.get(str(i), a) for i, a in enumerate(self.arguments)]
            return self.node.fn(*arguments)
        return self.node.fn(**{**self.arguments, **changes})


class Recording(Evaluation):
    """An evaluation that keeps every call."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.calls: list[Call] = []
        self.verifying = True
        self.trace: Trace

    def _call(self, node: Node, arguments: Any) -> Any:
        call = Call(node, arguments, torch.get_rng_state())
        tensors = [a for a in tree_leaves(arguments) if isinstance(a, Tensor)]
        before = [t._version for t in tensors]
        result = super()._call(node, arguments)
        call.content = content(result)
        if any(t._version != v for t, v in zip(tensors, before, strict=True)):
            call.written = node.name
        self.calls.append(call)
        return result


def content(result: Any) -> list[Any]:
    """What can be compared in a node's result: the tensors of a distribution, the leaves of a value or container."""
    return parameters(result) if isinstance(result, Distribution) else leaves(result)


def same(a: Any, b: Any) -> bool:
    """Equal to the bit, NaN equal to NaN."""
    xs, ys = tree_leaves(a), tree_leaves(b)
    if len(xs) != len(ys):
        return False
    for x, y in zip(xs, ys, strict=True):
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            if x.shape != y.shape or not torch.equal(torch.nan_to_num(x.detach()), torch.nan_to_num(y.detach())):
                return False
        elif isinstance(x, (int, float, bool, str)) and x != y:
            return False
    return True


def close(a: Tensor, b: Tensor) -> bool:
    """Equal to rounding: batched and unbatched kernels sum in different orders."""
    if not a.is_floating_point():
        return bool(torch.equal(a, b))
    a, b = a.detach().double(), b.detach().double()
    scale = float(torch.nan_to_num(a).abs().max()) if a.numel() else 0.0
    return bool(torch.allclose(torch.nan_to_num(a), torch.nan_to_num(b), rtol=1e-3, atol=1e-3 * scale + 1e-12))


def batched(value: Any, shape: torch.Size, first: tuple[slice | int, ...]) -> bool:
    """Whether a value has that batch shape where `first`, the index of element 0, looks for it."""
    return isinstance(value, Tensor) and value.shape[len(first) - len(shape) : len(first)] == shape
