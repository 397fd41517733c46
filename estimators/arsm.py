"""ARSM: augment a category by Dirichlet noise, swap two entries of it, merge what all swaps say.

    π ~ Dirichlet(1_K),   x = argmin_i π_i e^{−φ_i}  ~  Categorical(softmax φ)
    x^{m⇌j}               the same from π with its entries m and j exchanged

    ∂/∂φ_c E[f(x)] = E[ Σ_j ( f(x^{c⇌j}) − 1/K Σ_m f(x^{m⇌j}) ) (1/K − π_j) ]

For a joint sample the same swap is made in every component at once. One draw evaluates f at K(K−1)/2 + 1 samples, each
of which has the law of x; many of them coincide. As weights: equal values, and zero-valued z whose gradients are

    x^{m⇌j}    (1/K − π_j) ζ_m + (1/K − π_m) ζ_j        x    Σ_m (1/K − π_m) ζ_m        ζ = ∇φ less its mean over categories

summed over components. K = 2 is ARM. Unbiased for any f; first order.
Yin, Yue & Zhou (2019), "ARSM: augment-REINFORCE-swap-merge estimator for gradient backpropagation through categorical
variables".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, OneHotCategorical
from torch.nn.functional import one_hot

from scg.estimator import Branches, Estimator
from scg.estimators.componentwise import bound_sum, only, unbound, zero


@dataclass(frozen=True)
class ARSM(Estimator):
    """Every swap of one draw of noise. `draws` independent ones are averaged."""

    draws: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.draws, int) or self.draws < 1:
            raise ValueError(f"ARSM(draws={self.draws!r}): draws is an integer, at least 1")

    def branch(self, distribution: Distribution) -> Branches:
        categories, bound = unbound(distribution)
        logits: Tensor = categories.logits  # type: ignore[attr-defined]
        phi = logits.clamp_min(torch.finfo(logits.dtype).min / 4)  # stands for −∞, whose differences would be undefined
        k = phi.shape[-1]
        pi = simplex((self.draws, *phi.shape), phi)
        first, second = torch.triu_indices(k, k, 1, device=phi.device)
        x = (pi[..., swaps(k, first, second)].log() - phi.unsqueeze(-2)).argmin(-1)
        centred, coefficient = zero(phi) - zero(phi).mean(-1, keepdim=True), 1 / k - pi
        alone = (coefficient * centred).sum(-1, keepdim=True)
        z = torch.cat([alone, self.both(coefficient, centred, first, second)], -1)  # [draws, *batch, *event, swaps]
        values, z = (v.movedim(-1, 1).flatten(0, 1) for v in (x, z))
        if isinstance(categories, OneHotCategorical):
            values = one_hot(values, k).to(logits.dtype)
        n = len(values)
        return Branches(values, n, weights=1 / n + bound_sum(z, bound) / self.draws)

    def both(self, coefficient: Tensor, centred: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """z of the swaps of m and j: each entry of φ meets the noise that the other had."""
        return coefficient[..., second] * centred[..., first] + coefficient[..., first] * centred[..., second]

    def order(self, distribution: Distribution) -> float:
        return 1

    def refuses(self, distribution: Distribution) -> str | None:
        instead = "ARM() for bits, LeaveOneOut(samples=2) for the rest"
        return only("ARSM", distribution, (Categorical, OneHotCategorical), instead)


def simplex(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """π ~ Dirichlet(1) over the last axis."""
    e = torch.empty(shape, dtype=like.dtype, device=like.device).exponential_()
    return e / e.sum(-1, keepdim=True)


def swaps(k: int, first: Tensor, second: Tensor) -> Tensor:
    """The order that leaves all K entries in place, then those that exchange one pair: `[swaps, K]`."""
    order = torch.arange(k, device=first.device).repeat(len(first) + 1, 1)
    row = torch.arange(1, len(first) + 1, device=first.device)
    order[row, first], order[row, second] = second, first
    return order
