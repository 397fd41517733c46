"""The factor γ^t of the discounted objective, which most implementations drop: it multiplies the credit of step t.

    ∇ E[Σ_t γ^t c_t]  =  E[ Σ_t γ^t · Q_γ(s_t, a_t) ∇log π(a_t|s_t) ]

The other credits leave it out, so late steps have the same weight as early ones. The result is the gradient of no objective
(Nota & Thomas 2020), and it is preferred where late steps matter as much as early ones. Thomas (2014), "Bias in natural
actor-critic algorithms"; Nota & Thomas (2020), "Is the policy gradient a gradient?".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scg.credit import Downstream
from scg.estimators.credit.bootstrap import in_unit
from scg.estimators.credit.wrapped import Wrapped
from scg.scan import starts


@dataclass(frozen=True)
class LeadingDiscount(Wrapped):
    """`γ^t credit_t`, t counted from the start of each episode. A block is to begin with its episodes."""

    discount: float = 0.99

    def __post_init__(self) -> None:
        in_unit(self, "discount", self.discount)

    def __call__(self, downstream: Downstream) -> Tensor:
        credit = self.credit(downstream)
        if not downstream.in_sequence:
            return credit
        steps = torch.arange(credit.shape[0], device=credit.device).view(-1, *[1] * (credit.ndim - 1))
        if downstream.first is not None:
            steps = steps - starts(downstream.first)
        return self.discount ** steps.to(credit.dtype) * credit
