"""The squashed Gaussian: a normal variable through tanh, on (-1, 1) in every dimension.

    a = tanh(u),  u ~ N(loc, scale²)

    log p(a) = Σ_d log N(u_d; loc_d, scale_d²) − log(1 − tanh² u_d),    log(1 − tanh² u) = 2 (log 2 − u − softplus(−2u))

The right-hand form is exact for every u, where 1 − tanh² u rounds to zero from |u| ≈ 9 on (in float32). It needs u, so
the distribution keeps the u of its last draw and takes it back when it is asked about that very tensor. Another value is
inverted by atanh, with ±1 (which only rounding can produce) moved to the nearest number inside.

Haarnoja et al. (2018), "Soft Actor-Critic Algorithms and Applications", appendix C.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints
from torch.nn.functional import softplus

from scg.agents.execution.presampled_noise import standard_normal


class SquashedNormal(Distribution):
    """`loc` and `log_scale` `[*batch, dim]`; the last axis is the event. Differentiable any number of times."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's protocol); every real number is allowed
    support = constraints.independent(constraints.interval(-1.0, 1.0), 1)
    has_rsample = True

    def __init__(self, loc: Tensor, log_scale: Tensor) -> None:
        self.loc, self.log_scale = loc, log_scale
        self._drawn: tuple[Tensor | None, Tensor | None] = (None, None)  # a, u
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    @property
    def mode(self) -> Tensor:
        """tanh of the most probable u: where the policy acts without noise."""
        return self.loc.tanh()

    def expand(self, batch_shape: Any, _instance: Any = None) -> SquashedNormal:
        shape = Size((*batch_shape, *self.event_shape))
        return SquashedNormal(self.loc.expand(shape), self.log_scale.expand(shape))

    def rsample(self, sample_shape: Any = Size()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        noise = standard_normal(shape, self.loc)
        u = self.loc + self.log_scale.exp() * noise
        value = u.tanh()
        self._drawn = (value, u)
        return value

    def sample(self, sample_shape: Any = Size()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def reparameterised(self, value: Tensor) -> Tensor:
        """`value` as a function of loc and log_scale, at the noise that made it: what replayed actions are differentiated by."""
        scale = self.log_scale.exp()
        noise = ((_atanh(value) - self.loc) / scale).detach()
        return (self.loc + scale * noise).tanh()

    def log_prob(self, value: Tensor) -> Tensor:
        """Exact at a value that this object drew last; elsewhere as exact as `value` tells its u."""
        drawn, u = self._drawn
        if value is not drawn or u is None:
            u = _atanh(value)
        z = (u - self.loc) * (-self.log_scale).exp()
        normal = -0.5 * z.square() - self.log_scale - 0.5 * math.log(2 * math.pi)
        return (normal - log_slope(u)).sum(-1)


def log_slope(u: Tensor) -> Tensor:
    """`log(1 − tanh² u)`."""
    return 2.0 * (math.log(2.0) - u - softplus(-2.0 * u))


def _atanh(value: Tensor) -> Tensor:
    inside = 1.0 - torch.finfo(value.dtype).eps
    return value.clamp(-inside, inside).atanh()
