"""Policies on bounded actions: the squashed Gaussian and the Beta, both on [-1, 1] in every dimension.

    squashed    a = tanh(u),  u ~ N(loc(obs), scale(obs)²)             Beta    (a + 1)/2 ~ Beta(α(obs), β(obs)),  α, β ≥ 1

Neither needs clipping, so what the environment executes is what the policy drew. α, β ≥ 1 keep the Beta unimodal.
Entropy and KL, which trust regions and bonuses need:

    H(a) = H(u) + E[log(1 − tanh² u)]            KL(tanh u ‖ tanh u') = KL(u ‖ u')            H((b+1)/2 ↦ b) = H + log 2

The expectation is one-dimensional in every coordinate and is computed by Gauss–Hermite quadrature.

Haarnoja et al. (2018) for the squashing; Chou, Maturana & Scherer (2017), "Improving stochastic policy gradients in
continuous control with deep reinforcement learning using the Beta distribution".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Generator, Size, Tensor, nn
from torch.distributions import Beta, Distribution, Normal, constraints, kl_divergence, register_kl
from torch.nn.functional import softplus

from scg.agents.networks.encoder import Encoder
from scg.agents.networks.mlp import MLP, SMALL, float_type
from scg.agents.networks.policy import NumpyActor
from scg.agents.networks.squashed_normal import SquashedNormal, log_slope

LOG_SCALES = (-5.0, 2.0)  # a log-scale is clamped to this: outside, gradients explode or vanish


class SquashedNormalWithEntropy(SquashedNormal):
    """`tanh` of a normal vector, with its entropy."""

    NODES = 48  # quadrature error below 1e-6 for scales up to e

    def expand(self, batch_shape: Any, _instance: Any = None) -> SquashedNormalWithEntropy:
        shape = Size((*batch_shape, *self.event_shape))
        return SquashedNormalWithEntropy(self.loc.expand(shape), self.log_scale.expand(shape))

    def entropy(self) -> Tensor:
        nodes, weights = np.polynomial.hermite_e.hermegauss(self.NODES)
        x = torch.as_tensor(nodes, dtype=self.loc.dtype, device=self.loc.device)
        w = torch.as_tensor(weights / weights.sum(), dtype=self.loc.dtype, device=self.loc.device)
        u = self.loc.unsqueeze(-1) + self.log_scale.exp().unsqueeze(-1) * x
        normal = self.log_scale + 0.5 * math.log(2 * math.pi * math.e)
        return (normal + (w * log_slope(u)).sum(-1)).sum(-1)


@register_kl(SquashedNormal, SquashedNormal)
def _kl_squashed(p: SquashedNormal, q: SquashedNormal) -> Tensor:
    """A bijection changes no divergence."""
    normals = (Normal(d.loc, d.log_scale.exp(), validate_args=False) for d in (p, q))
    return kl_divergence(*normals).sum(-1)


class SignedBeta(Distribution):
    """`2b − 1`, `b ~ Beta(alpha, beta)` `[*batch, dim]`; the last axis is the event."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's protocol); Beta checks its own
    support = constraints.independent(constraints.interval(-1.0, 1.0), 1)
    has_rsample = True

    def __init__(self, alpha: Tensor, beta: Tensor) -> None:
        self.base = Beta(alpha, beta, validate_args=False)
        super().__init__(alpha.shape[:-1], alpha.shape[-1:], validate_args=False)

    @property
    def mode(self) -> Tensor:
        alpha, beta = self.base.concentration1, self.base.concentration0
        flat = alpha + beta <= 2.0  # the uniform distribution: any point; take the middle
        return torch.where(flat, torch.zeros_like(alpha), 2 * (alpha - 1) / (alpha + beta - 2).clamp_min(1e-12) - 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> SignedBeta:
        shape = Size((*batch_shape, *self.event_shape))
        return SignedBeta(self.base.concentration1.expand(shape), self.base.concentration0.expand(shape))

    def rsample(self, sample_shape: Any = Size()) -> Tensor:
        return 2 * self.base.rsample(sample_shape) - 1

    def log_prob(self, value: Tensor) -> Tensor:
        """At ±1, which only rounding produces, the density of the nearest number inside."""
        edge = torch.finfo(value.dtype).eps
        inside = ((value + 1) / 2).clamp(edge, 1 - edge)
        return (self.base.log_prob(inside) - math.log(2)).sum(-1)

    def entropy(self) -> Tensor:
        return (self.base.entropy() + math.log(2)).sum(-1)


@register_kl(SignedBeta, SignedBeta)
def _kl_beta(p: SignedBeta, q: SignedBeta) -> Tensor:
    return kl_divergence(p.base, q.base).sum(-1)


class _TwoHeads(nn.Module):
    """Two numbers of each action dimension, from one network."""

    def __init__(self, encoder: Encoder, shape: Sequence[int], hidden: Sequence[int], generator: Generator | None) -> None:
        super().__init__()
        if len(shape) != 1:
            raise ValueError(f"{type(self).__name__}: actions of shape {tuple(shape)}; flatten the space to one axis.")
        self.encoder, self.shape = encoder, tuple(shape)
        self.heads = MLP([encoder.features, *hidden, 2 * shape[0]], SMALL, generator)

    def outputs(self, obs: Tensor) -> tuple[Tensor, ...]:
        return self.heads(self.encoder(obs)).chunk(2, -1)


class SquashedGaussianPolicy(_TwoHeads):
    """`a = tanh(u)`, `u ~ N(loc(obs), scale(obs)²)`."""

    def __init__(self, *args: Any, log_scale: float = -0.5) -> None:
        super().__init__(*args)
        with torch.no_grad():
            cast(Tensor, self.heads.layers[-1].bias)[self.shape[0] :] = log_scale

    def forward(self, obs: Tensor) -> SquashedNormalWithEntropy:
        loc, log_scale = self.outputs(obs)
        return SquashedNormalWithEntropy(loc, log_scale.clamp(*LOG_SCALES))

    def noise(self, shape: Sequence[int], generator: Generator) -> np.ndarray:
        return torch.randn(*shape, *self.shape, generator=generator).numpy()

    def numpy_actor(self) -> NumpyActor:
        net, encode, dim = self.heads.numpy(), self.encoder.numpy(), self.shape[0]

        def act(obs: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
            out = net(encode(obs))
            loc = out[..., :dim]
            return np.tanh(loc if noise is None else loc + np.exp(out[..., dim:].clip(*LOG_SCALES)) * noise)

        return act


class StateGaussianPolicy(_TwoHeads):
    """`a ~ N(loc(obs), scale(obs)²)`: `nets.GaussianPolicy` with a scale that depends on the observation."""

    def __init__(self, *args: Any, log_scale: float = -0.5) -> None:
        super().__init__(*args)
        with torch.no_grad():
            cast(Tensor, self.heads.layers[-1].bias)[self.shape[0] :] = log_scale

    def forward(self, obs: Tensor) -> Distribution:
        loc, log_scale = self.outputs(obs)
        return torch.distributions.Independent(Normal(loc, log_scale.clamp(*LOG_SCALES).exp()), 1)

    noise = SquashedGaussianPolicy.noise

    def numpy_actor(self) -> NumpyActor:
        net, encode, dim = self.heads.numpy(), self.encoder.numpy(), self.shape[0]

        def act(obs: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
            out = net(encode(obs))
            loc = out[..., :dim]
            return loc if noise is None else loc + np.exp(out[..., dim:].clip(*LOG_SCALES)) * noise

        return act


class BetaPolicy(_TwoHeads):
    """`(a + 1)/2 ~ Beta(1 + softplus(·), 1 + softplus(·))`, drawn by inverting its distribution function."""

    def forward(self, obs: Tensor) -> SignedBeta:
        alpha, beta = (1 + softplus(head) for head in self.outputs(obs))
        return SignedBeta(alpha, beta)

    def noise(self, shape: Sequence[int], generator: Generator) -> np.ndarray:
        return torch.rand(*shape, *self.shape, dtype=torch.float64, generator=generator).numpy()

    def numpy_actor(self) -> NumpyActor:
        net, encode, dim, kind = self.heads.numpy(), self.encoder.numpy(), self.shape[0], float_type()

        def act(obs: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
            out = 1 + np.logaddexp(0.0, net(encode(obs)))
            alpha, beta = out[..., :dim], out[..., dim:]
            if noise is None:
                return (2 * (alpha - 1) / np.maximum(alpha + beta - 2, 1e-12) - 1).astype(kind)
            return (2 * betaincinv(alpha, beta, noise) - 1).astype(kind)

        return act
