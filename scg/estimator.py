"""An estimator replaces a stochastic node by a weighted, differentiable set of branches.

    Σᵢ wᵢ · f(xᵢ)   is an unbiased estimate of   E_{x ~ p}[f(x)],   and stays one when it is differentiated.

What goes through the values xᵢ is the pathwise part of the gradient, what goes through the weights wᵢ the
likelihood-ratio part. The two primitives:

    ScoreFunction   xᵢ ~ p,  wᵢ = exp(log p(xᵢ) - sg log p(xᵢ)) / n      value 1/n, gradient ∇log p / n
    Pathwise        xᵢ = g(εᵢ; θ),  wᵢ = 1/n                            the gradient of the sampler

Williams (1992); Kingma & Welling (2014), Rezende et al. (2014); the exp(z - sg z) operator: Foerster et al. (2018), DiCE.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from scg.distributions.densities import forget, log_density, unclamped_log_prob
from scg.distributions.derivative_order import sampler_order
from scg.distributions.laws import kind
from scg.distributions.missed_terms import density_order, moving_support
from scg.distributions.samples import has_rsample, reparameterise, rsample, sample
from scg.errors import GraphError
from scg.identity import Words


@dataclass(frozen=True)
class Branches:
    """What an estimator returns for one node.

    values   `[n, *batch, *event]`, or `[*batch, *event]` when `n` is None: one branch allocates no axis
    weights  `[n, *batch]` (or `[*batch]`): the wᵢ, summed over branches; None where each is 1/n
    score    a zero-valued tensor z of the same shape: the weights are exp(z)/n. The form of every likelihood ratio;
             products of such weights are sums of scores, which neither overflow nor lose precision along time
    control  `[*batch]`: a term of the surrogate beside Σ wᵢ f(xᵢ), of which only the gradient counts. Its expected
             gradient must be zero, or make up what the weights leave out: a learned control variate (RELAX, LAX)
    """

    values: Tensor
    n: int | None = None
    weights: Tensor | None = None
    score: Tensor | None = None
    control: Tensor | None = None


class Estimator:
    """The protocol. A new estimator defines `branch`; everything else has a default that is right for most.

    An estimator with something to learn is an `nn.Module` too. No surrogate ever trains its parameters: `branch` runs on
    their detached selves. They minimise `trace.variance(wrt=…)`, for which it runs again, on the same random numbers.
    """

    unbiased: bool = True
    allow_bias: bool = False
    moves: bool = False  # a part of the gradient goes through the values, and is right only where the costs have a slope
    weighs: bool = True  # a part of it goes through the weights

    @property
    def differentiates(self) -> bool:
        return self.moves or self.weighs

    def branch(self, distribution: Distribution) -> Branches:
        """Draw the branches of a node. Randomness comes from torch's default generator (see `generator=`)."""
        raise NotImplementedError(f"{type(self).__name__} must define branch(distribution)")

    def branch_below(self, distribution: Distribution, axes: int) -> Branches:
        """`branch`, where the first `axes` axes of the batch are the branches of ancestors: by default each draws for itself."""
        return self.branch(distribution)

    def given(self, distribution: Distribution, value: Tensor, log_prob: Tensor | None = None) -> Branches:
        """The one branch at a recorded value: weight π(x)/μ(x) with μ's recorded `log_prob`, else the score weight."""
        forget(distribution)
        live = unclamped_log_prob(distribution, value)
        if log_prob is None:
            return Branches(value, score=live - live.detach())
        return Branches(value, weights=(live - log_prob.detach()).exp())

    def pooled(self, weight: Tensor, time: int | None, value: Callable[[str], Tensor]) -> Tensor:
        """What of the weights along time, axis `time` of a block, meets the credits: by default each step's own.

        `value(name)`: another node's value as a block, detached.
        """
        return weight

    def combine(self, weight: Tensor, credit: Tensor) -> Tensor:
        """How a weight meets the credit that replaces everything downstream (both in cost units)."""
        return weight * credit

    def identity(self, words: Words) -> Iterable[str]:
        """Equations that write ∂w F out (or ∂K, for a `combine` of its own): `graph.derivation()` lists them. None by default."""
        return ()

    def order(self, distribution: Distribution) -> float:
        """The highest derivative that stays unbiased with this distribution; by default, that of its density."""
        return density_order(distribution)

    def refuses(self, distribution: Distribution) -> str | None:
        """Why this distribution cannot be used, and what can; None when it can."""
        return None

    @staticmethod
    def of(candidate: Any) -> Estimator:
        """`candidate` if it is an estimator; an object with a `branch` method gets this class as a base."""
        return candidate if isinstance(candidate, Estimator) else _adopted(candidate)


