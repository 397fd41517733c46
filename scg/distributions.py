"""What estimators and evaluation need to know of a distribution that torch does not say.

kind, parameters           its name, and the tensors that it was made from
log_density, remember      log p without validating one's own sample; taken once for all who ask
forget                     a sample's inverse that a transform kept from where no gradient was taken
has_rsample                whether `rsample` is the differentiable sampler that its flag says
sampler_order              how often `rsample` may be differentiated
density_order              how often the likelihood ratio may be
reparameterise             the noise behind a recorded value, and the value as its function again
moving_support             whether a likelihood ratio would miss a boundary term
rebuilt, barrier           a copy with changed parameters: detached, or guarded against a second derivative
unused                     a copy that has not been asked anything
"""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch import distributions as D
from torch.distributions import Distribution, Transform
from torch.distributions.constraints import Constraint

from scg.errors import GraphError
from scg.laws import is_exactly as is_exactly
from scg.laws import log_mass, moves, unseen
from scg.tree import rebuilt, tensors, transforms

__all__ = [
    "barrier", "density_order", "has_rsample", "is_exactly", "kind", "last_slope", "log_density", "moving_support", "own_law", "parameters",
    "rebuilt", "remember", "reparameterise", "sampler_order", "torch_kind", "unclamped_log_prob", "unused",
]  # fmt: skip


# Why a derivative of an identity is the last one.
SAMPLER = (
    "an estimator that is right to first order only.\n"
    "Use ScoreFunction() there, or a distribution whose sampler is smooth (Normal, Laplace, Exponential, …)."
)


KINK = (
    "its function, which has a kink that samples move across (relu, abs, max, clamp): the expectation curves there, and no second "
    "derivative at a sample sees it.\nUse a smooth function, or ScoreFunction() where the sample is drawn."
)


def last_slope(value: Any, name: str) -> Any:
    """A node's value behind a barrier that refuses a second derivative."""
    return rebuilt(value, lambda x: barrier(x, name, KINK), name)


def barrier(x: Tensor, name: str, why: str = SAMPLER) -> Tensor:
    """`x`, of whose derivatives, backwards or forwards, only the first is let through."""
    return FirstOrder.apply(x, name, why) if moves(x) else x  # type: ignore[no-any-return,no-untyped-call]


def inmost(distribution: Distribution) -> Distribution:
    """The distribution inside every Independent."""
    while isinstance(distribution, D.Independent):
        distribution = distribution.base_dist
    return distribution


def kind(distribution: Distribution) -> str:
    """The name of a distribution, looking through Independent."""
    return type(inmost(distribution)).__name__


def parameters(distribution: Distribution) -> list[Tensor]:
    """The tensors that a distribution was made from; asked before it is used, for some cache others later."""
    return tensors(distribution)


def log_density(distribution: Distribution, values: Tensor) -> Tensor:
    """`distribution.log_prob(values)` of values just drawn from it: that they lie in its support need not be checked."""
    if torch.compiler.is_compiling():
        return unclamped_log_prob(distribution, values)
    forget(distribution)
    own = log_mass(distribution, values, drawn=True)
    if own is not None:
        return own
    validated = []
    layer: Any = distribution
    while layer is not None:
        if layer._validate_args:
            validated.append((layer, layer.__dict__.get("_validate_args")))
            layer._validate_args = False
        layer = layer.__dict__.get("base_dist")
    try:
        return distribution.log_prob(values)
    finally:
        for layer, flag in validated:
            if flag is None:
                del layer._validate_args
            else:
                layer._validate_args = flag


def unclamped_log_prob(distribution: Distribution, values: Tensor) -> Tensor:
    """`distribution.log_prob(values)`, with the gradient that torch's clamp of `probs` would remove."""
    unclamped = log_mass(distribution, values)
    return distribution.log_prob(values) if unclamped is None else unclamped


def forget(distribution: Distribution) -> None:
    """Drop the value that a caching transform inverted, where its parameters have a gradient.

    `sample` keeps x and y = T(x; θ) without one, and asked about y the transform would give x back as if θ did not matter.
    """
    while isinstance(distribution, (D.Independent, D.TransformedDistribution)):
        if isinstance(distribution, D.TransformedDistribution):
            for transform in transforms(distribution):
                if transform._cache_size and any(t.requires_grad for t in tensors(transform)):
                    transform._cached_x_y = None, None
        distribution = distribution.base_dist


