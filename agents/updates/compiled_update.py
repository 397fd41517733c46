"""CompiledUpdate: an update as one function of a recording, run eagerly or compiled, its metrics checked for NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scg.agents.execution.compilation import compile_function
from scg.agents.experience.rollout import Rows
from scg.agents.updates.metrics import NotFinite


class CompiledUpdate:
    """A whole update as one function of a recording, metrics returned as one tensor; run eagerly or compiled.

    It changes parameters and statistics in place. `check` evaluates the same graph and changes nothing: before the first
    compiled call it lets the graph examine itself, which compiled code cannot.
    """

    def __init__(self, update: Callable[[Rows], Tensor], check: Callable[[Rows], Any], compiled: bool = False) -> None:
        self._eager, self._check = update, check
        self._compiled = compile_function(update) if compiled else None
        self._checked = False

    def __call__(self, rows: Rows, usual: bool = True) -> Tensor:
        """The metrics. NotFinite if one of them is not: the parameters are then lost. Only calls of the `usual` shapes run compiled."""
        if self._compiled is None or not usual:
            metrics = self._eager(rows)
        else:
            if not self._checked:
                self._check(rows)
                self._checked = True
            metrics = self._compiled(rows)
        if not torch.isfinite(metrics).all():
            raise NotFinite(f"an update's metrics are {metrics.tolist()}. Lower the learning rate, or look at the rewards.")
        return metrics