def _adopted(candidate: Any) -> Estimator:
    """The object under a class that inherits from its own and then from `Estimator`, with the same attributes, not copies.

    So it answers every question of the protocol by what it says now, and a module is still seen as one.
    """
    kind = type(candidate)
    if not callable(getattr(candidate, "branch", None)):
        raise GraphError(f"{candidate!r} is no estimator: inherit from scg.Estimator and define branch(distribution)")
    try:
        made: Any = type(kind)
        adopted = object.__new__(made(kind.__name__, (kind, Estimator), {"__module__": kind.__module__}))
        object.__setattr__(adopted, "__dict__", candidate.__dict__)
    except (TypeError, AttributeError) as error:  # slots, an extension type, a metaclass of its own
        raise GraphError(
            f"{candidate!r} cannot be used as an estimator as it is: inherit from scg.Estimator ({error})"
        ) from error
    return adopted


@dataclass(frozen=True)
class ScoreFunction(Estimator):
    """Likelihood ratio (REINFORCE): ∇E[f(x)] = E[f(x) ∇log p(x)]. Any distribution whose support is fixed, any f."""

    samples: int = 1

    def __post_init__(self) -> None:
        at_least("ScoreFunction", self.samples, 1)

    def branch(self, distribution: Distribution) -> Branches:
        values, n = draw(partial(sample, distribution), self.samples)
        log_prob = log_density(distribution, values)
        return Branches(values, n, score=log_prob - log_prob.detach())

    def refuses(self, distribution: Distribution) -> str | None:
        return moving_support(distribution)


@dataclass(frozen=True)
class Pathwise(Estimator):
    """Reparameterisation: ∇E[f(x)] = E[∇_x f(x) · ∇_θ g(ε; θ)], x = g(ε; θ). Needs `rsample` and a differentiable f.

    `smooth=True` states that the sampler of your own distribution may be differentiated any number of times.
    """

    samples: int = 1
    smooth: bool = False

    moves = True
    weighs = False

    def __post_init__(self) -> None:
        at_least("Pathwise", self.samples, 1)

    def branch(self, distribution: Distribution) -> Branches:
        values, n = draw(partial(rsample, distribution), self.samples)
        return Branches(values, n)

    def given(self, distribution: Distribution, value: Tensor, log_prob: Tensor | None = None) -> Branches:
        """Infer the noise that made `value` and push it through the sampler again (SVG(1), Heess et al. 2015).

        With μ's recorded `log_prob` the noise is weighed with sg π/μ: recorded under μ, it is not π's own.
        """
        again = reparameterise(distribution, value)
        if log_prob is None:
            return Branches(again)
        return Branches(again, weights=(distribution.log_prob(value) - log_prob).detach().exp())

    def order(self, distribution: Distribution) -> float:
        return math.inf if self.smooth else sampler_order(distribution)

    def refuses(self, distribution: Distribution) -> str | None:
        if has_rsample(distribution):
            return None
        found = "only copies the gradient of its probabilities" if distribution.has_rsample else "has has_rsample=False"
        return (
            f"Pathwise needs a reparameterised distribution, but {kind(distribution)} {found}.\n"
            "Use ScoreFunction() or LeaveOneOut(samples=4), or opt into a relaxation such as GumbelSoftmax(allow_bias=True)."
        )


def draw(sampler: Callable[..., Tensor], samples: int) -> tuple[Tensor, int | None]:
    """One sample without an axis, or `samples` of them along a new first one."""
    return (sampler(), None) if samples == 1 else (sampler(torch.Size((samples,))), samples)


def at_least(estimator: str, samples: int, least: int) -> None:
    if not isinstance(samples, int) or isinstance(samples, bool) or samples < least:
        raise ValueError(f"{estimator}(samples={samples!r}): samples is an integer, at least {least}")
