"""ARSM: augment a category by Dirichlet noise, swap two entries of it, merge what all swaps say.

    π ~ Dirichlet(1_K),   x = argmin_i π_i e^{−φ_i}  ~  Categorical(softmax φ)
    x^{m⇌j}               the same from π with its entries m and j exchanged

    ∂/∂φ_c E[f(x)] = E[ Σ_j ( f(x^{c⇌j}) − 1/K Σ_m f(x^{m⇌j}) ) (1/K − π_j) ]

For a joint sample the same swap is made in every component at once. One draw evaluates f at K(K−1)/2 + 1 samples, each
of which has the law of x; many of them coincide. As weights: equal values, and zero-valued z whose gradients are

    x^{m⇌j}    (1/K − π_j) ζ_m + (1/K − π_m) ζ_j        x    Σ_m (1/K − π_m) ζ_m        ζ = ∇φ less its mean over categories

summed over components. K = 2 is ARM. Unbiased for any f; first order. Memory is linear in the number of swaps, K(K−1)/2,
which the budget bounds: 4096 branches are 91 categories.
Yin, Yue & Zhou (2019), "ARSM: augment-REINFORCE-swap-merge estimator for gradient backpropagation through categorical
variables".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, OneHotCategorical
from torch.nn.functional import one_hot

from scg.distributions import log_odds, unseen
from scg.estimator import Branches, Estimator
from scg.estimators.factorised import bound_sum, category_count, only, unbound, zero
from scg.estimators.inverse_cdf import exponential, tensor_of


@dataclass(frozen=True)
class ARSM(Estimator):
    """Every swap of one draw of noise. `draws` independent ones are averaged. At most `budget` branches."""

    draws: int = 1
    budget: int = 4096

    def __post_init__(self) -> None:
        if not isinstance(self.draws, int) or self.draws < 1:
            raise ValueError(f"ARSM(draws={self.draws!r}): draws is an integer, at least 1")

    def branch(self, distribution: Distribution) -> Branches:
        categories, bound = unbound(distribution)
        phi, dtype = log_odds(categories), tensor_of(categories).dtype
        k = phi.shape[-1]
        pi = simplex((self.draws, *phi.shape), phi)
        first, second = torch.triu_indices(k, k, 1, device=phi.device)
        x = winners(pi.log(), phi.detach().to(pi.dtype), first, second)
        centred, coefficient = zero(phi) - zero(phi).mean(-1, keepdim=True), (1 / k - pi).to(phi.dtype)
        alone = (coefficient * centred).sum(-1, keepdim=True)
        z = torch.cat([alone, self.both(coefficient, centred, first, second)], -1)  # [draws, *batch, *event, swaps]
        values, z = (v.movedim(-1, 1).flatten(0, 1) for v in (x, z))
        if isinstance(categories, OneHotCategorical):
            values = one_hot(values, k).to(dtype)
        n = len(values)
        return Branches(values, n, weights=(1 / n + bound_sum(z, bound) / self.draws).to(dtype))

    def both(self, coefficient: Tensor, centred: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """z of the swaps of m and j: each entry of φ meets the noise that the other had."""
        return coefficient[..., second] * centred[..., first] + coefficient[..., first] * centred[..., second]

    def order(self, distribution: Distribution) -> float:
        return 1

    def refuses(self, distribution: Distribution) -> str | None:
        instead = "ARM() for bits, LeaveOneOut(samples=2) for the rest"
        refusal = only("ARSM", distribution, (Categorical, OneHotCategorical), instead) or unseen(distribution)
        if refusal is not None:
            return refusal
        k = category_count(unbound(distribution)[0])
        size = self.draws * (1 + math.comb(k, 2))
        if size > self.budget:
            return (
                f"ARSM would take {size} branches for {k} categories, one for each pair, and the budget is {self.budget}.\n"
                "Use CategoricalDisARM() or CARMS(samples=4), whose branches do not grow with the categories, or raise ARSM(budget=…)."
            )
        return None


def simplex(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """π ~ Dirichlet(1) over the last axis."""
    e = exponential(shape, like)
    return e / e.sum(-1, keepdim=True)


def winners(log_pi: Tensor, phi: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """argmin_i (log π_i − φ_i), without a swap and for each swap of two entries of π: `[*shape, 1 + swaps]`.

    A swap of m and j leaves all others as they were: of these the least is one of the three that are least in all.
    """
    least, place = (log_pi - phi).topk(min(3, phi.shape[-1]), -1, largest=False)
    value = torch.full_like(least[..., :1], math.inf).expand(*least.shape[:-1], len(first))
    best = place[..., :1].expand(value.shape)
    for i in reversed(range(least.shape[-1])):
        at = place[..., i : i + 1]
        free = (at != first) & (at != second)
        value, best = torch.where(free, least[..., i : i + 1], value), torch.where(free, at, best)
    for here, there in ((first, second), (second, first)):
        swapped = log_pi[..., there] - phi[..., here]
        better = swapped < value
        value, best = torch.where(better, swapped, value), torch.where(better, here, best)
    return torch.cat([place[..., :1], best], -1)
