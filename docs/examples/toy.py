"""A Bernoulli toy with a node above it: `scg compare docs/examples/toy.py:graph --node b`."""

import torch
from torch.distributions import Bernoulli, Normal

import scg
from scg.estimators import Pathwise

graph = scg.Graph()


@graph.stochastic(Pathwise())
def x(mu):
    return Normal(mu, 0.5)


@graph.stochastic("auto")
def b(x, theta):
    return Bernoulli(logits=x + theta)


@graph.cost
def miss(b):
    return (b - 0.45) ** 2


@graph.cost
def effort(x):
    return 0.1 * x**2


inputs = {"mu": torch.tensor(0.0, requires_grad=True), "theta": torch.tensor(0.3, requires_grad=True)}
