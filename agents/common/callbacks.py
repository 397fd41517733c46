"""Callbacks: functions of the user that the training loop calls around updates, evaluations and checkpoints.

    before_update ─► update ─► after_update ─► … ─► after_evaluation ─► after_checkpoint

An agent brings its own (`Agent.callbacks`), and `scg.agents.training.loop.train` takes more. What a callback returns is
logged with the loop's own numbers, in `metrics.csv` or `evaluations.csv` and for TensorBoard.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scg.agents.updates.metrics import Metrics


@dataclass
class Now:
    """Where the run is. `stop` ends it after this update, with an evaluation and a checkpoint."""

    agent: Any
    directory: Path
    step: int = 0
    updates: int = 0
    reasons: list[str] = field(default_factory=list)

    def stop(self, reason: str) -> None:
        self.reasons.append(reason)


class Callback:
    """Override what you need."""

    def before_update(self, now: Now, experience: Any) -> None:
        """`experience` is what the agent collected and now learns from."""

    def after_update(self, now: Now, metrics: Metrics) -> Metrics | None:
        """`metrics` are the update's own; more may be returned."""

    def after_evaluation(self, now: Now, evaluation: Any) -> Metrics | None:
        """`evaluation` has `mean`, `error`, `returns` and `lengths`; numbers for its row may be returned."""

    def after_checkpoint(self, now: Now, path: Path) -> None:
        """`path` is the checkpoint that was written."""


class StopAtReturn(Callback):
    """Ends the run once an evaluation's mean return is at least `level`."""

    def __init__(self, level: float) -> None:
        self.level = level

    def after_evaluation(self, now: Now, evaluation: Any) -> None:
        if evaluation.mean >= self.level:
            now.stop(f"an evaluation's return is {evaluation.shown(evaluation.mean)}, at least {self.level:g}")
