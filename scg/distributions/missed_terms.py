"""Terms of a derivative of E[f] that a likelihood ratio, f(x) ∇log p(x) at samples x, does not contain.

    ∇∫ f p = ∫ f ∇p + (f p at a border of the support, times the slope of the border)

moving_support    why the first derivative lacks a term: the support moves with θ, or begins to have a new value
unseen            the same of values whose probability is 0 and moves: they are never drawn
density_order     1 where the second derivative lacks one: the density has a kink that moves with θ

The answers are asked of autograd at the distribution's own parameters: a border that does not depend on what is differentiated
is no obstacle. Each question costs at most one small backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import distributions as D
from torch.distributions import Distribution, Transform
from torch.distributions.constraints import Constraint

from scg.distributions.laws import components, inmost, is_exactly, kind, parameters, unwrapped
from scg.distributions.probabilities import holder
from scg.tree import tensors


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
        return [b for part in components(distribution) for b in _bounds(part)]
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


def density_order(distribution: Distribution) -> float:
    """1 where the density has a kink that moves with a parameter, else ∞.

    The second derivative of such a density has a point mass at the kink, which no derivative of log p at a sample sees.
    """
    return 1 if _moving(distribution, _kinks(distribution)) else math.inf


def _kinks(distribution: Distribution) -> list[Tensor]:
    """Where a density has a kink, as a function of its parameters."""
    if isinstance(distribution, D.Laplace):
        return [distribution.loc]
    found = [k for part in components(distribution) for k in _kinks(part)]
    if isinstance(distribution, D.TransformedDistribution):
        for transform in distribution.transforms:
            found = _images(transform, found)
    return found


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


def unseen(distribution: Distribution) -> str | None:
    """Why no weighing of what is drawn gives the gradient here: a value of probability 0 is never drawn, and its probability moves.

    ∂_θ E[f] = Σ_x f(x) ∂_θ p(x) has a term where p(x) = 0 and ∂_θ p(x) ≠ 0. A probability that is 0 and stays there (a masked
    softmax) is no obstacle: whether it moves is asked of autograd.
    """
    base, _ = unwrapped(distribution)
    for kinds, name, edge in _EDGES:
        if not is_exactly(base, *kinds):
            continue
        p = vars(holder(base)).get(name)
        at_edge = None if p is None or not p.requires_grad else edge(p.detach())
        if at_edge is None or not at_edge.any() or not _varies(p[at_edge]):
            return None
        found = float(p.detach()[at_edge].flatten()[0])
        return (
            f"the {name} of {type(base).__name__} {'are' if name == 'probs' else 'is'} {found:g} somewhere and require{'' if name == 'probs' else 's'} a "
            "gradient, part of which belongs to values that have probability 0 and are never drawn.\n"
            "Use Enumeration() or MeasureValued() where they take it, or make it from logits (or keep it away from the edge)."
        )
    return None


def _varies(p: Tensor) -> bool:
    leaves, stack, seen = [], [p.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        stack += [parent for parent, _ in node.next_functions]
    generic = 1.5 + torch.arange(p.numel(), dtype=p.dtype, device=p.device).cos().view_as(p)  # so that nothing cancels
    found = torch.autograd.grad(p, leaves, generic, retain_graph=True, allow_unused=True)
    return any(g is not None and bool((g != 0).any()) for g in found)


_EDGES: tuple[tuple[tuple[type[Distribution], ...], str, Callable[[Tensor], Tensor]], ...] = (
    ((D.Bernoulli, D.Binomial), "probs", lambda p: (p == 0) | (p == 1)),
    ((D.Categorical, D.OneHotCategorical, D.Multinomial, D.NegativeBinomial), "probs", lambda p: p == 0),
    ((D.Geometric,), "probs", lambda p: p == 1),
    ((D.Poisson,), "rate", lambda p: p == 0),
)
