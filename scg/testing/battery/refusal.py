"""Laws of honesty: an estimator says what it cannot do, and what it is.

refusal   a distribution that it does not support is refused at the first sample, with its message
opt-in    a biased estimator is refused where a graph is built, unless allow_bias=True; one without a gradient, where a
          cost depends on its sample
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch

from scg.errors import GraphError
from scg.graph import Graph
from scg.testing.battery.report import Broken, NotApplicable
from scg.testing.battery.subject import Subject


def refusal(subject: Subject) -> str:
    """Only where it refuses: the message is a sentence, and the graph's error has it."""
    message = subject.estimator.refuses(subject.distribution)
    if message is None:
        raise NotApplicable("it supports it")
    if not isinstance(message, str) or not message.strip():
        raise Broken(f"refuses() returned {message!r}; it says why, and what to use instead")
    try:
        subject.graph("alone").surrogate(theta=torch.tensor(subject.thetas[0], dtype=torch.float64, requires_grad=True))
    except GraphError as error:
        if message in str(error):
            return "exact"
        raise Broken(f"it was refused with other words: {error}") from error
    raise Broken("it refuses this distribution, and a graph drew from it all the same")


def opt_in(subject: Subject) -> str:
    """What a graph makes of it without allow_bias."""
    if not subject.differentiates:
        theta = torch.tensor(subject.thetas[0], dtype=torch.float64, requires_grad=True)
        try:
            subject.graph("alone").surrogate(theta=theta)
        except GraphError:
            return "exact: a cost with a gradient through its sample is refused"
        raise Broken("it gives no gradient, and a cost depends on its sample all the same")
    if subject.estimator.unbiased:
        raise NotApplicable("it is unbiased")
    try:
        Graph().stochastic(_without(subject.given), subject.make, name="z", parents=["theta"])
    except GraphError:
        return "exact: refused without allow_bias=True"
    raise Broken("it says that it is biased, and is accepted without allow_bias=True")


def _without(estimator: Any) -> Any:
    """The same with allow_bias=False."""
    if dataclasses.is_dataclass(estimator) and any(f.name == "allow_bias" for f in dataclasses.fields(estimator)):
        return dataclasses.replace(estimator, allow_bias=False)  # type: ignore[type-var]
    twin = copy.copy(estimator)
    twin.allow_bias = False
    return twin
