"""Total propagation and α-order: pathwise and likelihood ratio blended in the backward pass, with weights measured there.

    backward, at each step, for batch element i:     P_i = G_i ∂g/∂ζ,    L_i = (R_i − R̄_{−i}) ∇_ζ log p(x_i; ζ)
    what goes on to the step before:                 α_i P_i + (1 − α_i) L_i

    TotalPropagation    α_i = v_L / (v_P + v_L)                                          inverse variances
    AlphaOrder          α_i = min(v_L / (v_P + v_L), tolerance · s_L / |P̄ − L̄|)           s_L: standard error of L̄

ζ are the distribution's parameters, G the gradient that comes back to the sample (blended already at later steps), R the cost that
comes back to its weight; v and the means are over the batch without element i, and so is the baseline R̄. So each step, and each
node, has weights of its own.

Bias. The batch's elements must be independent. Where the cost is continuous: none with one such node (α_i knows nothing of element i's
noise); with several, later weights of others know it, and the bias falls as 1/batch. Where the cost jumps, P is biased by what
pathwise misses, and v_P does not show it: TotalPropagation keeps that bias times α, all of it where P is constantly 0. AlphaOrder
bounds it by `tolerance` standard errors of L̄ (Suh et al. bound it by a given accuracy γ), so its bias vanishes as the batch grows.
With fewer than three elements there is nothing to measure, and α is ½. First order.

Parmas et al. (2018), "PIPPS"; Suh, Simchowitz, Zhang & Tedrake (2022), "Do differentiable simulators give better policy gradients?".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from scg.checks.untouched import transformed
from scg.distributions import log_density, moves, moving_support, parameters, reparameterise, rsample
from scg.errors import GraphError
from scg.estimator import Branches, Estimator, Pathwise

LEAST = 3  # elements of a batch whose variances, without one of them, are known


@dataclass(frozen=True)
class TotalPropagation(Estimator):
    """Weights by inverse variances."""

    allow_bias: bool = False

    unbiased = False
    moves = True

    @property
    def tolerance(self) -> float:
        return math.inf

    def branch(self, distribution: Distribution) -> Branches:
        return self._blended(distribution, None)

    def given(self, distribution: Distribution, value: Tensor, log_prob: Tensor | None = None) -> Branches:
        """At a recorded value, its noise inferred; with μ's recorded `log_prob` weighed with sg π/μ besides."""
        found = self._blended(distribution, value)
        if log_prob is None or found.score is None:
            return found
        ratio = (distribution.log_prob(value) - log_prob).detach().exp()
        return Branches(found.values, weights=ratio * found.score.exp())

    def _blended(self, distribution: Distribution, value: Tensor | None) -> Branches:
        held = parameters(distribution)
        live = list({id(p): p for p in held if p.requires_grad}.values())
        if transformed() or any(moves(p) and not p.requires_grad for p in held):
            raise GraphError(
                f"{type(self).__name__} measures its weights in autograd's backward pass, which forward mode and torch.func have not.\n"
                "Use reverse mode (backward, torch.autograd.grad), or Mixed(alpha), whose weight is given."
            )
        moved = rsample(distribution) if value is None else reparameterise(distribution, value)
        log_prob = log_density(distribution, moved.detach())
        if not live or not torch.is_grad_enabled():
            return Branches(moved, score=log_prob - log_prob.detach())
        sample, score = _Blend.apply(self.tolerance, live, moved, log_prob)
        return Branches(sample, score=score)

    def order(self, distribution: Distribution) -> float:
        return 1

    def refuses(self, distribution: Distribution) -> str | None:
        batch = distribution.batch_shape
        for p in parameters(distribution):
            if p.requires_grad and p.shape[: len(batch)] != batch:
                return (
                    f"{type(self).__name__} measures variances over the batch {tuple(batch)}, and a parameter of shape "
                    f"{tuple(p.shape)} has no value of its own for each element. Expand it to the batch."
                )
        return Pathwise().refuses(distribution) or moving_support(distribution)


