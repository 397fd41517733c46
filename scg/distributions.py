"""What estimators and evaluation need to know of a distribution that torch does not say.

kind, parameters           its name, and the tensors that it was made from
log_density, remember      log p without validating one's own sample; taken once for all who ask
sampler_order              how often `rsample` may be differentiated
reparameterise             the noise behind a recorded value, and the value as its function again
moving_support             whether a likelihood ratio would miss a boundary term
rebuilt, FirstOrder        a copy with changed parameters: detached, or guarded against a second derivative
"""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributions as D
from torch.distributions import Distribution, Transform, constraints
from torch.distributions.constraints import Constraint

from scg.errors import GraphError
from scg.laws import is_exactly as is_exactly
from scg.laws import log_mass, unseen


def kind(distribution: Distribution) -> str:
    """The name of a distribution, looking through Independent."""
    while isinstance(distribution, D.Independent):
        distribution = distribution.base_dist
    return type(distribution).__name__


def parameters(distribution: Distribution) -> list[Tensor]:
    """The tensors that a distribution was made from; asked before it is used, for some cache others later."""
    found: list[Tensor] = []
    for value in vars(distribution).values():
        if isinstance(value, Distribution):
            found += parameters(value)
        elif isinstance(value, Tensor):
            found.append(value)
    return found


def log_density(distribution: Distribution, values: Tensor) -> Tensor:
    """`distribution.log_prob(values)` of values just drawn from it: that they lie in its support need not be checked."""
    if torch.compiler.is_compiling():
        return unclamped_log_prob(distribution, values)
    validated = []
    layer: Any = distribution
    while layer is not None:
        if layer._validate_args:
            validated.append((layer, layer.__dict__.get("_validate_args")))
            layer._validate_args = False
        layer = layer.__dict__.get("base_dist")
    try:
        return unclamped_log_prob(distribution, values)
    finally:
        for layer, own in validated:
            if own is None:
                del layer._validate_args
            else:
                layer._validate_args = own


def unclamped_log_prob(distribution: Distribution, values: Tensor) -> Tensor:
    """`distribution.log_prob(values)`, with the gradient that torch's clamp of `probs` would remove."""
    unclamped = log_mass(distribution, values)
    return distribution.log_prob(values) if unclamped is None else unclamped


def remember(distribution: Any) -> None:
    """Let a distribution that other nodes ask for keep its log-density at the last value it was asked about.

    The estimator takes it at the sample, and a cost that is given the sample and its `dist` takes it again.
    """
    if torch.compiler.is_compiling() or not isinstance(distribution, Distribution):
        return
    compute, itself = type(distribution).log_prob, weakref.ref(distribution)  # no cycle: tensors must die with the trace
    kept: list[Any] = [None, -1, None]

    def remembered(value: Tensor) -> Tensor:
        if value is kept[0] and value._version == kept[1]:
            return kept[2]
        result = compute(itself(), value)  # type: ignore[arg-type]
        kept[:] = value, value._version, result
        return result

    distribution.log_prob = remembered  # type: ignore[method-assign]


_SMOOTH_SAMPLERS = (
    D.Normal, D.Uniform, D.Laplace, D.Cauchy, D.Exponential, D.LogNormal, D.MultivariateNormal,
    D.LowRankMultivariateNormal, D.Gumbel, D.HalfNormal, D.HalfCauchy, D.Kumaraswamy, D.Pareto, D.Weibull,
    D.RelaxedBernoulli, D.RelaxedOneHotCategorical, D.LogisticNormal, D.GeneralizedPareto,
    D.relaxed_bernoulli.LogitRelaxedBernoulli, D.relaxed_categorical.ExpRelaxedCategorical,
)  # fmt: skip


def sampler_order(distribution: Distribution) -> float:
    """∞ where `rsample` is a smooth function of (θ, ε) that autograd can differentiate again, 1 where it is not known to be.

    Gamma, Beta, Dirichlet and what is built on them differentiate their sampler implicitly, once: a second
    derivative comes out without an error, and wrong.
    """
    if isinstance(distribution, D.Independent):
        return sampler_order(distribution.base_dist)
    if isinstance(distribution, _SMOOTH_SAMPLERS):
        return math.inf
    if type(distribution) is D.TransformedDistribution:
        return sampler_order(distribution.base_dist)
    return 1


