"""A distribution as points and measures: Σ_k m_k p(x_k; θ) f(x_k) is E[f(x)], exactly or to quadrature's precision.

    finite support     every value, measure 1                                                        exact
    integers           0, 1, 2, … up to where less than e^-40 of the mass is left                    exact to rounding
    a real interval    the trapezoid rule on y, x = T(y), T the bijection of ℝ with the support      exponential convergence
                       (p(T(y)) T'(y) decays at both ends; Trefethen & Weideman 2014)                for smooth f
    independent parts  all combinations

θ enters through the density at points that stay where they are, so f need not be differentiable. Only where the
support itself moves with θ do the points move with it (the density vanishes outside), and f must be continuous.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch import distributions as D
from torch.distributions import Distribution, constraints

from scg.distributions.densities import log_density

TAIL = 40.0  # points whose density lies e^-40 below its peak are left out


class NoPoints(Exception):
    """The expectation under a distribution cannot be written as a small sum."""


@dataclass(frozen=True)
class Points:
    """values `[k, *batch, *event]` and log-measures, to be added to the log-density `[k, *batch]`."""

    values: Tensor
    log_measure: Tensor | float


@dataclass(frozen=True)
class Extent:
    """How many points a distribution needs: `count` values for each of its finite parts together, `axes` real axes."""

    count: int
    axes: int


Bound = tuple[int, ...]  # batch axes, counted from the right, whose variables belong to one joint sample


def extent(distribution: Distribution, bound: Bound = ()) -> Extent:
    """Raises `NoPoints` where there is no rule."""
    base, axes = unbound(distribution, bound)
    width = math.prod(base.batch_shape[axis] for axis in axes)
    if isinstance(base, D.MultivariateNormal):
        return Extent(1, width * base.event_shape.numel())
    if isinstance(base, D.Dirichlet):
        return Extent(1, width * (base.event_shape.numel() - 1))
    values = finite(base)
    if values is None:
        values = integers(base)
    if values is not None:
        count = values.shape[0] ** width
        if count > 2**20:
            raise NoPoints(f"{count} joint values of {type(base).__name__}")
        return Extent(count, 0)
    if base.event_shape or not _real_axis(base):
        raise NoPoints(f"no quadrature for {type(base).__name__}")
    return Extent(1, width)


def points(distribution: Distribution, bound: Bound, size: int, shifting: bool = False) -> tuple[Tensor, Tensor]:
    """Joint values `[k, *batch, *event]` and log-weights (density times measure) `[k, *batch without the bound axes]`,
    with `size` points along each real axis.

    shifting   let location and scale carry the points of a Laplace, whose density has a kink there: a second derivative
               of the density at fixed points would miss it
    """
    base, axes = unbound(distribution, bound)
    if isinstance(base, D.MultivariateNormal):
        single = _multivariate(base, size)
    elif (values := finite(base)) is not None or (values := integers(base)) is not None:
        single = Points(values, 0.0)
    elif isinstance(base, D.Dirichlet):
        single = _simplex(base, size)
    elif isinstance(base, D.Laplace):
        single = _laplace(base, size, shifting)
    else:
        single = _axis(base, size)
    log_weight = log_density(base, single.values) + single.log_measure
    return _joint(single.values, log_weight, base, axes)


def unbound(distribution: Distribution, bound: Bound = ()) -> tuple[Distribution, Bound]:
    """The distribution inside Independent, and which of its batch axes are bound into one sample."""
    inside = 0
    while isinstance(distribution, D.Independent):
        inside += distribution.reinterpreted_batch_ndims
        distribution = distribution.base_dist
    return distribution, (*(axis - inside for axis in bound), *range(-inside, 0))


def finite(base: Distribution) -> Tensor | None:
    if isinstance(base, D.MixtureSameFamily):
        values = None if base.event_shape else finite(base.component_distribution)
        return None if values is None or bool((values != values[..., :1]).any()) else values[..., 0]
    if not base.has_enumerate_support:
        return None
    try:
        return base.enumerate_support().detach()
    except NotImplementedError:  # a Binomial whose counts differ
        return None


def integers(base: Distribution) -> Tensor | None:
    """0, 1, 2, … as far as there is mass."""
    law = base.component_distribution if isinstance(base, D.MixtureSameFamily) else base
    if not isinstance(law, (D.Poisson, D.Geometric, D.NegativeBinomial)):
        return None
    last = 64
    while last <= 2**14:
        values = torch.arange(last, dtype=base.mean.dtype).reshape(-1, *[1] * len(base.batch_shape))
        with torch.no_grad():
            log_prob = base.log_prob(values.expand(-1, *base.batch_shape)).reshape(last, -1)
        alive = (log_prob > log_prob.amax(0) - TAIL).any(1).nonzero().max()
        if alive < last - 1:
            return values[: int(alive) + 1].expand(-1, *base.batch_shape)
        last *= 4
    raise NoPoints(f"{type(base).__name__} reaches beyond {2**14}")


def _real_axis(base: Distribution) -> bool:
    if type(base) is D.TransformedDistribution:
        same = base.batch_shape == base.base_dist.batch_shape and not base.base_dist.event_shape
        return same and all(t.bijective for t in base.transforms) and _real_axis(base.base_dist)
    try:
        support = _support(base)
        D.biject_to(support)
    except NotImplementedError:
        return False
    return support is not None and not support.is_discrete and support.event_dim == 0


# -- one real axis -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A real axis: x = at(s) with log dx/ds, for s from `low` to `high`; beyond them is less than e^-40 of the peak.

    s is `[k, *rows]`, where rows broadcast against the distribution's batch. `moving`: the points go along with θ.
    """

    at: Callable[[Tensor], tuple[Tensor, Tensor]]
    low: float
    high: float
    moving: bool


