"""A pathwise node above a score-function node, in one graph: scg check docs/examples/mixed.py:graph"""

import torch
from torch.distributions import Bernoulli, Normal

import scg
from scg.estimators import LeaveOneOut, Pathwise

graph = scg.Graph()


@graph.stochastic(Pathwise())
def x(mu):
    return Normal(mu, 1.0)


@graph.stochastic(LeaveOneOut(samples=4))
def b(x):
    return Bernoulli(logits=x)


@graph.cost
def loss(x, b):
    return (x - 1.0) ** 2 * b


inputs = {"mu": torch.tensor(0.3, requires_grad=True)}
