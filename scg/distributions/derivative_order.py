"""How often a sampler may be differentiated, and a barrier that refuses one derivative more.

sampler_order         ∞ where `rsample` is a smooth function of (θ, ε), else 1
barrier, last_slope   a tensor, or all tensors of a value, behind an identity whose second derivative raises `GraphError`
moves                 whether a tensor is differentiated, backwards or forwards

Without the barrier, the second derivative of an implicitly reparameterised sample (Gamma, Beta, Dirichlet), or of a function
whose kink samples cross, comes out without an error, and wrong. It costs one copy of the tensor, forwards and backwards.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch import distributions as D
from torch.autograd import forward_ad
from torch.distributions import Distribution

from scg.distributions.laws import is_exactly
from scg.errors import GraphError
from scg.tree import rebuilt, transforms

# Why a derivative of an identity is the last one.
SAMPLER = (
    "an estimator that is right to first order only.\n"
    "Use ScoreFunction() there, or a distribution whose sampler is smooth (Normal, Laplace, Exponential, …)."
)


KINK = (
    "its function, which has a kink that samples move across (relu, abs, max, clamp): the expectation curves there, and no second "
    "derivative at a sample sees it.\nUse a smooth function, or ScoreFunction() where the sample is drawn."
)


def moves(tensor: Any) -> bool:
    """Whether a derivative is taken with respect to this tensor: in reverse mode, or in forward mode (`torch.func.jvp`)."""
    if not isinstance(tensor, Tensor):
        return False
    return tensor.requires_grad or forward_ad.unpack_dual(tensor).tangent is not None


def last_slope(value: Any, name: str) -> Any:
    """A node's value behind a barrier that refuses a second derivative."""
    return rebuilt(value, lambda x: barrier(x, name, KINK), name)


def barrier(x: Tensor, name: str, why: str = SAMPLER) -> Tensor:
    """`x`, of whose derivatives, backwards or forwards, only the first is let through."""
    return _FirstOrder.apply(x, name, why) if moves(x) else x  # type: ignore[no-any-return,no-untyped-call]


class _FirstOrder(torch.autograd.Function):
    """Identity whose derivative refuses to be differentiated again, whatever it is differentiated for: `apply(x, name, why)`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, name: str, why: str) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, ctx.name, ctx.why = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        # The gradient is made to depend on x: an f that is linear in x would otherwise hide the second derivative.
        return _NoSecond.apply(grads[0], *ctx.saved_tensors, ctx.name, ctx.why), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Any:
        return _NoSecond.apply(tangents[0], *ctx.saved_tensors, ctx.name, ctx.why)  # type: ignore[no-untyped-call]


class _NoSecond(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, x: Tensor, name: str, why: str) -> Tensor:
        return grad.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *_, ctx.name, ctx.why = inputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise GraphError(f"node {ctx.name!r}: a second derivative was asked through {ctx.why}")

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Any:
        raise GraphError(f"node {ctx.name!r}: a second derivative was asked through {ctx.why}")


_SMOOTH_SAMPLERS = (
    D.Normal, D.Uniform, D.Laplace, D.Cauchy, D.Exponential, D.LogNormal, D.MultivariateNormal,
    D.LowRankMultivariateNormal, D.Gumbel, D.HalfNormal, D.HalfCauchy, D.Kumaraswamy, D.Pareto, D.Weibull,
    D.RelaxedBernoulli, D.RelaxedOneHotCategorical, D.LogisticNormal, D.GeneralizedPareto,
    D.relaxed_bernoulli.LogitRelaxedBernoulli, D.relaxed_categorical.ExpRelaxedCategorical,
)  # fmt: skip


_SMOOTH_TRANSFORMS = (
    D.AffineTransform, D.ExpTransform, D.PowerTransform, D.SigmoidTransform, D.TanhTransform, D.transforms.SoftplusTransform,
    D.SoftmaxTransform, D.StickBreakingTransform, D.CorrCholeskyTransform, D.LowerCholeskyTransform, D.ReshapeTransform,
    D.transforms.PositiveDefiniteTransform,
)  # fmt: skip


_COMPOSITE_TRANSFORMS = (
    D.ComposeTransform, D.IndependentTransform, D.CatTransform, D.StackTransform, D.transforms._InverseTransform,
)  # fmt: skip


def sampler_order(distribution: Distribution) -> float:
    """∞ where `rsample` is a smooth function of (θ, ε) that autograd can differentiate again, 1 where it is not known to be.

    Gamma, Beta, Dirichlet and what is built on them differentiate their sampler implicitly, once: a second
    derivative comes out without an error, and wrong.
    """
    if is_exactly(distribution, D.Independent):
        return sampler_order(distribution.base_dist)  # type: ignore[attr-defined]
    if is_exactly(distribution, *_SMOOTH_SAMPLERS):
        return math.inf
    if is_exactly(distribution, D.TransformedDistribution):
        smooth = all(type(t) in (*_SMOOTH_TRANSFORMS, *_COMPOSITE_TRANSFORMS) for t in transforms(distribution))
        return sampler_order(distribution.base_dist) if smooth else 1  # type: ignore[attr-defined]
    return 1
