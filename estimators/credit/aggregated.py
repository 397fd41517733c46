"""How the steps of answers of different lengths are averaged in a loss: a factor on the credit.

    over="sequence"     K_t / n_b                 n_b steps of answer b: its mean over steps, then the mean over answers (GRPO)
    over="batch"        K_t · B / Σ_b n_b         the mean over all steps of the batch (DAPO)
    neither             Σ_t K_t, or with surrogate(reduce="mean") divided by the block's T: a constant (Dr. GRPO)

A constant changes the scale alone. 1/n_b depends on the answer, so the mean gradient is that of another objective: long answers
count for less, which favours short right ones and long wrong ones (Liu et al. 2025). B/Σ n_b depends on all answers of the
batch: biased likewise, by less as the batch grows, and another value for each way in which a batch is split. A step counts
where the node `alive` is true, or not 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from scg.credit import Downstream
from scg.estimators.credit.wrapped import Wrapped


@dataclass(frozen=True)
class Aggregated(Wrapped):
    """`credit` times that factor."""

    alive: str
    over: Literal["sequence", "batch"] = "sequence"

    def __post_init__(self) -> None:
        if self.over not in ("sequence", "batch"):
            raise ValueError(f"Aggregated(over={self.over!r}): 'sequence' or 'batch'")

    def __call__(self, downstream: Downstream) -> Tensor:
        credit = self.credit(downstream)
        if not downstream.in_sequence:
            return credit  # one step, whose mean it is
        alive = (downstream.value(self.alive) != 0).to(credit.dtype).expand_as(credit)
        if self.over == "sequence":
            return credit * alive / alive.sum(0, keepdim=True).clamp_min(1.0)
        return credit * alive * (alive[0].numel() / alive.sum().clamp_min(1.0))
