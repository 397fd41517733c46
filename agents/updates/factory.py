"""Updates: makes the update functions of an agent's page, which run as the run's `Execution` says. Pages see this alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

import scg
from scg.agents.execution.settings import EAGER, Execution
from scg.agents.experience.rollout import Rows
from scg.agents.updates.block_update import BlockUpdate
from scg.agents.updates.minibatches import MinibatchUpdate
from scg.agents.updates.optimiser import Optimiser

Module = TypeVar("Module", bound=nn.Module)


class Updates:
    """`usual` says whether the newest recording has the usual shape; updates of any other are not worth a compilation."""

    def __init__(self, execution: Execution = EAGER) -> None:
        self.execution, self.usual = execution, True

    @property
    def device(self) -> str:
        return self.execution.device

    def place(self, module: Module) -> Module:
        """`module`, moved to where updates run."""
        return module.to(self.device)

    def minibatch(
        self, graph: scg.Graph, optimiser: Optimiser, costs: Sequence[str] = (), size: int | None = None, pieces: int = 1
    ) -> MinibatchUpdate:
        """Steps on the surrogate of `costs` (without any: of all) at chosen rows; `size` is a usual minibatch's, whose gradient
        is accumulated over `pieces`."""
        return MinibatchUpdate(graph, optimiser, costs, size, lambda: self.usual, self.execution, pieces)

    def block(self, update: Callable[[Rows], Tensor], check: Callable[[Rows], Any]) -> BlockUpdate:
        """All that one block changes, as one function; `check` evaluates the same graph and changes nothing."""
        return BlockUpdate(update, check, lambda: self.usual, self.execution)
