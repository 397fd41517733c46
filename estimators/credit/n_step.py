"""n-step returns: n recorded costs, and a critic for the rest.

    G_t^{(1)} = c_t + γ (1 − terminated_t) V(s_{t+1})
    G_t^{(n)} = c_t + γ G_{t+1}^{(n−1)}                   where the episode continues, G_t^{(1)} where it ends or is truncated

in cost units. n = 1 is TD(0)'s target; n beyond the block is the λ-return with λ = 1, which is what A2C calls n-step:
each step bootstraps at the block's end. With an exact critic every n has the mean Q(s_t, a_t).
Watkins (1989); Sutton & Barto (2018), chapter 7; Mnih et al. (2016).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scg.credit import Downstream
from scg.estimators.credit.bootstrap import Bootstrapped, ahead


@dataclass(frozen=True)
class NStep(Bootstrapped):
    """`G_t^{(n)}`. Subtract V(s_t) with `baseline="value"`."""

    n: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.n, int) or self.n < 1:
            raise ValueError(f"NStep(n={self.n!r}): n is an integer, at least 1")

    def estimate(self, downstream: Downstream) -> Tensor:
        cost, following = self.cost(downstream), self.discount * self.following(downstream)
        carried = self.carried(downstream)
        return repeated(self.discount * carried, cost + (1 - carried) * following, cost + following, self.n - 1)


def repeated(a: Tensor, b: Tensor, y: Tensor, n: int) -> Tensor:
    """The map `y_t ↦ b_t + a_t y_{t+1}`, n times. `a` is 0 at the last step.

    Repeated squaring, as powers are: two spans of the map compose to (a, b) ∘ (a', b') = (a a', b + a b'), so it takes
    2 log₂(n) vectorised steps, and no sum is ever subtracted from a longer one.
    """
    n = min(n, b.shape[0])  # by then every chain has met a = 0
    through, seen, done = torch.ones_like(b), torch.zeros_like(b), 0
    span = 1
    while span <= n:
        if n & span:
            seen = seen + through * ahead(b, done)
            through = through * ahead(a, done)
            done += span
        b = b + a * ahead(b, span)
        a = a * ahead(a, span)
        span *= 2
    return seen + through * ahead(y, done)
