"""Reparameterisation through a rejection sampler (RSVI): the noise of an accepted proposal hardly depends on θ.

    Gamma(α, β)      x = h(ε; α + B)/β · Π_{i=1}^B u_i^{1/(α + i − 1)},     u_i ~ U(0, 1)
                     h(ε; a) = (a − 1/3) (1 + ε/√(9a − 3))³                  Marsaglia & Tsang (2000)

    ε of an accepted proposal has density   π(ε; a) = Gamma(h(ε; a); a, 1) · ∂_ε h(ε; a),      near N(0, 1), nearer as a grows

    ∇E[f(x)] = E[ f′(x) ∂_θ x ]  +  E[ f(x) ∇_θ log π(ε; α + B) ]
               the values' gradient     the correction, a score weight

B steps of shape augmentation make the correction small at any α, for B more uniform numbers. h is increasing in ε, so the
proposal is recovered from a sample of torch's own: nothing is rejected here. Also inside Independent. Needs f
differentiable. Unbiased, and to any order. Naesseth, Ruiz, Linderman & Blei (2017), "Reparameterization gradients through
acceptance-rejection sampling algorithms".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributions as D
from torch.distributions import Distribution

from scg.distributions import density_order
from scg.estimator import Branches, Estimator, at_least
from scg.estimators.factorised import bound_sum, only, unbound, zero
from scg.estimators.inverse_cdf import open_uniform


@dataclass(frozen=True)
class RejectionReparameterisation(Estimator):
    """Pathwise through Marsaglia and Tsang's proposals, and the score of those that are accepted. `boost` is B."""

    samples: int = 1
    boost: int = 1

    moves = True

    def __post_init__(self) -> None:
        at_least("RejectionReparameterisation", self.samples, 1)
        if not isinstance(self.boost, int) or self.boost < 1:
            raise ValueError(f"RejectionReparameterisation(boost={self.boost!r}): an integer, at least 1")

    def branch(self, distribution: Distribution) -> Branches:
        base: Any
        base, bound = unbound(distribution)
        alpha, rate = base.concentration, base.rate
        shape = base._extended_shape((self.samples,) if self.samples > 1 else ())
        accepted, score = proposal(alpha + self.boost, gamma((alpha + self.boost).detach().expand(shape)))
        steps = torch.arange(self.boost, dtype=alpha.dtype, device=alpha.device)
        u = open_uniform((*shape, self.boost), alpha)
        down = (u.log().to(alpha.dtype) / (alpha.unsqueeze(-1) + steps)).sum(-1)
        values = (accepted.log() + down).exp().clamp_min(torch.finfo(alpha.dtype).tiny) / rate
        return Branches(values, self.samples if self.samples > 1 else None, score=bound_sum(score, bound))

    def given(self, distribution: Distribution, value: Tensor, log_prob: Tensor | None = None) -> Branches:
        raise ValueError(
            "a value was given at a node with RejectionReparameterisation, which cannot tell the proposal and the uniform "
            "numbers behind it.\nUse GeneralisedReparameterisation() there, or leave the node out of `given`."
        )

    def order(self, distribution: Distribution) -> float:
        return density_order(distribution)

    def refuses(self, distribution: Distribution) -> str | None:
        instead = "GeneralisedReparameterisation() or Pathwise() where they take it, else LeaveOneOut(samples=2)"
        return only("RejectionReparameterisation", distribution, (D.Gamma,), instead)


def gamma(concentration: Tensor) -> Tensor:
    """Samples of rate 1."""
    return torch._standard_gamma(concentration)


def proposal(a: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
    """`h(ε; a)` at the ε that makes `sample ~ Gamma(a, 1)`, and `log π(ε; a) − sg`, both moving with a."""
    fixed = a.detach()
    noise = ((sample / (fixed - 1 / 3)) ** (1 / 3) - 1) * (9 * fixed - 3).sqrt()
    root = 1 + noise / (9 * a - 3).sqrt()
    h = (a - 1 / 3) * root**3
    # Gamma(h; a, 1) times ∂h/∂ε = √(a − 1/3) root², up to constants
    log_prob = (a - 1) * h.log() - h - torch.lgamma(a) + 0.5 * (a - 1 / 3).log() + 2 * root.log()
    return h, zero(log_prob)