def density_order(distribution: Distribution) -> float:
    """1 where the density has a kink that moves with a parameter, else ∞.

    The second derivative of such a density has a point mass at the kink, which no derivative of log p at a sample sees.
    """
    if isinstance(distribution, (D.Independent, D.TransformedDistribution)):
        return density_order(distribution.base_dist)
    if isinstance(distribution, D.Laplace) and distribution.loc.requires_grad:
        return 1
    return math.inf


def reparameterise(distribution: Distribution, value: Tensor) -> Tensor:
    """`value` as the differentiable sample g(ε; θ), with ε inferred from it: x = μ + σ sg((x - μ)/σ) and its kin."""
    if isinstance(distribution, D.Independent):
        return reparameterise(distribution.base_dist, value)
    if isinstance(distribution, (D.Normal, D.Laplace, D.Cauchy, D.Gumbel)):
        return distribution.loc + distribution.scale * ((value - distribution.loc) / distribution.scale).detach()
    if isinstance(distribution, D.Uniform):
        width = distribution.high - distribution.low
        return distribution.low + width * ((value - distribution.low) / width).detach()
    if isinstance(distribution, D.Exponential):
        return (value * distribution.rate).detach() / distribution.rate
    if isinstance(distribution, D.MultivariateNormal):
        tril = distribution.scale_tril
        centred = (value - distribution.loc).unsqueeze(-1)
        noise = torch.linalg.solve_triangular(tril, centred, upper=False).detach()
        return distribution.loc + (tril @ noise).squeeze(-1)
    if isinstance(distribution, D.TransformedDistribution):
        for transform in reversed(distribution.transforms):
            value = transform._inverse(value)
        value = reparameterise(distribution.base_dist, value)
        for transform in distribution.transforms:
            value = transform(value)  # type: ignore[assignment]
        return value
    raise ValueError(
        f"a value was given at a pathwise node, and the noise behind a {kind(distribution)} sample cannot be inferred.\n"
        "Leave the node out of `given`, or use ScoreFunction() there."
    )


def moving_support(distribution: Distribution) -> str | None:
    """A likelihood ratio misses the boundary term when the support moves with θ (∇∫ ≠ ∫∇), or begins to have a new value."""
    base = distribution
    while isinstance(base, D.Independent):
        base = base.base_dist
    try:
        support: Any = base.support
    except NotImplementedError:
        return None
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    moving = [k for k, v in vars(support).items() if isinstance(v, Tensor) and v.requires_grad]
    if not moving:
        return unseen(distribution)
    return (
        f"the support of {kind(base)} depends on a parameter through its {', '.join(moving)}, "
        "and a likelihood ratio misses what enters at the boundary.\n"
        "Use Pathwise() if it reparameterises, or move the parameter out of the support (scale a fixed distribution)."
    )


def rebuilt(distribution: Distribution, change: Callable[[Tensor], Tensor], name: str) -> Distribution:
    """A copy of a distribution with `change` applied to its parameters, all the way down."""
    built: dict[int, Any] = {}

    def rebuild(thing: Any) -> Any:
        if isinstance(thing, Tensor):
            return change(thing)
        if isinstance(thing, nn.Module):
            raise GraphError(
                f"node {name!r}: its distribution holds a {type(thing).__name__}, whose parameters cannot be told apart from "
                "outside. For detach(dist(…)), declare a second node that builds it under torch.no_grad()."
            )
        if isinstance(thing, (list, tuple)):
            return type(thing)(rebuild(part) for part in thing)
        if isinstance(thing, (Distribution, Transform, Constraint)):
            if id(thing) not in built:  # a transform and its inverse hold each other
                built[id(thing)] = twin = copy.copy(thing)
                twin.__dict__ = {k: rebuild(v) for k, v in vars(thing).items() if k != "log_prob"}
            return built[id(thing)]
        return thing

    return rebuild(distribution)


class FirstOrder(torch.autograd.Function):
    """Identity whose gradient refuses to be differentiated again, whatever it is differentiated for."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str) -> Tensor:
        ctx.name = name
        ctx.save_for_backward(x)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        # The gradient is made to depend on x: an f that is linear in x would otherwise hide the second derivative.
        return _NoSecond.apply(grads[0], *ctx.saved_tensors, ctx.name), None


class _NoSecond(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Tensor, name: str) -> Tensor:
        ctx.name = name
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        raise GraphError(
            f"node {ctx.name!r}: a second derivative was asked through an estimator that is right to first order only.\n"
            "Use ScoreFunction() there, or a distribution whose sampler is smooth (Normal, Laplace, Exponential, …)."
        )
