"""Block update: all updates from one block as one function of its recording, run eagerly or compiled as a whole.

Why: an update of A2C takes one short block, so that most of its time is Python and kernel launches. Cost: the compilation, and
that the function may hold no Python control flow which depends on values.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from scg.agents.execution.compilation import compile_function
from scg.agents.execution.matmul_precision import matmul_precision
from scg.agents.execution.settings import EAGER, Execution
from scg.agents.experience.rollout import Rows
from scg.agents.updates.metrics import NotFinite


class BlockUpdate:
    """`update` changes parameters and statistics in place and returns its metrics as one tensor.

    `check` evaluates the same graph and changes nothing. It is called before the first compiled call, because the checks of a
    graph run in eager evaluations only.
    """

    def __init__(
        self,
        update: Callable[[Rows], Tensor],
        check: Callable[[Rows], Any],
        usual: Callable[[], bool] = lambda: True,
        execution: Execution = EAGER,
    ) -> None:
        self._eager, self._check, self.usual, self.execution = update, check, usual, execution
        self._compiled = compile_function(update) if execution.compile else None
        self._checked = False

    def __call__(self, rows: Rows) -> Tensor:
        """The metrics. NotFinite if one is not: the parameters are then lost. Only calls of the usual shapes run compiled."""
        update = self._eager
        if self._compiled is not None and self.usual():
            if not self._checked:
                self._check(rows)
                self._checked = True
            update = self._compiled
        with matmul_precision(True) if self.execution.bf16 else nullcontext():
            metrics = update(rows)
        if not torch.isfinite(metrics).all():
            raise NotFinite(f"an update's metrics are {metrics.tolist()}. Lower the learning rate, or look at the rewards.")
        return metrics
