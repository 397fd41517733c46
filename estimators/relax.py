"""RELAX and LAX: a free-form control variate c_φ, learned by descending the variance of the gradient.

    LAX      x = g(ε; θ)                        ∇E[f(x)] = E[ (f(x) − c_φ(x)) ∇log p(x) + ∇c_φ(x) ]
    RELAX    z noisy, b = H(z), z̃ = z given b    ∇E[f(b)] = E[ (f(b) − c_φ(z̃)) ∇log p(b) + ∇c_φ(z) − ∇c_φ(z̃) ]

f is evaluated once, at hard samples, and need not be differentiable. With w = exp(log p − sg log p) the term beside w·f is

    control    LAX   c_φ(x) − w c_φ(sg x)        RELAX   c_φ(z) − w c_φ(z̃)

whose mean does not depend on θ, whatever φ is: so the gradient is unbiased for every φ, to any order, and

    trace.variance(wrt=θ).backward();  optimiser.step()        changes φ only

The path of LAX is differentiated once in θ, and the result in φ. So samplers that torch differentiates once are enough
(Gamma, Beta, Dirichlet, StudentT); LAX is of first order there.

`control` is a module that maps features `[…, F]` to `[…]` or `[…, 1]`: the sample's own numbers, F of them (one for a single
variable, K for K categories, and as many times that as Independent binds). For RELAX these are the noisy logits z.
Grathwohl, Choi, Wu, Roeder & Duvenaud (2018), "Backpropagation through the void: optimizing control variates for black-box
gradient estimation".
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Dirichlet,
    Distribution,
    Gamma,
    Independent,
    OneHotCategorical,
    StudentT,
    TransformedDistribution,
)

from scg.distributions import density_order, kind, log_density, moving_support, rsample, sample, sampler_order, unseen
from scg.estimator import Branches, Estimator, at_least
from scg.estimators.factorised import only, unbound, zero
from scg.estimators.inverse_cdf import tensor_of
from scg.estimators.relaxation import relaxation


class LAX(Estimator, nn.Module):
    """The score function at a reparameterised sample, with a learned control variate c_φ."""

    def __init__(self, control: nn.Module, samples: int = 1) -> None:
        _validate("LAX", control, samples)
        nn.Module.__init__(self)
        self.control, self.samples = control, samples

    def branch(self, distribution: Distribution) -> Branches:
        x = moving(distribution, torch.Size((self.samples,)))
        log_prob = log_density(distribution, x.detach())
        score = log_prob - log_prob.detach()
        event = len(distribution.event_shape)
        c_path, c = (control_values("LAX", self.control, v, event, score.shape) for v in (x, x.detach()))
        return gathered(x.detach(), score, c_path - score.exp() * c, self.samples)

    def refuses(self, distribution: Distribution) -> str | None:
        if not distribution.has_rsample:
            return (
                f"LAX needs a reparameterised distribution, but {kind(distribution)} has has_rsample=False.\n"
                "Use RELAX(control) for bits and categories, ScoreFunction() for the rest."
            )
        if not learnable(distribution):
            return (
                f"LAX learns from how the path of a sample carries its control, and it is not known whether that of "
                f"{kind(distribution)} can be differentiated for it.\n"
                "Use Pathwise(), or ScoreFunction() where the cost has no derivative."
            )
        return moving_support(distribution)

    def order(self, distribution: Distribution) -> float:
        return min(density_order(distribution), sampler_order(distribution))


class RELAX(Estimator, nn.Module):
    """The score function at Bernoulli and categorical samples, with a learned control variate of their noisy logits."""

    def __init__(self, control: nn.Module, samples: int = 1) -> None:
        _validate("RELAX", control, samples)
        nn.Module.__init__(self)
        self.control, self.samples = control, samples

    def branch(self, distribution: Distribution) -> Branches:
        relaxed, bound = relaxation(distribution)
        z = relaxed.draw(self.samples)
        base = unbound(distribution)[0]
        dtype = tensor_of(base).dtype
        hard = z.argmax(-1) if isinstance(base, Categorical) else relaxed.hard(z).to(dtype)
        log_prob = log_density(distribution, hard)
        score = log_prob - log_prob.detach()
        event = bound + (not isinstance(base, Bernoulli))
        c, c_given = (control_values("RELAX", self.control, v.to(dtype), event, score.shape) for v in (z, relaxed.coupled(z)))
        return gathered(hard, score, c - score.exp() * c_given, self.samples)

    def refuses(self, distribution: Distribution) -> str | None:
        instead = "LAX(control) where it reparameterises, LeaveOneOut(samples=2) for the rest"
        return only("RELAX", distribution, (Bernoulli, Categorical, OneHotCategorical), instead) or unseen(distribution)


def learnable(distribution: Distribution) -> bool:
    """Whether the gradient of `moving` can be differentiated again in what it is multiplied by."""
    base = unbound(distribution)[0]
    if sampler_order(base) == math.inf or isinstance(base, (Beta, Dirichlet)):
        return True
    while isinstance(base, (Independent, TransformedDistribution)):
        base = base.base_dist
    return isinstance(base, (Gamma, StudentT))


def moving(distribution: Distribution, shape: torch.Size) -> Tensor:
    """`rsample`. Torch's Dirichlet, and Beta made of it, lose what its gradient is multiplied by, and say nothing."""
    base = unbound(distribution)[0]
    if isinstance(base, Beta):
        return moving(Dirichlet(torch.stack([base.concentration1, base.concentration0], -1)), shape)[..., 0]
    if not isinstance(base, Dirichlet):
        return rsample(distribution, shape)
    x, alpha = sample(base, shape), base.concentration
    alpha = alpha.expand(x.shape)
    # dx_k = Σ_j (1[j = k] − x_k) s_j dα_j, with s the implicit derivative that torch's sampler uses
    flow = torch._dirichlet_grad(x, alpha.detach(), alpha.detach().sum(-1, keepdim=True).expand(x.shape)) * zero(alpha)
    return x + flow - x * flow.sum(-1, keepdim=True)


def control_values(estimator: str, control: nn.Module, x: Tensor, event: int, shape: torch.Size) -> Tensor:
    """c_φ of the last `event` axes of x as one vector of features (of size 1 where there are none): `[n, *batch]`."""
    features = x.flatten(x.ndim - event) if event else x.unsqueeze(-1)
    c = control(features)
    if c.shape == (*shape, 1):
        return c.squeeze(-1)
    if c.shape != shape:
        raise ValueError(
            f"{estimator}: its control gave shape {list(c.shape)} for features {list(features.shape)}; "
            f"it gives one number for each vector of features, {list(shape)}. End it with nn.Linear(…, 1)"
        )
    return c


def gathered(values: Tensor, score: Tensor, control: Tensor, samples: int) -> Branches:
    """One sample without an axis, several along one; the control's mean over them."""
    if samples == 1:
        return Branches(values[0], score=score[0], control=control[0])
    return Branches(values, samples, score=score, control=control.mean(0))


def _validate(estimator: str, control: object, samples: int) -> None:
    if not isinstance(control, nn.Module):
        raise TypeError(
            f"{estimator}(control={control!r}): the control variate is an nn.Module, from features […, F] to […, 1]"
        )
    at_least(estimator, samples, 1)
