"""A file as a user writes it: `make check` holds it against mypy --strict, so decorators and results must be typed."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Normal

import scg
from scg import Branches, Estimator, ScoreFunction, detach, dist
from scg.estimators import LeaveOneOut
from scg.testing import check_unbiased

graph = scg.Graph()


@graph.stochastic(ScoreFunction())
def b(theta: Tensor) -> Bernoulli:
    return Bernoulli(logits=theta)


@graph.stochastic(LeaveOneOut(samples=2), name="y")
def y(theta: Tensor, b: Tensor) -> Distribution:
    return Normal(theta + b, 1.0)


@graph.deterministic
def h(y: Tensor) -> Tensor:
    return y.square()


@graph.cost
def loss(h: Tensor, b: Tensor, q: Distribution = dist("b")) -> Tensor:
    return h + q.log_prob(b)


@graph.reward(trains=["theta"])
def gain(b: Tensor = detach("b")) -> Tensor:
    return b


@dataclass(frozen=True)
class Mine(Estimator):
    samples: int = 2

    def branch(self, distribution: Distribution) -> Branches:
        x = distribution.sample(torch.Size((self.samples,)))
        log_prob = distribution.log_prob(x)
        return Branches(x, self.samples, score=log_prob - log_prob.detach())


theta = torch.zeros(3, requires_grad=True)
trace: scg.Trace = graph.sample(theta=theta)
surrogate: Tensor = trace.surrogate("loss")
grads = torch.autograd.grad(surrogate, theta)
report = check_unbiased(graph, {"theta": theta})
print(report.verdict, graph.check(theta=theta))
x: Tensor = h(theta)
