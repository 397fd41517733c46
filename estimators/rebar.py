"""REBAR: the score function with a relaxation as control variate, corrected by the relaxation's pathwise gradient.

    z the noisy logits,  b = H(z),  z̃ = z given b,  σ_τ(·) the relaxation

    ∇E[f(b)] = E[ (f(b) − η f(σ_τ(z̃))) ∇log p(b) + η ∇f(σ_τ(z)) − η ∇f(σ_τ(z̃)) ]

As branches:   values  b,  σ_τ(z),  σ_τ(z̃)      weights  w,  η,  −η·w      with w = exp(log p(b) − sg log p(b)).

The last two have the same mean, with all derivatives, because z̃ | b under b's own probability is z again; so η and τ are
free. The concrete relaxation is σ(z/τ); with `mean_field` it is the paper's σ(z/τ + θ τ/(1 + τ)), which becomes the mean of b
as τ grows (softmax and log p for categories): a control variate like MuProp's, and much better where costs have little
curvature. Both relaxations are differentiated, the conditional one through its condition too. z̃ shares the noise of z
(Tucker et al., appendix), so that their values cancel. Unbiased, to any order where f is smooth; f must accept values
between the hard ones. Bernoulli and OneHotCategorical (also inside Independent), three evaluations for a sample.
Tucker, Mnih, Maddison, Lawson & Sohl-Dickstein (2017), "REBAR: low-variance, unbiased gradient estimates for discrete
latent variable models".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from scg.distributions import log_density
from scg.estimator import Branches, Estimator, at_least
from scg.estimators.inverse_cdf import tensor_of
from scg.estimators.relaxation import positive, relaxable, relaxation


@dataclass(frozen=True)
class REBAR(Estimator):
    """REBAR with a fixed temperature τ and a fixed strength η of the control variate."""

    temperature: float = 0.5
    eta: float = 1.0
    samples: int = 1
    mean_field: bool = False

    moves = True  # through the relaxed values

    def __post_init__(self) -> None:
        positive("REBAR", self.temperature)
        strength("REBAR", self.eta)
        at_least("REBAR", self.samples, 1)

    def branch(self, distribution: Distribution) -> Branches:
        return rebar(distribution, self.samples, self.temperature, self.eta, self.mean_field)

    def refuses(self, distribution: Distribution) -> str | None:
        return relaxable("REBAR", distribution)


class LearnedREBAR(Estimator, nn.Module):
    """REBAR whose log τ and η are parameters, learned by descending `trace.variance(wrt=…)`. They start as given."""

    moves = True

    def __init__(self, temperature: float = 0.5, eta: float = 1.0, samples: int = 1, mean_field: bool = False) -> None:
        positive("LearnedREBAR", temperature)
        strength("LearnedREBAR", eta)
        at_least("LearnedREBAR", samples, 1)
        nn.Module.__init__(self)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.eta = nn.Parameter(torch.tensor(float(eta)))
        self.samples, self.mean_field = samples, mean_field

    def branch(self, distribution: Distribution) -> Branches:
        return rebar(distribution, self.samples, self.log_temperature.exp(), self.eta, self.mean_field)

    def refuses(self, distribution: Distribution) -> str | None:
        return relaxable("LearnedREBAR", distribution)

    def extra_repr(self) -> str:
        learned = f"temperature={self.log_temperature.exp().item():.3g}, eta={self.eta.item():.3g}"
        return f"{learned}, samples={self.samples}, mean_field={self.mean_field}"


def rebar(
    distribution: Distribution, samples: int, temperature: float | Tensor, eta: float | Tensor, mean_field: bool = False
) -> Branches:
    """The three branches of each sample: all hard ones, all relaxed ones, all conditionally relaxed ones."""
    relaxed, _ = relaxation(distribution)
    z = relaxed.draw(samples)
    hard = relaxed.hard(z)
    dtype = tensor_of(distribution).dtype
    log_prob = log_density(distribution, hard.to(dtype))
    w = torch.exp(log_prob - log_prob.detach())
    values = torch.cat([hard, *(relaxed.relaxed(noisy, temperature, mean_field) for noisy in (z, relaxed.coupled(z)))])
    weights = torch.cat([w, eta * torch.ones_like(w), -eta * w]) / samples
    return Branches(values.to(dtype), 3 * samples, weights)


def strength(estimator: str, eta: object) -> None:
    if isinstance(eta, bool) or not isinstance(eta, (int, float)) or not math.isfinite(eta):
        raise ValueError(f"{estimator}(eta={eta!r}): the control variate's strength is a finite number")
