"""What `wrt=` may be: names of inputs, tensors, modules, or several of them, as tensors by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scg.errors import nearest

Wrt = str | Tensor | nn.Module | Mapping[str, Tensor] | Iterable[Any] | None


class Selection:
    """The tensors that derivatives are taken with respect to, and the inputs of which some are part."""

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        self.inputs = dict(inputs)
        self.tensors: dict[str, Tensor] = {}

    def with_gradients(self) -> list[str]:
        """The inputs that require a gradient."""
        return [k for k, v in self.inputs.items() if isinstance(v, Tensor) and v.is_floating_point() and v.requires_grad]

    def add(self, item: Any, prefix: str = "") -> None:
        """ValueError for a name or tensor that cannot be differentiated for, TypeError for anything else."""
        if isinstance(item, str):
            value = self.inputs.get(item)
            if not isinstance(value, Tensor) or not value.is_floating_point():
                found = "is no input" if value is None else f"is {type(value).__name__}, no floating-point tensor"
                raise ValueError(f"wrt={item!r}: {item!r} {found}.{nearest(item, self.inputs)}")
            if not value.is_leaf or not value.requires_grad:  # a leaf of ours, so that a caller's tensor is left as it is
                self.inputs[item] = value = value.detach().clone().requires_grad_()
            self._put(item, value)
        elif isinstance(item, nn.Module):
            for name, parameter in item.named_parameters():
                if parameter.requires_grad:
                    self._put(f"{prefix or type(item).__name__.lower()}.{name}", parameter)
        elif isinstance(item, Tensor):
            name = next((k for k, v in self.inputs.items() if v is item), prefix or f"parameter{len(self.tensors)}")
            if not item.is_leaf or not item.requires_grad:
                raise ValueError(f"wrt: {name!r} is no leaf tensor that requires a gradient; pass inputs by name")
            self._put(name, item)
        elif isinstance(item, Mapping):
            for name, part in item.items():
                self.add(part, name)
        elif isinstance(item, Iterable):
            for part in item:
                self.add(part, prefix)
        else:
            raise TypeError(f"wrt takes names of inputs, tensors and modules, got {type(item).__name__}")

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
