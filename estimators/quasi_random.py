"""Randomised quasi-Monte Carlo: n samples that cover the unit cube more evenly than independent ones.

    x_i = F⁻¹(u_i; θ),      u_1 … u_n a scrambled Sobol net, each u_i ~ U(0, 1)^D

Every u_i alone is uniform, so each branch is a sample of its own, and the n-sample score function and pathwise
gradients stay unbiased, for any f and to any order. Their variance falls faster than 1/n where f is smooth in u; n a
power of two keeps the net balanced. The batch shares one scrambled net under an independent digital shift for each
element (u ⊕ Δ), which makes its elements independent of each other. The samples of a net are dependent, so
leave-one-out baselines among them would be biased. Owen (1997); Buchholz, Wenzel & Mandt (2018). torch's scramble is the linear one of
Matoušek (1998).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.quasirandom import SobolEngine

from scg.distributions import kind, log_density, moving_support
from scg.estimator import Branches, Estimator, Pathwise, at_least
from scg.estimators.inverse_cdf import from_uniform, has_inverse, noise_shape, open_uniform, tensor_of

BITS = SobolEngine.MAXBIT


@dataclass(frozen=True)
class QuasiRandom(Estimator):
    """The score function at n points of a scrambled Sobol net. `samples` is n, best a power of two."""

    samples: int = 4

    def __post_init__(self) -> None:
        at_least("QuasiRandom", self.samples, 2)

    def branch(self, distribution: Distribution) -> Branches:
        with torch.no_grad():
            values = net_samples(distribution, self.samples).detach()  # no_grad leaves forward-mode tangents
        log_prob = log_density(distribution, values)
        return Branches(values, self.samples, score=log_prob - log_prob.detach())

    def refuses(self, distribution: Distribution) -> str | None:
        return moving_support(distribution) or _no_net("QuasiRandom", distribution, f"ScoreFunction(samples={self.samples})")


@dataclass(frozen=True)
class QuasiRandomPathwise(Pathwise):
    """The pathwise gradient at n points of a scrambled Sobol net. `samples` is n, best a power of two."""

    samples: int = 4

    def __post_init__(self) -> None:
        at_least("QuasiRandomPathwise", self.samples, 2)

    def branch(self, distribution: Distribution) -> Branches:
        return Branches(net_samples(distribution, self.samples), self.samples)

    def refuses(self, distribution: Distribution) -> str | None:
        refusal = super().refuses(distribution)
        return refusal or _no_net("QuasiRandomPathwise", distribution, f"Pathwise(samples={self.samples})")


def net_samples(distribution: Distribution, n: int) -> Tensor:
    """n samples `[n, *batch, *event]` from one net, differentiable where F⁻¹ is."""
    return from_uniform(distribution, net(n, distribution.batch_shape, noise_shape(distribution), tensor_of(distribution)))


def net(n: int, batch: torch.Size, noise: torch.Size, like: Tensor) -> Tensor:
    """`u [n, *batch, *noise]`: a scrambled net over the noise's dimensions, shifted anew for each batch element."""
    dimensions = noise.numel()
    cells = sobol(n, dimensions, like).view(n, *[1] * len(batch), dimensions)
    shifted = cells ^ digital_shift((*batch, dimensions), like)
    inside = open_uniform(shifted.shape, like)  # a cell's own width is filled at random
    epsilon = torch.finfo(inside.dtype).eps
    u = ((shifted + inside) / 2**BITS).clamp(epsilon / 4, 1 - epsilon / 2)
    return u.view(n, *batch, *noise)


def sobol(n: int, dimensions: int, like: Tensor) -> Tensor:
    """n scrambled Sobol points as integers of `BITS` bits `[n, dimensions]`, seeded from torch's default generator."""
    return _scrambled(torch.randint(2**31, (), device=like.device), n, dimensions)


@torch.library.custom_op("estimators::scrambled_sobol", mutates_args=())  # one operation, so that a graph around it compiles
def _scrambled(seed: torch.Tensor, n: int, dimensions: int) -> torch.Tensor:
    points = SobolEngine(dimensions, scramble=True, seed=int(seed)).draw(n, dtype=torch.float64)
    return (points * 2**BITS).long().to(seed.device)


@_scrambled.register_fake
def _(seed: torch.Tensor, n: int, dimensions: int) -> torch.Tensor:
    return seed.new_empty((n, dimensions))


def digital_shift(shape: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.randint(2**BITS, shape, device=like.device)


def _no_net(estimator: str, distribution: Distribution, instead: str) -> str | None:
    if not has_inverse(distribution):
        return f"{estimator} needs a distribution with an inverse cdf, and {kind(distribution)} has none here.\nUse {instead}."
    dimensions = noise_shape(distribution).numel()
    if dimensions > SobolEngine.MAXDIM:
        return (
            f"{estimator} would need a Sobol net in {dimensions} dimensions, and they are known up to {SobolEngine.MAXDIM}.\n"
            f"Use {instead}."
        )
    return None