@dataclass(frozen=True)
class AlphaOrder(TotalPropagation):
    """Weights by inverse variances, the pathwise share bounded so that its bias stays below `tolerance` standard errors."""

    bound: float = 1.0

    def __post_init__(self) -> None:
        if not self.bound >= 0:
            raise ValueError(f"AlphaOrder(bound={self.bound!r}): standard errors of the likelihood ratio, at least 0")

    @property
    def tolerance(self) -> float:
        return self.bound


class _Blend(torch.autograd.Function):
    """The sample, and a zero whose incoming gradient is the cost that the sample answers for.

    What goes on is α_i G_i to the sample and (1 − α_i) (R_i − R̄_{−i}) to its log-density; the gradients of both for the
    distribution's parameters, `live`, are taken here to measure α.
    """

    @staticmethod
    def forward(ctx: Any, tolerance: float, live: list[Tensor], moved: Tensor, log_prob: Tensor) -> Any:
        ctx.tolerance, ctx.inner = tolerance, (live, moved, log_prob)
        return moved.detach().clone(), torch.zeros_like(log_prob.detach())

    @staticmethod
    def backward(ctx: Any, *incoming: Tensor) -> Any:
        live, moved, log_prob = ctx.inner
        slope, cost = incoming
        count = log_prob.numel()
        r = cost.reshape(count, 1)
        baseline = (r.sum(0) - r) / (count - 1) if count > 1 else torch.zeros_like(r)
        alpha = torch.full_like(r, 0.5)
        if count >= LEAST:
            path, score = (_gradients(y, live, g, count) for y, g in ((moved, slope), (log_prob, torch.ones_like(log_prob))))
            alpha = share(path, score, r, baseline, ctx.tolerance)
        alpha = alpha.reshape(log_prob.shape)
        event = [1] * (slope.ndim - log_prob.ndim)
        return None, None, alpha.reshape(*log_prob.shape, *event) * slope, (1 - alpha) * (cost - baseline.reshape(cost.shape))


def _gradients(y: Tensor, live: list[Tensor], grad: Tensor, count: int) -> Tensor:
    """Of each batch element's `y` for its own parameters, `[count, numbers]`; a parameter that is not its own tells nothing."""
    live = [p for p in live if p.numel() and p.numel() % count == 0]
    if not live:
        return grad.new_zeros(count, 1)
    found: Any = [None] * len(live)
    if y.requires_grad:
        found = torch.autograd.grad(y, live, grad, retain_graph=True, allow_unused=True)
    pairs = zip(found, live, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).reshape(count, -1) for g, p in pairs], -1)


def share(path: Tensor, score: Tensor, cost: Tensor, baseline: Tensor, tolerance: float) -> Tensor:
    """α of every element `[count, 1]`, from the others: pathwise gradients and scores `[count, n]`, costs and their leave-one-out
    means `[count, 1]`."""
    others = len(path) - 1

    def rest(x: Tensor) -> Tensor:  # the mean over the others
        return (x.sum(0, keepdim=True) - x) / others

    def squared(x: Tensor) -> Tensor:
        return x.square().sum(-1, keepdim=True)

    def variance(square: Tensor, mean: Tensor, whole: Tensor) -> Tensor:  # 0 where it is of the size of rounding
        found, rounding = square - squared(mean), 64 * torch.finfo(whole.dtype).eps * whole.mean()
        return torch.where(found > rounding, found, 0.0)

    s2 = squared(score)
    p_mean = rest(path)
    p_variance = variance(rest(squared(path)), p_mean, squared(path))
    # the likelihood ratios of the others, each less the others' mean cost
    l_mean = rest(cost * score) - baseline * rest(score)
    l_square = rest(cost.square() * s2) - 2 * baseline * rest(cost * s2) + baseline.square() * rest(s2)
    l_variance = variance(l_square, l_mean, cost.square() * s2)
    total = p_variance + l_variance
    alpha = torch.where(total > 0, l_variance / total, 0.5)
    if math.isinf(tolerance):
        return alpha
    gap, error = squared(p_mean - l_mean).sqrt(), (l_variance / others).sqrt()
    return torch.minimum(alpha, torch.where(gap > 0, tolerance * error / gap, torch.inf))