def line(base: Distribution, shifting: bool = False) -> Line | None:
    """The axis of a distribution of real numbers; None where it is something else.

    A Normal: y = μ + σ s; a half-line: y = m + c (s - e^-s), for the density of log x falls steeply on the right and slowly
    on the left; else y = m + c sinh(s). A transformed distribution: the axis of its base, pushed through the transforms, for
    the support that torch states for it need not be the right one.
    """
    if base.event_shape or isinstance(base, D.MultivariateNormal) or not _real_axis(base):
        return None
    if type(base) is D.TransformedDistribution:
        return _pushed(base, shifting)
    support = _support(base)
    bijection: Any = D.biject_to(support)
    stretch = _affine if isinstance(base, D.Normal) else _one_sided if isinstance(bijection, D.ExpTransform) else _sinh
    if isinstance(bijection, D.ComposeTransform) and isinstance(next(iter(bijection.parts), None), D.ExpTransform):
        stretch = _one_sided
    moving = any(isinstance(v, Tensor) and v.requires_grad for v in vars(_bare(support)).values())
    moving = moving or (shifting and isinstance(base, D.Laplace))

    def at(s: Tensor) -> tuple[Tensor, Tensor]:
        stretched, log_slope = stretch(s)
        y = centre + width * stretched
        x = cast(Tensor, bijection(y))
        log_dx = bijection.log_abs_det_jacobian(y, x) + width.log() + log_slope
        return (x, log_dx) if moving else (x.detach(), log_dx.detach())

    with torch.no_grad():
        if isinstance(base, (D.Cauchy, D.Laplace)):  # the poles decide how fine the grid must be; a kink belongs at s = 0
            centre, width = base.loc, base.scale
        else:
            centre, width = (base.mean, base.stddev) if stretch is _affine else _standard(base, bijection)
    if moving and isinstance(base, D.Laplace):  # with its gradient
        centre, width = base.loc, base.scale
    low, high = (-9.0, 9.0) if stretch is _affine else _range(base, at)
    return Line(at, low, high, moving)


