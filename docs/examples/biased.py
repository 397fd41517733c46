"""A wrong estimator, for the check to find: scg check docs/examples/biased.py:graph

The baseline of each sample is the mean over *all* samples, its own included: the gradient shrinks by (n − 1)/n.
"""

from dataclasses import dataclass

import torch
from torch.distributions import Bernoulli, Normal

import scg
from scg.estimators import Pathwise


@dataclass(frozen=True)
class OwnSampleInItsBaseline(scg.Estimator):
    samples: int = 4

    def branch(self, distribution):
        values = distribution.sample((self.samples,))
        log_prob = distribution.log_prob(values)
        z = torch.expm1(log_prob - log_prob.detach())
        return scg.Branches(values, self.samples, weights=(1 + z - z.mean(0)) / self.samples)


graph = scg.Graph()


@graph.stochastic(Pathwise())
def x(mu):
    return Normal(mu, 1.0)


@graph.stochastic(OwnSampleInItsBaseline())
def b(x):
    return Bernoulli(logits=x)


@graph.cost
def loss(x, b):
    return (x - 1.0) ** 2 * b


inputs = {"mu": torch.tensor(0.3, requires_grad=True)}
