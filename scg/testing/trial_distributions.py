"""Kinds of distribution that estimators are tried on, and what a cost sees of their samples.

A kind is a function of θ `[*batch, 3]` that returns a distribution of batch shape `batch`, defined for every real θ; what
it does not use of θ has gradient zero. Costs see a sample through one bounded, smooth number of it, its `statistic`, so
that expectations exist under heavy tails, and converge quickly where they are integrated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch import distributions as D
from torch.distributions import Distribution, Independent

Make = Callable[[Tensor], Distribution]


def _inner(p: Tensor) -> Tensor:
    """Probabilities away from 0 and 1."""
    return p[..., :2].sigmoid() * 0.8 + 0.1


# One distribution of each kind, from θ [*batch, 3]: batch shape `batch`.
KINDS: Mapping[str, Make] = {
    "Bernoulli": lambda p: D.Bernoulli(logits=p[..., 0]),
    "joint Bernoulli": lambda p: Independent(D.Bernoulli(logits=p), 1),
    "Categorical": lambda p: D.Categorical(logits=p),
    "joint Categorical": lambda p: Independent(D.Categorical(logits=torch.stack([p, p.flip(-1)], -2)), 1),
    "OneHotCategorical": lambda p: D.OneHotCategorical(logits=p),
    "Binomial": lambda p: D.Binomial(4, logits=p[..., 1]),
    "Geometric": lambda p: D.Geometric(probs=_inner(p)[..., 0]),
    "Poisson": lambda p: D.Poisson((0.5 * p[..., 0]).exp()),
    "Normal": lambda p: D.Normal(p[..., 0], (0.3 * p[..., 1]).exp()),
    "joint Normal": lambda p: Independent(D.Normal(p[..., :2], (0.3 * p[..., 2:]).exp()), 1),
    "MultivariateNormal": lambda p: D.MultivariateNormal(p[..., :2], scale_tril=torch.diag_embed((0.3 * p[..., 1:]).exp())),
    "LogNormal": lambda p: D.LogNormal(0.3 * p[..., 0], 0.5),
    "Laplace": lambda p: D.Laplace(p[..., 0], (0.3 * p[..., 1]).exp()),
    "Cauchy": lambda p: D.Cauchy(p[..., 0], (0.3 * p[..., 1]).exp()),
    "StudentT": lambda p: D.StudentT(5.0, p[..., 0], (0.3 * p[..., 1]).exp()),
    "Gumbel": lambda p: D.Gumbel(p[..., 0], (0.3 * p[..., 1]).exp()),
    "Exponential": lambda p: D.Exponential((0.3 * p[..., 0]).exp()),
    "Weibull": lambda p: D.Weibull((0.3 * p[..., 0]).exp(), 1.7),
    "Gamma": lambda p: D.Gamma(1.7, (0.3 * p[..., 0]).exp()),
    "Beta": lambda p: D.Beta((0.3 * p[..., 0]).exp() + 1, 2.0),
    "Dirichlet": lambda p: D.Dirichlet((0.3 * p).exp() + 1),
    "VonMises": lambda p: D.VonMises(p[..., 0], (0.3 * p[..., 1]).exp()),
    "Uniform with moving ends": lambda p: D.Uniform(p[..., 0], p[..., 0] + 1),
}


def statistic(x: Tensor, distribution: Distribution) -> Tensor:
    """What costs see of a sample `[…, *event]`: one number `[…]`, neither even nor odd in it, and no sum over its components.

    On a circle it is periodic: there a path that leaves at one end comes back at the other.
    """
    x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
    if isinstance(distribution, D.VonMises):
        return 0.8 * torch.sin(x - 0.2)
    event = len(distribution.event_shape)
    if event:
        flat = x.flatten(x.ndim - event)
        x = flat @ torch.linspace(-0.6, 1.2, flat.shape[-1], dtype=x.dtype, device=x.device)
    return torch.tanh(0.7 * x - 0.2)
