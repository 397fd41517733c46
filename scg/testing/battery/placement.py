"""Laws of place: the gradient is right wherever in a graph the node stands.

composition                 below a pathwise node, above a score function node, θ acting on all three and on the cost
composition, second order   the Hessian of that, where order(distribution) ≥ 2
sequence                    at every step; in a recurrence where it draws one branch, else given what a step observes
"""

from __future__ import annotations

import torch
from torch import Tensor

from scg.checks.mixing import known_elementwise
from scg.checks.signature import examination
from scg.testing.battery.report import NotApplicable
from scg.testing.battery.sampled import hold
from scg.testing.battery.subject import STEPS, Place, Subject, inputs_of


def composition(subject: Subject) -> str:
    """To first order."""
    _has_a_mean(subject)
    _held(subject, "composed", 1)
    return "sampled"


def composition_twice(subject: Subject) -> str:
    """To second order, where it claims that."""
    _has_a_mean(subject)
    if subject.order < 2:
        raise NotApplicable("its order is 1")
    _held(subject, "composed", 2)
    return "sampled"


def sequence(subject: Subject) -> str:
    """To first order, over two steps."""
    _has_a_mean(subject)
    place: Place = "chained" if subject.single else "driven"
    _held(subject, place, 1)
    return "sampled: " + ("in a recurrence" if subject.single else "at every step, outside of recurrences, for it branches")


def _held(subject: Subject, place: Place, order: int) -> None:
    truth = subject.truth(place, order)
    graph = subject.graph(place)
    steps = STEPS if place == "chained" else None

    def surrogate(theta: Tensor) -> Tensor:
        return graph.surrogate(steps=steps, **inputs_of(place, theta.squeeze(-2)))

    with known_elementwise():  # of the estimator the law `elements` says so
        graph.surrogate(steps=steps, **inputs_of(place, _small(subject)))
    with examination(again=False):
        hold(subject, surrogate, [truth], order, valued=False)


def _small(subject: Subject) -> Tensor:
    """θ [3, 3, 3]: the first sample, whose examination is valid for every batch of its rank with sizes of 3 or more."""
    return torch.tensor(subject.thetas[0], dtype=torch.float64).repeat(3, 3, 1).requires_grad_()


def _has_a_mean(subject: Subject) -> None:
    if not subject.differentiates:
        raise NotApplicable("it gives no gradient")
    if not subject.estimator.unbiased:
        raise NotApplicable("it says that it is biased")