def remember(distribution: Any) -> None:
    """Let a distribution that other nodes ask for keep its log-density at the last value it was asked about.

    The estimator takes it at the sample, and a cost that is given the sample and its `dist` takes it again. What was
    taken under no_grad has no gradient, and what was taken with one must not enter a block without: both are kept apart.
    """
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled() or not isinstance(distribution, Distribution):
        return  # a tensor of inference mode counts no versions
    compute, itself = type(distribution).log_prob, weakref.ref(distribution)  # no cycle: tensors must die with the trace
    kept: dict[bool, Any] = {}

    def remembered(value: Tensor) -> Tensor:
        taken = torch.is_grad_enabled()
        last = kept.get(taken)
        if last is not None and value is last[0] and value._version == last[1]:
            return last[2]
        result = compute(itself(), value)  # type: ignore[arg-type]
        kept[taken] = value, value._version, result
        return result

    distribution.log_prob = remembered  # type: ignore[method-assign]


def unused(distribution: Distribution) -> Distribution:
    """A copy of it and of the distributions that it is made of: what torch keeps of one that is asked, it keeps of the copy."""
    twin = copy.copy(distribution)
    parts = {key: unused(value) for key, value in vars(distribution).items() if isinstance(value, Distribution)}
    twin.__dict__ = {key: value for key, value in {**vars(distribution), **parts}.items() if key != "log_prob"}
    return twin


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


def has_rsample(distribution: Distribution) -> bool:
    """Whether `rsample` gives reparameterised samples. The flag says less of some of torch's own, and more of others."""
    if isinstance(distribution, (D.Independent, D.TransformedDistribution)):
        return has_rsample(distribution.base_dist)
    if isinstance(distribution, D.relaxed_bernoulli.LogitRelaxedBernoulli):
        return True  # torch defines its `rsample`, and forgot the flag
    return distribution.has_rsample and not isinstance(distribution, D.OneHotCategoricalStraightThrough)


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


def density_order(distribution: Distribution) -> float:
    """1 where the density has a kink that moves with a parameter, else ∞.

    The second derivative of such a density has a point mass at the kink, which no derivative of log p at a sample sees.
    """
    return 1 if _moving(distribution, _kinks(distribution)) else math.inf


def _kinks(distribution: Distribution) -> list[Tensor]:
    """Where a density has a kink, as a function of its parameters."""
    if isinstance(distribution, D.Laplace):
        return [distribution.loc]
    found = [k for part in _components(distribution) for k in _kinks(part)]
    if isinstance(distribution, D.TransformedDistribution):
        for transform in distribution.transforms:
            found = _images(transform, found)
    return found


def _components(distribution: Distribution) -> Iterator[Distribution]:
    """The distributions that one is made of."""
    for value in vars(distribution).values():
        for part in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(part, Distribution):
                yield part


def _images(transform: Transform, points: list[Tensor]) -> list[Tensor]:
    with torch.enable_grad():
        return [transform(point) for point in points]


def _moving(distribution: Distribution, points: list[Tensor]) -> bool:
    """Whether one of the points, finite ones, has a slope with respect to a parameter of the distribution."""
    points = [p for p in points if p.requires_grad]
    moved = [p for p in parameters(distribution) if p.requires_grad] if points else []
    for point in points:
        finite = point[torch.isfinite(point)]
        slopes = torch.autograd.grad(finite.sum(), moved, retain_graph=True, allow_unused=True) if finite.numel() else ()
        if any(s is not None and bool((torch.nan_to_num(s, 0.0, 0.0, 0.0) != 0).any()) for s in slopes):
            return True
    return False


def reparameterise(distribution: Any, value: Tensor) -> Tensor:
    """`value` as the differentiable sample g(ε; θ), with ε inferred from it: x = μ + σ sg((x - μ)/σ) and its kin."""
    if is_exactly(distribution, D.Independent):
        return reparameterise(distribution.base_dist, value)
    if is_exactly(distribution, D.Normal, D.Laplace, D.Cauchy, D.Gumbel):
        return distribution.loc + distribution.scale * ((value - distribution.loc) / distribution.scale).detach()
    if is_exactly(distribution, D.Uniform):
        width = distribution.high - distribution.low
        return distribution.low + width * ((value - distribution.low) / width).detach()
    if is_exactly(distribution, D.Exponential):
        return (value * distribution.rate).detach() / distribution.rate
    if is_exactly(distribution, D.MultivariateNormal):
        tril = distribution.scale_tril
        centred = (value - distribution.loc).unsqueeze(-1)
        noise = torch.linalg.solve_triangular(tril, centred, upper=False).detach()
        return distribution.loc + (tril @ noise).squeeze(-1)
    if isinstance(distribution, D.TransformedDistribution) and torch_kind(distribution) is not None:
        for transform in reversed(distribution.transforms):
            value = transform._inverse(value)
        value = reparameterise(distribution.base_dist, value)
        for transform in distribution.transforms:
            value = transform(value)  # type: ignore[assignment]
        return value
    own = getattr(distribution, "reparameterised", None)  # what a distribution of one's own may offer
    if callable(own):
        return own(value)
    raise ValueError(
        f"a value was given at a pathwise node, and the noise behind a {kind(distribution)} sample cannot be inferred.\n"
        "Leave the node out of `given`, or use ScoreFunction() there."
    )


