"""DisARM for categories: a categorical sample as the leaf that independent bits choose in a binary tree.

    K leaves hang on a tree of K − 1 bits with logits φ_v = log P(right of v) − log P(left of v), all of them functions of θ.
    Antithetic bits (b, b̃) at every node walk down to two leaves x, x̃ ~ p.

    ∇_θ E[f(x)] = E[ (f(x) − f(x̃)) Σ_v γ_v ∇_θ φ_v ],     γ_v = ½ (b_v − b̃_v) σ(|φ_v|)    where both walks pass v
                                                               ½ (b_v − σ(φ_v))            where only that of x does
                                                               ½ (σ(φ_v) − b̃_v)            where only that of x̃ does

The first line of γ is DisARM's. Where only one walk passes, f does not depend on the other walk's bit, and γ is
DisARM's mean over it; where neither does, that mean is zero. Unbiased for any f; first order.
Dong, Mnih & Tucker (2021), "Coupled gradient estimators for discrete latent variables" (DisARM-Tree).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, OneHotCategorical
from torch.nn.functional import one_hot

from scg.distributions import log_odds, unseen
from scg.estimator import Branches, Estimator
from scg.estimators.factorised import bound_sum, only, unbound, zero
from scg.estimators.inverse_cdf import open_uniform, tensor_of


@dataclass(frozen=True)
class CategoricalDisARM(Estimator):
    """DisARM at the bits of a balanced binary tree. `pairs` independent antithetic pairs, so 2·pairs evaluations."""

    pairs: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.pairs, int) or self.pairs < 1:
            raise ValueError(f"CategoricalDisARM(pairs={self.pairs!r}): pairs is an integer, at least 1")

    def branch(self, distribution: Distribution) -> Branches:
        categories, bound = unbound(distribution)
        logits, dtype = log_odds(categories), tensor_of(categories).dtype
        x, x_tilde, z = self.walk(tree(logits), logits)
        z = bound_sum(z, bound).to(dtype)
        values = torch.cat([x, x_tilde])
        if isinstance(categories, OneHotCategorical):
            values = one_hot(values, logits.shape[-1]).to(dtype)
        return Branches(values, 2 * self.pairs, torch.cat([0.5 + z, 0.5 - z]) / self.pairs)

    def walk(self, levels: list[Tensor], logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Both walks from the root, and z: `[pairs, *batch, *event]`. `i`, `j` number the nodes that they pass."""
        shape = (self.pairs, *logits.shape[:-1])
        i = j = torch.zeros(shape, dtype=torch.long, device=logits.device)
        z = torch.zeros(shape, dtype=logits.dtype, device=logits.device)
        for phi in levels:
            u = open_uniform((*shape, phi.shape[-1]), phi)
            phi = phi.expand(u.shape)
            (phi_i, u_i), (phi_j, u_j) = (_at(phi, u, k) for k in (i, j))
            p_i, p_j = (x.detach().to(u_i.dtype).sigmoid() for x in (phi_i, phi_j))
            b, b_tilde = 1 - u_i < p_i, u_j < p_j
            both = (b.to(phi.dtype) - b_tilde.to(phi.dtype)) * torch.sigmoid(phi_i.detach().abs())
            gain_i, gain_j = ((bit.to(p.dtype) - p).to(phi.dtype) for bit, p in ((b, p_i), (b_tilde, p_j)))
            apart = gain_i * zero(phi_i) - gain_j * zero(phi_j)
            z = z + torch.where(i == j, both * zero(phi_i), apart) / 2
            i, j = 2 * i + b, 2 * j + b_tilde
        return i, j, z

    def order(self, distribution: Distribution) -> float:
        return 1

    def refuses(self, distribution: Distribution) -> str | None:
        instead = "DisARM() for bits, LeaveOneOut(samples=2) for the rest"
        return only("CategoricalDisARM", distribution, (Categorical, OneHotCategorical), instead) or unseen(distribution)


def tree(logits: Tensor) -> list[Tensor]:
    """φ, level by level from the root: `[*batch, 2^level]`. Leaves beyond K have no probability."""
    lowest, count = torch.finfo(logits.dtype).min / 4, logits.shape[-1]  # stands for −∞, whose differences would be undefined
    mass = torch.nn.functional.pad(logits.clamp_min(lowest), (0, (1 << (count - 1).bit_length()) - count), value=lowest)
    levels: list[Tensor] = []
    while mass.shape[-1] > 1:
        halves = mass.unflatten(-1, (-1, 2))
        levels.insert(0, halves[..., 1] - halves[..., 0])
        mass = torch.logsumexp(halves, -1)
    return levels


def _at(phi: Tensor, u: Tensor, node: Tensor) -> tuple[Tensor, Tensor]:
    index = node.unsqueeze(-1)
    return phi.gather(-1, index).squeeze(-1), u.gather(-1, index).squeeze(-1)
