"""Discrete samples as functions of continuous ones: z, its hard value, its relaxation, and z given the hard value.

    bits          z = θ + logit u                 b = 1[z > 0]           σ(z/τ)
    categories    z = log p + Gumbel noise        b = onehot(argmax z)   softmax(z/τ)

As τ → ∞ these no longer depend on θ. With `mean_field`, z/τ + θ τ/(1 + τ) is relaxed in place of z/τ, which tends to the mean.

Given b, z has a law that is reparameterised again, by noise ν that is independent of b:

    bits          z̃ = s·softplus(ν + softplus(s·θ))                      s = 2b − 1,  ν logistic
    categories    T̃_b = ν_b,   T̃_i = ν_b + ν_i/p_i,   z̃ = −log T̃        ν exponential

because e^(−z_i) = T_i is an exponential race with rates p_i, in which the winner is independent of the winning time. The
noise is either drawn again or recovered from z; in the second case z̃ = z in value, with another derivative in θ.

The noise is made in float64, z, z̃ and relaxed values are float32 at least: in bfloat16 the relative error of z
is 0.4 %, and rare bits would never be drawn. Estimators return values in the parameters' dtype.

Maddison, Mnih & Teh (2017) and Jang, Gu & Poole (2017), the relaxations; Tucker et al. (2017), z given b.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, OneHotCategorical
from torch.nn.functional import logsigmoid, one_hot

from scg.distributions import log_odds, unseen
from scg.estimators.factorised import only, unbound
from scg.estimators.inverse_cdf import open_uniform


def towards(temperature: float | Tensor) -> float | Tensor:
    """τ/(1 + τ): how much of the mean-field value θ a relaxed value holds (Tucker et al. 2017)."""
    return temperature / (1 + temperature)


def softplus(x: Tensor) -> Tensor:
    """log(1 + eˣ), to the last digit also where torch's own gives x."""
    return -logsigmoid(-x)


@dataclass(frozen=True)
class Bits:
    """`theta`, the logits `[*batch]`; z has their shape."""

    theta: Tensor

    def draw(self, samples: int) -> Tensor:
        return self.theta + torch.logit(open_uniform((samples, *self.theta.shape), self.theta)).to(self.theta.dtype)

    def hard(self, z: Tensor) -> Tensor:
        return (z > 0).to(z.dtype)

    def relaxed(self, z: Tensor, temperature: float | Tensor, mean_field: bool = False) -> Tensor:
        return torch.sigmoid(z / temperature + (self.theta * towards(temperature) if mean_field else 0.0))

    def probabilities(self, temperature: float = 1.0) -> Tensor:
        return torch.sigmoid(self.theta / temperature)

    def coupled(self, z: Tensor) -> Tensor:
        """z̃, given the hard value of z and with the noise of z."""
        sign = torch.where(z > 0, 1.0, -1.0).to(z.dtype)
        size = z.detach().abs()
        noise = size + torch.log(-torch.expm1(-size)) - softplus(sign * self.theta.detach())
        return sign * softplus(noise + softplus(sign * self.theta))

    def anew(self, z: Tensor, samples: int) -> Tensor:
        """`[samples, *z]` draws of z̃, given the hard value of z."""
        sign = torch.where(z > 0, 1.0, -1.0).to(z.dtype)
        noise = torch.logit(open_uniform((samples, *z.shape), z)).to(z.dtype)
        return sign * softplus(noise + softplus(sign * self.theta))


@dataclass(frozen=True)
class Categories:
    """`theta`, normalised logits `[*batch, K]`; z has their shape."""

    theta: Tensor

    def draw(self, samples: int) -> Tensor:
        noise = -torch.log(-torch.log(open_uniform((samples, *self.theta.shape), self.theta)))
        return self.theta + noise.to(self.theta.dtype)

    def hard(self, z: Tensor) -> Tensor:
        return one_hot(z.argmax(-1), z.shape[-1]).to(z.dtype)

    def relaxed(self, z: Tensor, temperature: float | Tensor, mean_field: bool = False) -> Tensor:
        return torch.softmax(z / temperature + (self.theta * towards(temperature) if mean_field else 0.0), -1)

    def probabilities(self, temperature: float = 1.0) -> Tensor:
        return torch.softmax(self.theta / temperature, -1)

    def coupled(self, z: Tensor) -> Tensor:
        """z̃, given the hard value of z and with the noise of z."""
        z = z.detach()
        first = z.amax(-1, keepdim=True)
        behind = torch.log(-torch.expm1(z - first)) - z  # log (T_i − T_b); −∞ for b itself
        return self._race(z, -first, behind + self.theta.detach())

    def anew(self, z: Tensor, samples: int) -> Tensor:
        """`[samples, *z]` draws of z̃, given the hard value of z."""
        noise = torch.log(-torch.log(open_uniform((samples, *z.shape), z))).to(z.dtype)
        winner = z.argmax(-1, keepdim=True).expand(samples, *z.shape[:-1], 1)
        return self._race(z, noise.gather(-1, winner), noise)

    def _race(self, z: Tensor, arrival: Tensor, noise: Tensor) -> Tensor:
        """−log T̃ from log ν_b and log ν_i."""
        wins = one_hot(z.argmax(-1), z.shape[-1]).bool()
        behind = (noise - self.theta).masked_fill(wins, torch.finfo(z.dtype).min)
        return -torch.logaddexp(arrival, behind)


def relaxation(distribution: Distribution) -> tuple[Bits | Categories, int]:
    """The relaxation of a distribution, and how many trailing axes Independent binds."""
    base, bound = unbound(distribution)
    theta = log_odds(base)
    return (Bits(theta) if isinstance(base, Bernoulli) else Categories(theta)), bound


def relaxable(estimator: str, distribution: Distribution) -> str | None:
    """The refusal of what has no relaxed values of the sample's own shape."""
    if isinstance(unbound(distribution)[0], Categorical):
        return (
            f"{estimator} relaxes a sample into a point between the values, and between the indices of a Categorical there is none.\n"
            "Use OneHotCategorical, whose relaxed samples are points of the simplex."
        )
    instead = "LeaveOneOut(samples=2), which needs no relaxation"
    return only(estimator, distribution, (Bernoulli, OneHotCategorical), instead) or unseen(distribution)


def positive(estimator: str, temperature: Any) -> None:
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)) or not 0 < temperature < float("inf"):
        raise ValueError(f"{estimator}(temperature={temperature!r}): the temperature is a positive number")
