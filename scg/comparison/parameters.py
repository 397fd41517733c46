"""What the gradient is taken for: named leaf tensors, and the gradient as one flat float64 vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from scg.errors import GraphError
from scg.evaluation.objectives import known_modules
from scg.graph import Graph
from scg.testing.selection import Selection


class Parameters(Selection):
    """Named tensors to differentiate for, and the inputs that they are part of.

    `wrt`: names of inputs, tensors, modules, or several of them. None: the inputs that require a gradient; where there
    are none, the parameters of the modules that the graph's functions reach.
    """

    def __init__(self, graph: Graph, inputs: Mapping[str, Any], wrt: Any = None) -> None:
        super().__init__(inputs)
        self.add(self.with_gradients() or known_modules(graph.nodes) if wrt is None else wrt)
        if not self.tensors:
            raise GraphError("nothing to differentiate for: no input requires a gradient. Say wrt='theta', or wrt=module.")

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
