"""Laws of the mean: what an estimator estimates, standing alone.

first order     E[Σ wᵢ f(xᵢ)] = E[f(x)], and so for the gradient; at two θs side by side in a batch
second order    and so for the Hessian, where order(distribution) ≥ 2; where it is 1, a Hessian is refused
constant        a cost that is constant has a gradient of mean zero
stated bias     a biased estimator's mean is the one that it states
"""

from __future__ import annotations

import torch
from torch import Tensor

from scg.errors import GraphError
from scg.testing.battery.report import Broken, NotApplicable, Undecided
from scg.testing.battery.sampled import UPPER, hold
from scg.testing.battery.scripted import NoScript, derivatives, flat
from scg.testing.battery.subject import Subject
from scg.testing.oracle import Oracle

EXACT = 1e-5  # of the largest entry: torch's own derivatives of Gamma and Dirichlet samples are good to 1e-6


def first_order(subject: Subject) -> str:
    """The mean value and gradient are the true ones."""
    _needs_a_mean(subject)
    return _mean(subject, 1)


def second_order(subject: Subject) -> str:
    """The mean Hessian is the true one where the estimator claims it, and refused where it does not."""
    _needs_a_mean(subject)
    if subject.order >= 2:
        return _mean(subject, 2)
    theta = torch.tensor(subject.thetas[0], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(subject.graph("alone").surrogate(theta=theta), theta, create_graph=True)
    try:
        torch.autograd.grad(gradient.sum(), theta, allow_unused=True)
    except GraphError:
        return "exact: refused, for its order is 1"
    except RuntimeError as error:  # autograd's own word for a gradient that cannot be differentiated
        return f"exact: impossible, for its order is 1 ({error})"
    raise Broken("its order is 1, and a second derivative came out all the same")


def constant(subject: Subject) -> str:
    """Weights whose gradient has mean zero: a cost that is constant moves nothing."""
    _differentiates(subject)

    def one(z: Tensor) -> Tensor:
        return torch.ones_like(subject.f(z).detach())

    truth = Oracle.certain("truth", torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64))
    try:
        for which in range(len(subject.thetas)):
            _same(derivatives(subject, 1, which, one), truth, 1)
        return "exact"
    except NoScript:
        hold(subject, lambda theta: subject.estimates(theta, one), [truth], 1)
        return "sampled"


def stated_bias(subject: Subject) -> str:
    """A biased estimator's mean gradient is that of the scalar that `mean(distribution, f)` returns."""
    if subject.estimator.unbiased:
        raise NotApplicable("it is unbiased")
    if subject.mean is None:
        raise NotApplicable(f"no mean= was given to hold it against; {_measured(subject)}")
    truths = []
    for at in subject.thetas:
        theta = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        stated = subject.mean(subject.make(theta), subject.f)
        truths.append(Oracle.certain("stated", flat(stated, theta, 1)))
    hold(subject, lambda theta: subject.estimates(theta), truths, 1)
    return "sampled"


def _measured(subject: Subject) -> str:
    """How biased it is, in words."""
    try:
        hold(subject, lambda theta: subject.estimates(theta), [subject.truth("alone")], 1)
    except Broken as bias:
        return str(bias)
    except (NotApplicable, Undecided) as reason:
        return str(reason)
    return "no bias was found"


def _needs_a_mean(subject: Subject) -> None:
    _differentiates(subject)
    if not subject.estimator.unbiased:
        raise NotApplicable("it says that it is biased")


def _differentiates(subject: Subject) -> None:
    if not subject.differentiates:
        raise NotApplicable("it gives no gradient")


def _mean(subject: Subject, order: int) -> str:
    try:
        for which in range(len(subject.thetas)):
            _same(derivatives(subject, order, which), subject.truth("alone", order, which), order)
        return "exact"
    except NoScript as reason:
        count = len(subject.thetas) if order == 1 else 1
        truths = [subject.truth("alone", order, which) for which in range(count)]
        hold(subject, lambda theta: subject.estimates(theta), truths, order)
        return f"sampled: {reason}"


def _same(found: Oracle, truth: Oracle, order: int) -> None:
    parts = {"the value": slice(0, 1), "the gradient": slice(1, 4)} if order == 1 else {"the Hessian": slice(0, 6)}
    least = max(0.1 * float(truth.exact.abs().max()), 1e-3)  # where a derivative vanishes; costs are of size 1
    for what, part in parts.items():
        mean, exact = found.exact[part], truth.exact[part]
        scale = max(float(exact.abs().max()), least)
        slack = (3 * (found.error + truth.error) + 6 * truth.se)[part] + EXACT * scale
        if float(slack.max()) > 1e-3 * scale:
            raise NoScript("the truth is not known well enough to compare without draws")
        gap = (mean - exact).abs()
        if not bool((gap <= slack).all()):
            worst = int((gap - slack).nan_to_num(torch.inf).argmax())
            place = "" if what == "the value" else f"[{worst}]" if order == 1 else f"[{UPPER[worst][0]}, {UPPER[worst][1]}]"
            raise Broken(
                f"the mean of {what}{place} is {float(mean[worst]):.5g} over all outcomes, and should be {float(exact[worst]):.5g}"
            )