def _pushed(base: D.TransformedDistribution, shifting: bool) -> Line | None:
    inner = line(base.base_dist, shifting)
    if inner is None:
        return None
    bounded = _bare(_support(base.base_dist)) is not constraints.real
    moving = inner.moving or (bounded and any(t.requires_grad for t in tensors(base.transforms)))

    def at(s: Tensor) -> tuple[Tensor, Tensor]:
        x, log_dx = inner.at(s)
        for transform in base.transforms:
            y = cast(Tensor, transform(x))
            log_dx = log_dx + transform.log_abs_det_jacobian(x, y)
            x = y
        return (x, log_dx) if moving else (x.detach(), log_dx.detach())

    return Line(at, inner.low, inner.high, moving)


def tensors(thing: Any) -> list[Tensor]:
    """Every tensor that transforms are made of."""
    if isinstance(thing, Tensor):
        return [thing]
    if isinstance(thing, (list, tuple)):
        return [t for part in thing for t in tensors(part)]
    if isinstance(thing, D.Transform):
        return [t for name, part in vars(thing).items() if name not in ("_inv", "_cached_x_y") for t in tensors(part)]
    return []


def _axis(base: Distribution, size: int) -> Points:
    """The trapezoid rule along the axis."""
    axis = line(base)
    assert axis is not None
    batch = base.batch_shape
    dtype = parameter_dtype(base)
    s = torch.linspace(axis.low, axis.high, size, dtype=dtype).reshape(-1, *[1] * len(batch)).expand(-1, *batch)
    x, log_dx = axis.at(s)
    return Points(x, log_dx + math.log((axis.high - axis.low) / (size - 1)))


def parameter_dtype(base: Distribution) -> torch.dtype:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        return base.sample().dtype


def _support(base: Distribution) -> Any:
    """Where it samples. Of a circle torch says all reals; of a mixture it means the components'."""
    if isinstance(base, D.VonMises):
        return constraints.interval(-math.pi, math.pi)
    if isinstance(base, D.MixtureSameFamily):
        return _support(base.component_distribution)
    return base.support


def _bare(support: Any) -> Any:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def _affine(s: Tensor) -> tuple[Tensor, Tensor]:
    return s, torch.zeros_like(s)


def _one_sided(s: Tensor) -> tuple[Tensor, Tensor]:
    return s - torch.exp(-s), torch.log1p(torch.exp(-s))


def _sinh(s: Tensor) -> tuple[Tensor, Tensor]:
    return s.sinh(), s.abs() + torch.log1p(torch.exp(-2 * s.abs())) - math.log(2.0)


def _standard(base: Distribution, bijection: Any) -> tuple[Tensor, Tensor]:
    """Median and spread of y, from a few samples: only how well the points are placed depends on them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        y = bijection.inv(base.sample(torch.Size((129,))))
    y = y.nan_to_num(0.0).sort(0).values
    spread = (y[96] - y[32]).clamp_min(1e-12 * (1 + y[64].abs()))
    return y[64], spread


def _range(base: Distribution, at: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Where the density in s is above e^-40 of its peak, for every batch element."""
    grid = torch.linspace(-24.0, 24.0, 193, dtype=torch.float64)
    shape = base.batch_shape
    with torch.no_grad():
        s = grid.reshape(-1, *[1] * len(shape)).expand(-1, *shape)
        x, log_dx = at(s)
        density = log_density(base, x) + log_dx
        density = density.nan_to_num(nan=-torch.inf, posinf=-torch.inf).reshape(len(grid), -1)
        alive = (density > density.amax(0) - TAIL).any(1).nonzero().flatten()
    step = float(grid[1] - grid[0])
    return float(grid[alive[0]]) - step, float(grid[alive[-1]]) + step


