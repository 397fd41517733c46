"""Descent: a surrogate's gradient, its clipping and the optimiser as one function, run eagerly or compiled in one piece.

    g = ∇ surrogate(minibatch)        g ← g · min(1, max_norm / ‖g‖)        θ ← θ − rate · Adam(g)

A minibatch is 64 rows of tiny networks, so what costs is the number of kernels, not the arithmetic. Compiled, all of it
is one call on preallocated tensors; eagerly, the optimiser works on lists of tensors. The formulas are the same, the
order of rounding is not: "same seed, same bits" holds for either, not between them. Compiling takes about 13 seconds the
first time on a machine and 3 after that.

Kingma & Ba (2015); ε = 1e-5 as in Huang et al. (2022), "The 37 implementation details of PPO".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

import scg
from scg.agents.execution.compilation import compile_function
from scg.agents.experience.rollout import Rows
from scg.agents.updates.metrics import NotFinite
from scg.agents.updates.optimiser import Optimiser


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
    """Steps of `optimiser` on the surrogate of `costs`, at chosen rows of a recording."""

    def __init__(self, graph: scg.Graph, costs: Sequence[str], optimiser: Optimiser, compiled: bool = False) -> None:
        self.optimiser = optimiser
        parameters = optimiser.parameters

        def loss(rows: Rows, index: Tensor) -> Tensor:
            chosen = {name: value[:, index] for name, value in rows.items()}
            return graph.replay(chosen).surrogate(*costs, reduce="mean")

        def step(rows: Rows, index: Tensor) -> Tensor:
            return optimiser.step(torch.autograd.grad(loss(rows, index), parameters))

        self._loss = loss
        self._eager: Callable[[Rows, Tensor], Tensor] = step
        self._compiled = compile_function(step) if compiled else None
        self._checked = False

    def epoch(self, rows: Rows, order: Sequence[Tensor], whole: bool = True) -> float:
        """One pass; the mean gradient norm. NotFinite if a gradient was not: the parameters are then lost.

        Only minibatches of the usual size from a `whole` block run compiled: a last, shorter one is not worth another
        compilation. Which ones do depends on nothing but the run's position, or resuming would change bits.
        """
        device = self.optimiser.rate.device
        order, total = [index.to(device) for index in order], torch.zeros((), device=device)
        if self._compiled is not None and not self._checked:
            self._loss(rows, order[0])  # the graph's checks run at its first, eager evaluation
            self._checked = True
        for index in order:
            compiled = self._compiled if whole and len(index) == len(order[0]) else None
            total = total + (compiled or self._eager)(rows, index)
        norm = float(total) / len(order)
        if not norm < float("inf"):
            raise NotFinite(f"gradient norm {norm} in a minibatch. Lower the learning rate, or look at the rewards.")
        return norm
