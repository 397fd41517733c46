"""An estimator's mean with no sampling noise: its samples are prescribed, every joint value once, each with its probability.

    Σ_outcomes p(outcome) · Σᵢ wᵢ f(xᵢ)         p held constant: the mean, and the means of its derivatives

What the estimator draws through `sample` and `rsample` of its distribution is answered from the distribution's support, or
from a grid on it, along a new batch axis; samples that move with θ have their noise inferred. An estimator that draws in
other ways moves the random stream, which is seen: it has no script (`NoScript`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from scg.distributions.laws import inmost
from scg.distributions.samples import reparameterise
from scg.testing.battery.subject import Subject, estimate
from scg.testing.oracle import Oracle
from scg.testing.outcomes import SIZES
from scg.testing.quadrature import NoPoints, extent, points

BUDGET = 2**14  # outcomes
Answer = Callable[[torch.Size, bool], Tensor]
Cost = Callable[[Tensor], Tensor]


class NoScript(Exception):
    """The estimator's noise cannot be enumerated."""


def derivatives(subject: Subject, order: int, which: int = 0, f: Cost | None = None) -> Oracle:
    """Value and gradient (order 1), or the upper triangle of the Hessian (order 2), of the mean estimate."""
    f = f or subject.f
    theta = torch.tensor(subject.thetas[which], dtype=torch.float64)
    draws = _draws(subject, theta)
    try:
        needs = extent(subject.make(theta))
    except NoPoints as reason:
        raise NoScript(str(reason)) from reason
    sizes = [n for n in SIZES if (needs.count * n**needs.axes) ** draws <= BUDGET]
    if not sizes or (needs.axes and draws and sizes[-1] == sizes[0]):
        raise NoScript(f"{draws} samples have too many joint values")
    if not needs.axes or not draws:
        return Oracle.certain("exact", _mean(subject, theta, draws, sizes[0], order, f))
    fine = _mean(subject, theta, draws, sizes[0], order, f)
    coarse = _mean(subject, theta, draws, next((n for n in sizes if n <= 0.8 * sizes[0]), sizes[-1]), order, f)
    if not torch.isfinite(fine + coarse).all():
        raise NoScript("far out on a grid its estimate is not finite")
    return Oracle.certain("exact", fine, (fine - coarse).abs())


def _draws(subject: Subject, theta: Tensor) -> int:
    """How many samples one run asks for; raises where it has other noise."""
    asked: list[int] = []

    def answer(shape: torch.Size, moves: bool) -> Tensor:
        asked.append(shape.numel())
        with torch.random.fork_rng(devices=[]):
            plain = subject.make(theta.expand(1, 3))
            return inmost(plain).sample(shape)

    _run(subject, theta.expand(1, 3).clone().requires_grad_(), answer, subject.f)
    return sum(asked)


def _mean(subject: Subject, theta: Tensor, draws: int, size: int, order: int, f: Cost) -> Tensor:
    values, log_weight = points(subject.make(theta.clone()), (), size)
    count = values.shape[0]
    choice = (
        torch.cartesian_prod(*[torch.arange(count)] * draws).reshape(-1, draws)
        if draws
        else torch.zeros(1, 0, dtype=torch.long)
    )
    probability = log_weight[choice].sum(-1).exp().detach()  # [outcomes]
    leaf = theta.clone().requires_grad_()
    live = leaf.expand(len(choice), 3)
    used = 0

    def answer(shape: torch.Size, moves: bool) -> Tensor:
        nonlocal used
        mine = choice[:, used : used + shape.numel()].T.reshape(*shape, -1)
        used += shape.numel()
        drawn = values[mine].detach()
        if not moves:
            return drawn
        try:
            return reparameterise(inmost(subject.make(live)), drawn)
        except ValueError as error:
            raise NoScript(str(error)) from error

    mean = (probability * _run(subject, live, answer, f)).sum()
    if used != draws:
        raise NoScript("it draws another number of samples each time")
    return flat(mean, leaf, order)


def flat(value: Tensor, theta: Tensor, order: int) -> Tensor:
    """Value and gradient, or the upper triangle of the Hessian."""
    if not value.requires_grad:
        return torch.cat([value.reshape(1), torch.zeros(3)]) if order == 1 else torch.zeros(6, dtype=value.dtype)
    (gradient,) = torch.autograd.grad(value, theta, create_graph=order > 1)
    if order == 1:
        return torch.cat([value.detach().reshape(1), gradient])
    rows = [
        torch.autograd.grad(g, theta, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
        if g.requires_grad
        else torch.zeros_like(theta)
        for g in gradient
    ]
    return torch.cat([row[i:] for i, row in enumerate(rows)])


def _run(subject: Subject, theta: Tensor, answer: Answer, f: Cost) -> Tensor:
    """One estimate for each row of θ, its samples answered; no random number may be used besides."""
    distribution = _scripted(subject.make(theta), answer)
    before = torch.get_rng_state()
    try:
        branches = subject.estimator.branch(distribution)
    except (ValueError, RuntimeError) as error:  # far out on a grid; if it is no fault of the grid, sampling shows it
        raise NoScript(f"on a grid of values it raises {type(error).__name__}") from error
    after = torch.get_rng_state()
    if not torch.equal(before, after):
        torch.set_rng_state(before)
        raise NoScript("it draws other random numbers than samples of its distribution")
    return estimate(branches, f)


def _scripted(distribution: Distribution, answer: Answer) -> Distribution:
    """A copy that answers when it is asked for samples."""
    twin: Any = copy.copy(distribution)
    if isinstance(distribution, Independent):
        twin.base_dist = _scripted(distribution.base_dist, answer)
        return twin
    twin.sample = lambda sample_shape=(): answer(torch.Size(sample_shape), False)
    if distribution.has_rsample:
        twin.rsample = lambda sample_shape=(): answer(torch.Size(sample_shape), True)
    return twin