def _laplace(base: D.Laplace, size: int, shifting: bool) -> Points:
    """Two half-lines x = μ ± b exp(s - e^-s), so that the kink at μ is an end point."""
    loc, scale = (base.loc, base.scale) if shifting else (base.loc.detach(), base.scale.detach())
    half = max(size // 2, 2)
    s = torch.linspace(-3.7, 3.7, half, dtype=loc.dtype).reshape(-1, *[1] * loc.ndim).expand(-1, *loc.shape)
    log_t = s - torch.exp(-s)
    step = torch.log(s.new_tensor(7.4 / (half - 1)))
    log_dx = (log_t + torch.log1p(torch.exp(-s)) + step + scale.log()).repeat(2, *[1] * loc.ndim)
    return Points(torch.cat([loc - scale * log_t.exp(), loc + scale * log_t.exp()]), log_dx)


def _multivariate(base: D.MultivariateNormal, size: int) -> Points:
    """x = μ + L z, z on a tensor grid."""
    d = base.event_shape.numel()
    grid = torch.linspace(-9.0, 9.0, size, dtype=base.loc.dtype)
    z = torch.cartesian_prod(*[grid] * d).reshape(-1, *[1] * len(base.batch_shape), d)
    tril = base._unbroadcasted_scale_tril.detach()
    x = base.loc.detach() + (tril @ z.unsqueeze(-1)).squeeze(-1)
    log_det = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return Points(x.expand(-1, *base.batch_shape, d), log_det + d * torch.log(grid[1] - grid[0]))


def _simplex(base: D.Dirichlet, size: int) -> Points:
    """Sticks: x_k = v_k Π_{j<k} (1 − v_j), each v the sigmoid of 2 sinh(s)."""
    count = base.event_shape.numel()
    with torch.no_grad():
        reach = math.asinh(max(TAIL, TAIL / float(base.concentration.min())) / 2)
    s = torch.linspace(-reach, reach, size, dtype=base.concentration.dtype)
    y, log_dy = 2 * s.sinh(), (2 * s.cosh()).log() + torch.log(s[1] - s[0])
    log_v, log_rest = (
        torch.cartesian_prod(*[torch.nn.functional.logsigmoid(sign * y)] * (count - 1)).reshape(-1, count - 1)
        for sign in (1, -1)
    )
    left = torch.nn.functional.pad(log_rest.cumsum(-1), (1, 0))  # log of the stick that is left before each break
    x = (torch.nn.functional.pad(log_v, (0, 1)) + left).exp()
    measure = torch.cartesian_prod(*[log_dy] * (count - 1)).reshape(-1, count - 1).sum(-1)
    log_dx = (left[..., :-1] + log_v + log_rest).sum(-1) + measure  # |dx_k/dv_k| = the stick left; dv/dy = v (1 − v)
    batch = base.batch_shape
    x = (x / x.sum(-1, keepdim=True)).clamp_min(torch.finfo(x.dtype).tiny)
    return Points(
        x.reshape(-1, *[1] * len(batch), count).expand(-1, *batch, count),
        log_dx.reshape(-1, *[1] * len(batch)).expand(-1, *batch),
    )


# -- independent parts -------------------------------------------------------------------------------------


def _joint(values: Tensor, log_weight: Tensor, base: Distribution, axes: Bound) -> tuple[Tensor, Tensor]:
    """All combinations of the points along the bound batch axes of `base`."""
    if not axes:
        return values, log_weight
    batch, event = base.batch_shape, base.event_shape
    m, rank = values.shape[0], len(batch)
    together = torch.Size(n if i - rank in axes else 1 for i, n in enumerate(batch))
    choice = torch.cartesian_prod(*[torch.arange(m)] * together.numel()).reshape(-1, *together)
    index = choice.reshape(*choice.shape, *[1] * len(event)).expand(-1, *batch, *event)
    chosen = log_weight.expand(m, *batch).gather(0, choice.expand(-1, *batch))
    return values.expand(m, *batch, *event).gather(0, index), chosen.sum(list(axes))
