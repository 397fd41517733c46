"""Weights & Biases: a callback that sends what the tables of a run have. Needs the extra `torch-scg[wandb]`.

    scg.train("ppo", "CartPole-v1", callbacks=[WandB(project="mine")])            without a network: WandB(mode="offline")

Rows of updates are `train/…`, of evaluations `evaluation/…`, by environment step, as in TensorBoard. An update's row has its own
numbers; what the loop adds to `metrics.csv` (return, speed) is not known when it is sent.
"""

from __future__ import annotations

from typing import Any

from scg.agents.common.callbacks import Callback, Now
from scg.agents.execution.options import OptionError
from scg.agents.updates.metrics import Metrics


class WandB(Callback):
    """Arguments are those of `wandb.init`; the run's folder is its name, unless one is given."""

    def __init__(self, **arguments: Any) -> None:
        try:
            import wandb
        except ImportError as error:
            raise OptionError("WandB: wandb is not installed. Remedy: pip install 'torch-scg[wandb]'") from error
        self._wandb, self._arguments = wandb, arguments
        self._run: Any = None

    def after_update(self, now: Now, metrics: Metrics) -> None:
        self._log(now, {f"train/{name}": value for name, value in metrics.items()})

    def after_evaluation(self, now: Now, evaluation: Any) -> None:
        self._log(now, {f"evaluation/{name}": value for name, value in evaluation.row().items()})

    def finish(self) -> None:
        """Send what is left; it is done at the end of the process too."""
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _log(self, now: Now, row: Metrics) -> None:
        if self._run is None:
            self._run = self._wandb.init(**{"name": now.directory.name, "dir": str(now.directory), **self._arguments})
        self._run.log({"step": now.step, **row})
