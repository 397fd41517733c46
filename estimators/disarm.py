"""ARM and DisARM: antithetic pairs of bits whose difference carries the gradient.

    u ~ U(0, 1)^D,   b = 1[1 − u < σ(θ)],   b̃ = 1[u < σ(θ)]

    ARM       ∇_θ E[f(b)] = E[ (f(b) − f(b̃)) (u − ½) ]
    DisARM    ∇_θ E[f(b)] = E[ ½ (f(b) − f(b̃)) (b − b̃) σ(|θ|) ],     which is ARM's mean given b and b̃

component by component for D independent bits, with one pair of evaluations for all of them. As weights: ½ ± z, with
the zero-valued z whose gradient is the coefficient of f(b) − f(b̃). Several pairs are independent, and averaged.
Unbiased for any f; first order. ARM: Yin & Zhou (2019). DisARM, also found as U2G: Dong, Mnih & Tucker (2020); Yin et al. (2020).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution

from scg.distributions import log_odds, unseen
from scg.estimator import Branches, Estimator
from scg.estimators.factorised import bound_sum, only, unbound, zero
from scg.estimators.inverse_cdf import open_uniform, tensor_of
from scg.identity import Words


@dataclass(frozen=True)
class ARM(Estimator):
    """Augment, REINFORCE, merge: the coefficient is u − ½. `pairs` antithetic pairs, so 2·pairs evaluations."""

    pairs: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.pairs, int) or self.pairs < 1:
            raise ValueError(f"{type(self).__name__}(pairs={self.pairs!r}): pairs is an integer, at least 1")

    def branch(self, distribution: Distribution) -> Branches:
        bits, bound = unbound(distribution)
        theta, dtype = log_odds(bits), tensor_of(bits).dtype
        u = open_uniform((self.pairs, *theta.shape), theta)
        fixed = theta.detach().to(u.dtype)
        p = torch.sigmoid(fixed)
        b, b_tilde = (1 - u < p).to(u.dtype), (u < p).to(u.dtype)
        coefficient = self.coefficient(u, b, b_tilde, fixed).to(theta.dtype)
        z = bound_sum(coefficient * zero(theta), bound).to(dtype)
        weights = torch.cat([0.5 + z, 0.5 - z]) / self.pairs
        return Branches(torch.cat([b, b_tilde]).to(dtype), 2 * self.pairs, weights)

    def coefficient(self, u: Tensor, b: Tensor, b_tilde: Tensor, theta: Tensor) -> Tensor:
        """What multiplies f(b) − f(b̃) in the gradient with respect to θ, component by component."""
        return u - 0.5

    def identity(self, words: Words) -> Iterable[str]:
        yield self.written(words, words.bracket(words.less("u", words.fraction(1, 2))))

    def written(self, words: Words, coefficient: str) -> str:
        """The identity of a pair of bits; the terms of a joint sample's components are summed, those of several pairs averaged."""
        pair = words.bracket(words.less(words.f(), words.f(twin=True)))
        return f"{words.left} = {pair} {coefficient} {words.d(words.log_odds())}"

    def order(self, distribution: Distribution) -> float:
        return 1

    def refuses(self, distribution: Distribution) -> str | None:
        instead = "CategoricalDisARM() for categories, LeaveOneOut(samples=2) for the rest"
        return only(type(self).__name__, distribution, (Bernoulli,), instead) or unseen(distribution)


@dataclass(frozen=True)
class DisARM(ARM):
    """ARM with the uniform noise integrated out: the coefficient is ½ (b − b̃) σ(|θ|)."""

    def coefficient(self, u: Tensor, b: Tensor, b_tilde: Tensor, theta: Tensor) -> Tensor:
        return (b - b_tilde) * torch.sigmoid(theta.abs()) / 2

    def identity(self, words: Words) -> Iterable[str]:
        both = words.bracket(words.less(words.value(), words.value(twin=True)))
        yield self.written(words, f"{words.fraction(1, 2)} {both} {words.sigmoid(words.absolute(words.log_odds()))}")
