"""With respect to what: names of inputs, tensors, modules; and derivatives as one flat float64 vector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scg.evaluation.objectives import trained_by
from scg.node import Node
from scg.testing.selection import Selection
from scg.testing.selection import Wrt as Wrt

Values = Mapping[Any, Tensor] | Tensor


@dataclass(frozen=True)
class Block:
    """One part of a derivative: a parameter (order 1) or a pair of them (order 2), and its entries in the flat vector."""

    names: tuple[str, ...]
    shape: tuple[int, ...]
    index: Tensor

    @property
    def key(self) -> Any:
        return self.names[0] if len(self.names) == 1 else self.names

    def __str__(self) -> str:
        return " · ".join(self.names)


class Parameters(Selection):
    """The same with derivatives as flat vectors."""

    def __init__(self, inputs: Mapping[str, Any], wrt: Wrt = None) -> None:
        super().__init__(inputs)
        self._saved: dict[str, Tensor] | None = None
        if wrt is None:
            wrt = self.with_gradients()
            if not wrt:
                raise ValueError(
                    f"wrt=None stands for the inputs that require a gradient, and none of {', '.join(inputs) or '(no inputs)'} does.\n"
                    "Say wrt='theta' (an input), wrt=module or wrt=tensor."
                )
        self.add(wrt)
        if not self.tensors:
            raise ValueError("wrt is empty: name an input, a tensor or a module")

    # -- derivatives ---------------------------------------------------------------------------------------

    def derivative(self, value: Tensor, order: int = 1, retain: bool = False) -> Tensor:
        """∇value, or the upper triangle of its Hessian, flat. `retain`: parts of its graph are needed once more."""
        if not value.requires_grad:
            return torch.zeros(self.entries(order), dtype=torch.float64)
        tensors = list(self.tensors.values())
        if order == 1:
            return self._flat(
                torch.autograd.grad(value, tensors, retain_graph=retain, materialize_grads=True, allow_unused=True)
            )
        first = torch.autograd.grad(value, tensors, create_graph=True, materialize_grads=True, allow_unused=True)
        gradient = torch.cat([g.flatten() for g in first])
        rows = [
            self._flat(torch.autograd.grad(g, tensors, retain_graph=True, materialize_grads=True, allow_unused=True))
            if g.requires_grad
            else torch.zeros(self.size, dtype=torch.float64)
            for g in gradient
        ]
        return torch.stack(rows)[torch.triu_indices(self.size, self.size).unbind()]

    @staticmethod
    def _flat(gradients: Iterable[Tensor]) -> Tensor:
        return torch.cat([g.detach().double().flatten().cpu() for g in gradients])

    def entries(self, order: int) -> int:
        return self.size if order == 1 else self.size * (self.size + 1) // 2

    def blocks(self, order: int = 1) -> list[Block]:
        """The parts of a flat derivative, by parameter or pair of parameters."""
        spans: dict[str, tuple[int, int]] = {}
        start = 0
        for name, tensor in self.tensors.items():
            spans[name] = (start, start + tensor.numel())
            start += tensor.numel()
        if order == 1:
            return [Block((n,), tuple(self.tensors[n].shape), torch.arange(*spans[n])) for n in spans]
        place = torch.zeros(start, start, dtype=torch.long)
        upper = torch.triu_indices(start, start)
        place[upper[0], upper[1]] = torch.arange(upper.shape[1])
        place = torch.maximum(place, place.T)
        names, found = list(spans), []
        for i, p in enumerate(names):
            for q in names[i:]:
                shape = (*self.tensors[p].shape, *self.tensors[q].shape)
                found.append(Block((p, q), shape, place[slice(*spans[p]), slice(*spans[q])].flatten()))
        return found

    def named(self, flat: Tensor, order: int) -> dict[Any, Tensor]:
        """A flat derivative as {name: tensor}, or {(name, name): tensor} at order 2."""
        return {b.key: flat[b.index].reshape(b.shape) for b in self.blocks(order)}

    def entry(self, i: int) -> str:
        """Words for one entry of a gradient: `theta`, `weight[3, 4]`."""
        for name, tensor in self.tensors.items():
            if i < tensor.numel():
                place = torch.unravel_index(torch.tensor(i), tensor.shape) if tensor.ndim else ()
                return name + (f"[{', '.join(str(int(j)) for j in place)}]" if place else "")
            i -= tensor.numel()
        raise IndexError(i)

    def flat(self, values: Values, order: int) -> Tensor:
        """The inverse: a caller's numbers as one vector. A bare tensor will do where there is one block."""
        blocks = self.blocks(order)
        if isinstance(values, Tensor):
            if len(blocks) > 1:
                raise ValueError(f"oracle: one tensor for {len(blocks)} parts; pass {{{blocks[0].key!r}: …, …}}")
            values = {blocks[0].key: values}
        flat = torch.zeros(self.entries(order), dtype=torch.float64)
        for block in blocks:
            if block.key not in values:
                raise ValueError(f"oracle: no value for {block.key!r}; it has {', '.join(map(repr, values))}")
            value = torch.as_tensor(values[block.key]).detach().double()
            if tuple(value.shape) != block.shape:
                raise ValueError(f"oracle: {block.key!r} has shape {tuple(value.shape)}, the derivative {block.shape}")
            flat[block.index] = value.flatten()
        return flat

    # -- objectives with trains= ---------------------------------------------------------------------------

    def trained(self, cost: Node, nodes: Mapping[str, Node]) -> Tensor:
        """Which entries of a gradient this cost contributes to, as a mask over the flat parameters."""
        if cost.trains is None:
            return torch.ones(self.size, dtype=torch.bool)
        tensors, names = trained_by(cost, nodes)
        parts = [
            torch.full((t.numel(),), id(t) in tensors or (name in names and self.inputs.get(name) is t))
            for name, t in self.tensors.items()
        ]
        return torch.cat(parts)

    def masked(self, flat: Tensor, mask: Tensor, order: int) -> Tensor:
        """`flat` without the entries that a cost does not contribute to."""
        if order == 1:
            return flat * mask
        return flat * (mask.unsqueeze(0) & mask.unsqueeze(1))[torch.triu_indices(self.size, self.size).unbind()]

    # -- moving --------------------------------------------------------------------------------------------

    @contextmanager
    def moved(self, shifts: Mapping[int, float] | Tensor) -> Iterator[None]:
        """Inside, flat entry i is larger by shifts[i]. New storage: what was made from the old values keeps them."""
        if isinstance(shifts, Mapping):
            step = torch.zeros(self.size, dtype=torch.float64)
            for i, by in shifts.items():
                step[i] = by
        else:
            step = shifts
        saved = {name: tensor.data for name, tensor in self.tensors.items()}
        try:
            for tensor, part in zip(self.tensors.values(), step.split([t.numel() for t in self.tensors.values()]), strict=True):
                if bool(part.any()):
                    tensor.data = (tensor.data.double() + part.reshape(tensor.shape).to(tensor.device)).to(tensor.dtype)
            with self._home(saved):
                yield
        finally:
            for name, tensor in self.tensors.items():
                tensor.data = saved[name]

    @contextmanager
    def _home(self, saved: dict[str, Tensor]) -> Iterator[None]:
        before, self._saved = self._saved, saved
        try:
            yield
        finally:
            self._saved = before

    @contextmanager
    def unmoved(self) -> Iterator[None]:
        """Inside `moved`, the values from before."""
        moved = {name: tensor.data for name, tensor in self.tensors.items()}
        try:
            for name, data in (self._saved or {}).items():
                self.tensors[name].data = data
            yield
        finally:
            for name, tensor in self.tensors.items():
                tensor.data = moved[name]
