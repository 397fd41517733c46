"""Monte Carlo credit: the discounted sum of the recorded costs that the sample influences.

    G_t = Σ_{l ≥ 0} γ^l c_{t+l}        within the episode

With γ = 1 it is the graph's own cost-to-go. With γ < 1 the leading factor γ^t of the discounted objective is left out, as is
usual, so the result is not the gradient of the discounted objective (Thomas 2014, "Bias in natural actor-critic algorithms").
Williams (1992); Sutton et al. (2000).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from scg.credit import Credit, Downstream


@dataclass(frozen=True)
class MonteCarlo(Credit):
    """The discounted cost-to-go of each step."""

    discount: float = 1.0

    def __call__(self, downstream: Downstream) -> Tensor:
        return downstream.cost_to_go(self.discount)
