"""Common random numbers: a node below branches uses the same noise on all of them.

    Σᵢ wᵢ f(xᵢ, y(ε; xᵢ)),      y(ε; x) = F⁻¹(ε; x) ~ p(·|x),      one ε ~ U(0, 1)^D for all branches i of its ancestors

Given ε, f(x, y(ε; x)) is a function of x, and the ancestors' weights are unbiased for any function of x. So sharing ε leaves
the estimate unbiased, to the lower of the two orders. Branches that are subtracted from each other (signed measures,
antithetic pairs, leave-one-out) then differ by x alone. The variance is lower where f(x, y(ε; x)) is positively correlated
across x, for instance where both are monotone. It is higher for independent branches that are averaged, since their errors
become correlated.

    graph.stochastic(MeasureValued(), …, name="x")
    graph.stochastic(CommonRandomNumbers(ScoreFunction()), lambda x: …, name="y")

The node's own samples and the elements of the batch have independent noise. Needs an inverse cdf.
Kahn & Marshall (1953); Glasserman & Yao (1992); for measure-valued derivatives Heidergott & Vázquez-Abad (2000).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from scg.distributions import kind
from scg.errors import GraphError
from scg.estimator import Branches, Estimator, Pathwise, ScoreFunction
from scg.estimators.inverse_cdf import from_uniform, has_inverse, noise_shape, open_uniform, tensor_of
from scg.estimators.wrapping import Wrapping


class CommonRandomNumbers(Wrapping):
    """An estimator that samples (ScoreFunction, LeaveOneOut, your own), its noise shared across the ancestors' branches."""

    def __init__(self, estimator: Estimator | None = None) -> None:
        super().__init__(ScoreFunction() if estimator is None else estimator)
        if isinstance(self.estimator, Pathwise):
            raise ValueError(
                f"CommonRandomNumbers({self.estimator!r}): for pathwise gradients use CommonRandomNumbersPathwise(samples=…)"
            )

    def branch_below(self, distribution: Distribution, axes: int) -> Branches:
        shared = Shared(distribution, axes)
        branches = self.estimator.branch(shared.distribution)
        if not shared.drawn:
            raise GraphError(
                f"{self!r}: {self.estimator!r} does not draw through distribution.sample, so its noise cannot be shared.\n"
                "Use ScoreFunction() or LeaveOneOut() inside, or leave CommonRandomNumbers out."
            )
        return branches

    def refuses(self, distribution: Distribution) -> str | None:
        return self.estimator.refuses(distribution) or _no_inverse("CommonRandomNumbers", distribution, repr(self.estimator))


@dataclass(frozen=True)
class CommonRandomNumbersPathwise(Pathwise):
    """Pathwise gradients, the noise shared across the ancestors' branches."""

    def branch_below(self, distribution: Distribution, axes: int) -> Branches:
        return super().branch(Shared(distribution, axes).distribution)

    def refuses(self, distribution: Distribution) -> str | None:
        instead = f"Pathwise(samples={self.samples})"
        return super().refuses(distribution) or _no_inverse("CommonRandomNumbersPathwise", distribution, instead)


class Shared:
    """A copy of a distribution that samples with the same noise along the first `axes` axes of its batch."""

    def __init__(self, distribution: Distribution, axes: int) -> None:
        self.original, self.axes, self.drawn = distribution, axes, False
        twin: Any = copy.copy(distribution)
        twin.sample, twin.rsample = self.sample, self.rsample
        self.distribution: Distribution = twin

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape).detach()  # no_grad leaves forward-mode tangents

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        self.drawn = True
        batch, noise = self.original.batch_shape, noise_shape(self.original)
        once = (*sample_shape, *[1] * self.axes, *batch[self.axes :], *noise)
        u = open_uniform(once, tensor_of(self.original)).expand((*sample_shape, *batch, *noise))
        return from_uniform(self.original, u)


def _no_inverse(estimator: str, distribution: Distribution, instead: str) -> str | None:
    if has_inverse(distribution):
        return None
    return f"{estimator} needs a distribution with an inverse cdf, and {kind(distribution)} has none here.\nUse {instead}."
