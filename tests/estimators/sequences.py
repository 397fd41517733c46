"""An estimator at every step of a sequence, a score function below it."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution

import scg
from scg.estimators import ScoreFunction
from scg.testing import Report, check_unbiased


def check(estimator: scg.Estimator, node: Callable[[Tensor], Distribution]) -> Report:
    """Three given observations, a batch of two, θ in both nodes: error rates 1e-3, a bias of 10 % found."""
    graph = scg.Graph()

    def value(a: Tensor) -> Tensor:
        return a.to(torch.float64)

    with graph.sequence():
        graph.observed("obs")
        graph.stochastic(estimator, lambda obs, theta: node(theta[0] * obs + theta[1]), name="a")
        graph.stochastic(ScoreFunction(), lambda a, theta: Bernoulli(logits=0.5 * value(a) - theta[1]), name="y")
        graph.cost(lambda obs, a, y: (value(a) - obs) ** 2 * (y + 0.5), name="c")
    obs = torch.tensor([[0.3, -1.1], [0.8, 0.1], [-0.6, 1.4]])
    inputs = {"obs": obs, "theta": torch.tensor([0.4, -0.2], requires_grad=True)}
    return check_unbiased(graph, inputs, steps=3, detectable=0.1, false_alarm=1e-3, localise=False)
