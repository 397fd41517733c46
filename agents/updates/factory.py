"""Updates: the factory of an agent's update functions, which are executed as the run's `Execution` says.

It is all that a page knows of execution: no page names a device, a compiler or a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import Generator, Tensor, nn

import scg
from scg.agents.execution.settings import EAGER, Execution
from scg.agents.execution.worker_thread import WorkerThread
from scg.agents.experience.rollout import Rows
from scg.agents.updates.block_update import BlockUpdate
from scg.agents.updates.minibatches import MinibatchUpdate
from scg.agents.updates.off_policy_update import OffPolicyUpdate, Step
from scg.agents.updates.optimiser import Optimiser
from scg.agents.updates.prefetch import Collector

Module = TypeVar("Module", bound=nn.Module)


class Updates:
    """`usual`: the newest recording has the shape that most have. Recordings of other shapes are updated on eagerly, since each
    would need a compilation of its own."""

    def __init__(self, execution: Execution = EAGER) -> None:
        self.execution, self.usual = execution, True

    @property
    def device(self) -> str:
        return self.execution.device

    @property
    def together(self) -> int:
        """Minibatches that one call of an off-policy update takes."""
        return self.execution.together

    def place(self, module: Module) -> Module:
        """`module`, moved to the device of the updates."""
        return module.to(self.device)

    def minibatch(
        self, graph: scg.Graph, optimiser: Optimiser, costs: Sequence[str] = (), size: int | None = None, pieces: int = 1
    ) -> MinibatchUpdate:
        """Steps on the surrogate of `costs` (by default of all costs) at chosen rows. `size` is the number of rows of most
        minibatches; the gradient of each is accumulated over `pieces`."""
        return MinibatchUpdate(graph, optimiser, costs, size, lambda: self.usual, self.execution, pieces)

    def block(self, update: Callable[[Rows], Tensor], check: Callable[[Rows], Any]) -> BlockUpdate:
        """The update on a whole block as one function; `check` evaluates the same graph and changes nothing."""
        return BlockUpdate(update, check, lambda: self.usual, self.execution)

    def off_policy(self, step: Step, generator: Generator) -> OffPolicyUpdate:
        """A step on each of `together` minibatches; `generator` gives the graph's random numbers."""
        return OffPolicyUpdate(step, generator, self.execution, WorkerThread() if self.execution.overlap else None)

    def collector(self, update: OffPolicyUpdate, behaviour: nn.Module, state: Mapping[str, Any]) -> Collector:
        """Collects blocks with `behaviour`, before an off-policy update or while it runs; `state` is the agent's."""
        return Collector(update, behaviour, state)
