"""Small graphs with known variances, a clock that counts evaluations, and estimators that lie."""

from dataclasses import dataclass

import torch
from torch.distributions import Bernoulli, Normal

import scg
from scg import Branches, Estimator

BATCH = 64


class Counter:
    """A clock that shows how many costs were evaluated: what time is in theory, without the noise of a machine."""

    def __init__(self):
        self.count = 0.0

    def __call__(self):
        return self.count


def bits(estimator, t=0.45, offset=0.0, clock=None):
    """E[(b − t)² + offset], one logit a batch element: every draw is `BATCH` independent ones of the scalar toy."""
    graph = scg.Graph()
    graph.stochastic(estimator, lambda logits: Bernoulli(logits=logits), name="b")

    def cost(b):
        if clock is not None:
            clock.count += b.numel()
        return (b - t) ** 2 + offset

    graph.cost(cost, name="f")
    return graph


def logits(theta, batch=BATCH):
    return torch.full((batch,), theta, requires_grad=True)


def closed_form(theta, t):
    """Gradient of the scalar toy for its logit, and the variance of each estimator."""
    p = float(torch.tensor(theta).sigmoid())
    f0, f1, r = t**2, (1 - t) ** 2, min(p, 1 - p)
    gradient = p * (1 - p) * (f1 - f0)
    second = {
        "ScoreFunction": p * (f1 * (1 - p)) ** 2 + (1 - p) * (f0 * p) ** 2,
        "LeaveOneOut": (f1 - f0) ** 2 * p * (1 - p) / 2,
        "ARM": (f1 - f0) ** 2 * 2 * (0.5**3 - (0.5 - r) ** 3) / 3,
        "DisARM": (f1 - f0) ** 2 * r * (1 - r) ** 2 / 2,
        "Enumeration": gradient**2,
    }
    return gradient, {k: v - gradient**2 for k, v in second.items()}


def gaussian(estimator, cost, clock=None):
    """E[cost(x)], x ~ N(mu, 1)."""
    graph = scg.Graph()
    graph.stochastic(estimator, lambda mu: Normal(mu, 1.0), name="x")

    def counted(x):
        if clock is not None:
            clock.count += x.numel()
        return cost(x)

    graph.cost(counted, name="f")
    return graph


@dataclass(frozen=True)
class Exaggerated(Estimator):
    """Says that it is unbiased, and makes the gradient larger by `by`: the sum over a support of two, with a wrong derivative."""

    by: float = 1.3

    def branch(self, distribution):
        values = distribution.enumerate_support()
        p = distribution.log_prob(values).exp()
        return Branches(values, values.shape[0], weights=p.detach() + self.by * (p - p.detach()))


class Refusing(Estimator):
    """Takes nothing."""

    def refuses(self, distribution):
        return "it takes nothing. Use something else"


@dataclass(frozen=True)
class Fails(scg.ScoreFunction):
    """A score function that breaks at its n-th call."""

    calls: tuple = ()

    def branch(self, distribution):
        self.calls[0].append(1)
        if len(self.calls[0]) > self.calls[1]:
            value = distribution.sample()
            return Branches(value, score=distribution.log_prob(value) * float("nan"))
        return super().branch(distribution)