def moving_support(distribution: Distribution) -> str | None:
    """A likelihood ratio misses the boundary term when the support moves with θ (∇∫ ≠ ∫∇), or begins to have a new value."""
    base = inmost(distribution)
    if not _moving(distribution, _bounds(base)):
        return unseen(distribution)
    moving = [k for k, v in _limits(_support(base)) if isinstance(v, Tensor) and v.requires_grad]
    return (
        f"the support of {kind(base)} depends on a parameter through its {', '.join(moving) or 'parts'}, "
        "and a likelihood ratio misses what enters at the boundary.\n"
        "Use Pathwise() if it reparameterises, or move the parameter out of the support (scale a fixed distribution)."
    )


def _bounds(distribution: Distribution) -> list[Tensor]:
    """Points on the border of the support, and atoms of a discrete one, as functions of the parameters."""
    if isinstance(distribution, (D.Independent, D.MixtureSameFamily)):
        return [b for part in _components(distribution) for b in _bounds(part)]
    own = [value for _, value in _limits(_support(distribution))]
    if isinstance(distribution, D.TransformedDistribution) and type(distribution).support is D.TransformedDistribution.support:
        return _pushed(distribution, own)
    return [value for value in own if isinstance(value, Tensor)]


def _pushed(distribution: D.TransformedDistribution, own: list[Any]) -> list[Tensor]:
    """The bounds of the base, the ends of the line (tanh ends at 1) and each codomain's bounds, through the transforms."""
    base = distribution.base_dist
    support, like = _support(base), next(iter(tensors(base)), torch.zeros(()))
    values: list[Any] = [*_bounds(base), *(v for _, v in _limits(support)), math.inf, -math.inf]
    if support is not None and support.is_discrete:
        values += [0.0, 1.0]

    def shaped(value: Any, shape: torch.Size) -> Tensor:
        value = torch.as_tensor(value, device=like.device)
        value = value if value.is_floating_point() else value.to(torch.get_default_dtype())
        return value.expand(torch.broadcast_shapes(value.shape, shape))

    shape = base.batch_shape + base.event_shape
    points = [shaped(value, shape) for value in values]
    for transform in distribution.transforms:
        points = _images(transform, points)
        shape = torch.Size(transform.forward_shape(shape))
        points += [shaped(value, shape) for _, value in _limits(transform.codomain)]
    return points


def _support(distribution: Distribution) -> Any:
    try:
        return distribution.support
    except NotImplementedError:
        return None


def _limits(constraint: Any) -> list[tuple[str, Any]]:
    """The bounds that a constraint holds, by name; any tensor of one that is not torch's."""
    found: list[tuple[str, Any]] = []
    for key, value in vars(constraint).items() if isinstance(constraint, Constraint) else ():
        for part in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(part, Constraint):
                found += _limits(part)
            elif isinstance(part, Tensor) or key.endswith("bound"):
                found.append((key, part))
    return found


class FirstOrder(torch.autograd.Function):
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
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Any:
        return _NoSecond.apply(tangent, *ctx.saved_tensors, ctx.name, ctx.why)


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


def torch_kind(distribution: Distribution) -> type[Distribution] | None:
    """The class of torch whose law a distribution has; None where it has a law of its own."""
    nearest = next(k for k in type(distribution).__mro__ if k.__module__.partition(".")[0] == "torch")
    return nearest if nearest is not Distribution and is_exactly(distribution, nearest) else None


def own_law(distribution: Distribution) -> bool:
    """Whether a part of a distribution has a law that is not torch's, of which only its methods tell."""
    return torch_kind(distribution) is None or any(own_law(part) for part in _components(distribution))
