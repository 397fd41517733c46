"""Minibatch updates: a surrogate's gradient at some rows of a recording, its clipping, and the optimiser's step.

    g = ∇ surrogate(minibatch)        g ← g · min(1, max_norm / ‖g‖)        θ ← θ − rate · Adam(g)

Why: a minibatch is 64 rows of small networks, so kernel launches cost more than arithmetic. Compiled, the update is one call
on preallocated tensors; eagerly, the optimiser works on lists of tensors. Cost: compilation (`compilation.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Generator, Tensor

import scg
from scg.agents.execution.compilation import compile_function
from scg.agents.execution.matmul_precision import matmul_precision
from scg.agents.execution.settings import EAGER, Execution
from scg.agents.experience.rollout import Rows
from scg.agents.updates.metrics import NotFinite
from scg.agents.updates.optimiser import Optimiser
from scg.trace import Trace


def replayed(graph: scg.Graph, rows: Rows, index: Tensor | None = None) -> Trace:
    """The graph at recorded rows `[time, batch, …]`, of which `index` chooses; what belongs to no node is an input `[batch, …]`."""
    of_nodes = {name: value for name, value in rows.items() if name.partition(".")[0] in graph.nodes}
    inputs: dict[str, Any] = {name: value for name, value in rows.items() if name not in of_nodes}
    if index is not None:
        of_nodes = {name: value[:, index] for name, value in of_nodes.items()}
        inputs = {name: value[index] for name, value in inputs.items()}
    return graph.replay(of_nodes, **inputs)


def columns(rows: Rows, size: int) -> tuple[int, int]:
    """How many columns `rows` have, and how many of them make a minibatch of `size` steps: pairs, or whole sequences."""
    length, count = rows["reward"].shape
    return count, max(1, size // length)


class Shuffle:
    """The generator of minibatch orders, as a part of a checkpoint."""

    def __init__(self, generator: Generator) -> None:
        self.generator = Generator().manual_seed(int(torch.randint(2**31 - 1, (), generator=generator)))

    def __call__(self, rows: int, size: int) -> Sequence[Tensor]:
        """All of `rows` in shuffled minibatches of `size`; the last one may be smaller."""
        return torch.randperm(rows, generator=self.generator).split(size)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])


class MinibatchUpdate:
    """Steps of `optimiser` on the surrogate of `costs` (by default of all costs), at chosen rows of a recording."""

    def __init__(
        self,
        graph: scg.Graph,
        optimiser: Optimiser,
        costs: Sequence[str] = (),
        size: int | None = None,
        usual: Callable[[], bool] = lambda: True,
        execution: Execution = EAGER,
        pieces: int = 1,
    ) -> None:
        """`size` is the number of rows of most minibatches (None: any number). The gradient of a minibatch is accumulated over
        so many `pieces` of it: the same to rounding, in less memory."""
        self.costs, self.optimiser, self.size, self.usual, self.execution = tuple(costs), optimiser, size, usual, execution
        parameters = optimiser.parameters

        def loss(rows: Rows, index: Tensor) -> Tensor:
            return replayed(graph, rows, index).surrogate(*costs, reduce="mean")

        def gradient(rows: Rows, index: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad(loss(rows, index), parameters)

        def accumulated(rows: Rows, index: Tensor) -> Sequence[Tensor]:
            total: list[Tensor] = []
            for piece in index.split(-(-len(index) // pieces)):
                part = torch._foreach_mul(list(gradient(rows, piece)), len(piece) / len(index))
                total = [a + b for a, b in zip(total, part, strict=True)] if total else list(part)
            return total

        def step(rows: Rows, index: Tensor) -> Tensor:
            return optimiser.step(gradient(rows, index) if pieces == 1 else accumulated(rows, index))

        self._loss = loss
        self._eager: Callable[[Rows, Tensor], Tensor] = step
        self._compiled = compile_function(step) if execution.compile else None
        self._checked = False
        self._total, self._count = torch.zeros((), device=optimiser.rate.device), 0

    def __call__(self, rows: Rows, index: Tensor) -> None:
        """One step on the rows `index`.

        Only minibatches of `size` rows from a `usual` recording run compiled: a last, shorter one would need a compilation of
        its own. Which minibatches run compiled depends on the position in the run alone, so that a resumed run has equal bits.
        """
        index = index.to(self._total.device)
        step = self._eager
        if self._compiled is not None and self.usual() and len(index) == (self.size or len(index)):
            if not self._checked:  # the graph's checks run at its first, eager evaluation
                self._loss(rows, index)
                self._checked = True
            step = self._compiled
        with matmul_precision(True) if self.execution.bf16 else nullcontext():
            self._total = self._total + step(rows, index)
        self._count += 1

    def mean_norm(self) -> float:
        """The mean gradient norm, before clipping, of the steps since the last call; 0 without any.

        NotFinite if a gradient was not: the parameters are then lost.
        """
        norm = float(self._total) / max(self._count, 1)
        self._total, self._count = torch.zeros_like(self._total), 0
        if not norm < float("inf"):
            named = f"objective {', '.join(map(repr, self.costs))}" if self.costs else "all objectives"
            raise NotFinite(f"{named}: gradient norm {norm}. Lower the learning rate, or look at the rewards.")
        return norm
