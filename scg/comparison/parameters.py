"""What the gradient is taken for: named leaf tensors, and the gradient as one flat float64 vector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scg.errors import GraphError, nearest
from scg.evaluation.objectives import known_modules
from scg.graph import Graph


class Parameters:
    """Named tensors to differentiate for, and the inputs that they are part of.

    `wrt`: names of inputs, tensors, modules, or several of them. None: the inputs that require a gradient; where there
    are none, the parameters of the modules that the graph's functions reach.
    """

    def __init__(self, graph: Graph, inputs: Mapping[str, Any], wrt: Any = None) -> None:
        self.inputs = dict(inputs)
        self.tensors: dict[str, Tensor] = {}
        if wrt is None:
            wrt = [k for k, v in inputs.items() if isinstance(v, Tensor) and v.is_floating_point() and v.requires_grad]
            wrt = wrt or known_modules(graph.nodes)
        self._add(wrt, "")
        if not self.tensors:
            raise GraphError("nothing to differentiate for: no input requires a gradient. Say wrt='theta', or wrt=module.")

    def _add(self, item: Any, prefix: str) -> None:
        if isinstance(item, str):
            value = self.inputs.get(item)
            if not isinstance(value, Tensor) or not value.is_floating_point():
                raise GraphError(f"wrt={item!r} is no floating-point input.{nearest(item, self.inputs)}")
            if not value.is_leaf or not value.requires_grad:  # a leaf of ours, so that a caller's tensor is left as it is
                self.inputs[item] = value = value.detach().clone().requires_grad_()
            self._put(item, value)
        elif isinstance(item, nn.Module):
            for name, parameter in item.named_parameters():
                if parameter.requires_grad:
                    self._put(f"{prefix or type(item).__name__.lower()}.{name}", parameter)
        elif isinstance(item, Tensor):
            if not item.is_leaf or not item.requires_grad:
                raise GraphError("wrt: a tensor to differentiate for is a leaf that requires a gradient; pass inputs by name")
            self._put(next((k for k, v in self.inputs.items() if v is item), prefix or f"parameter{len(self.tensors)}"), item)
        elif isinstance(item, Mapping):
            for name, part in item.items():
                self._add(part, name)
        elif isinstance(item, Iterable):
            for part in item:
                self._add(part, prefix)
        else:
            raise GraphError(f"wrt takes names of inputs, tensors and modules, got {type(item).__name__}")

    def _put(self, name: str, tensor: Tensor) -> None:
        if any(t is tensor for t in self.tensors.values()):
            return
        while name in self.tensors:
            name += "'"
        self.tensors[name] = tensor

    @property
    def size(self) -> int:
        return sum(t.numel() for t in self.tensors.values())

    @property
    def epsilon(self) -> float:
        return max(torch.finfo(t.dtype).eps for t in self.tensors.values())

    @property
    def device(self) -> torch.device:
        return next(iter(self.tensors.values())).device

    @property
    def sizes(self) -> list[int]:
        return [t.numel() for t in self.tensors.values()]

    def gradient(self, surrogate: Tensor) -> Sequence[Tensor | None]:
        """∂surrogate/∂tensors; None where it does not depend on one. No `.grad` is touched."""
        if not surrogate.requires_grad:
            return [None] * len(self.tensors)
        return torch.autograd.grad(surrogate, list(self.tensors.values()), allow_unused=True)

    def flat(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """`[size]` in float64, on the CPU."""
        parts = [
            torch.zeros(t.numel(), dtype=torch.float64) if g is None else g.detach().double().flatten().cpu()
            for t, g in zip(self.tensors.values(), gradients, strict=True)
        ]
        return torch.cat(parts)

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """A flat vector as tensors by name."""
        parts = flat.split(self.sizes)
        return {name: part.reshape(t.shape) for (name, t), part in zip(self.tensors.items(), parts, strict=True)}

    def entry(self, index: int) -> str:
        """Words for one entry of the flat vector: `theta` or `weight[3, 4]`."""
        for name, tensor in self.tensors.items():
            if index < tensor.numel():
                place = torch.unravel_index(torch.tensor(index), tensor.shape) if tensor.ndim else ()
                return name + (f"[{', '.join(str(int(i)) for i in place)}]" if place else "")
            index -= tensor.numel()
        raise IndexError(index)
