"""What proves an estimator: its mean over its own randomness, and its place in a graph.

Exact: an estimator's noise is replaced by prescribed values along the batch, whose probabilities are known, so that
one call gives Σ_noise probability · Σᵢ wᵢ f(xᵢ): its mean, with all derivatives, with no sampling noise.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Normal

import scg
from scg.estimators import Pathwise, ScoreFunction
from scg.testing import Report, check_unbiased
from tests.exact import derivatives

DETECTABLE, FALSE_ALARM = 0.1, 1e-3


def weights(branches: scg.Branches) -> Tensor:
    """The wᵢ, whichever form they came in: `[n, *batch]`, with n = 1 where there is no axis."""
    n = branches.n or 1
    weight = branches.weights
    if weight is None:
        weight = torch.full((n, 1), 1 / n) if branches.score is None else branches.score.exp() / n
    return weight if branches.n is not None else weight.reshape(1, -1)


def mean(branches: scg.Branches, f: Callable[[Tensor], Tensor], probability: Tensor) -> Tensor:
    """Σ_noise probability · Σᵢ wᵢ f(xᵢ), the noise along the batch `[Q]`."""
    return (probability * (weights(branches) * f(branches.values)).sum(0)).sum()


def far(ours: Tensor, truth: Tensor, wrt: list[Tensor], order: int = 1) -> float:
    """The largest error among value, gradient (and Hessian), relative to the largest entry of each."""
    pairs = zip(derivatives(ours, wrt, order), derivatives(truth, wrt, order), strict=True)
    return max(float((mine - exact).abs().max() / exact.abs().max().clamp_min(1e-3)) for mine, exact in pairs)


def grid(*axes: Iterable[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], Tensor]:
    """Products of `(points, probabilities)`: each axis's points along the whole product `[Q]`, and its probabilities."""
    points = torch.meshgrid(*[p for p, _ in axes], indexing="ij")
    probability = torch.meshgrid(*[w for _, w in axes], indexing="ij")
    return [p.flatten() for p in points], torch.stack([w.flatten() for w in probability]).prod(0)


def composed(estimator: scg.Estimator, node: Callable[[Tensor, Tensor], Distribution]) -> scg.Graph:
    """x pathwise above, z under the estimator, y under the score function below; θ also acts on the cost and on y."""
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda mu: Normal(mu, 0.7), name="x")
    graph.stochastic(estimator, lambda x, theta: node(x, theta), name="z")

    def total(z: Tensor) -> Tensor:
        event = len(node(torch.zeros(()), torch.zeros(3) + 0.5).event_shape)
        return (z.to(torch.float64) * torch.linspace(1, 1.5, z.shape[-1])).sum(-1) if event else z.to(torch.float64)

    graph.stochastic(ScoreFunction(), lambda z, x, theta: Bernoulli(logits=0.8 * total(z) - 1 + 0.3 * x + theta[0]), name="y")
    graph.cost(lambda x, z, y, theta: (total(z) - 0.7) ** 2 * (0.4 + y) + 0.5 * x * total(z) + theta[1] * y, name="c")
    return graph


def composition(estimator: scg.Estimator, node: Callable[[Tensor, Tensor], Distribution]) -> Report:
    """The gradient of that graph, tested: a bias of 10 % of it would be missed, or no bias called one, once in a thousand."""
    inputs = {"mu": torch.tensor(0.4, requires_grad=True), "theta": torch.tensor([0.3, -0.5, 0.6], requires_grad=True)}
    return check_unbiased(composed(estimator, node), inputs, detectable=DETECTABLE, false_alarm=FALSE_ALARM, localise=False)
