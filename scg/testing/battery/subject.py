"""An estimator on one kind of distribution: what it estimates, in which graphs, and the true derivatives there.

    alone       z ~ p(θ)                                                f(z)
    composed    x ~ N(θ₀, 0.7) pathwise,  z ~ p(θ + 0.4 x),  y ~ Bernoulli(z, x, θ₁) score function     c(x, z, y, θ₂)
    chained     z_t ~ p(θ + 0.4 u(z_{t−1}))                             f(z_t) at each of two steps
    driven      z_t ~ p(θ + 0.4 obs_t),  y_t ~ Bernoulli(z_t)           c(z_t, y_t, obs_t) at each of two steps

f is a polynomial of the sample's statistic. The truth is a sum over all outcomes, or an integral.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Normal

from scg.estimator import Branches, Estimator, Pathwise, ScoreFunction
from scg.graph import Graph
from scg.node import prev
from scg.testing.battery.report import NotApplicable
from scg.testing.battery.truths import kept
from scg.testing.differences import difference
from scg.testing.oracle import NoOracle, Objective, Oracle, exact
from scg.testing.parameters import Parameters
from scg.testing.trial_distributions import Make, statistic
from scg.testing.unroll import Program

Place = Literal["alone", "composed", "chained", "driven"]
THETAS = ((0.3, -0.4, 0.5), (-0.5, 0.6, 0.2))  # two, so that the elements of a batch differ
OBSERVED = (0.6, -0.9)
STEPS = len(OBSERVED)
START = 0.2


class _Anything(ScoreFunction):
    """Stands where only the truth is asked for, which knows no estimators."""

    def refuses(self, distribution: Distribution) -> str | None:
        return None


@dataclass(frozen=True)
class Subject:
    """`estimator` on the distributions that `make` gives, and how certain verdicts on it have to be."""

    given: Any
    kind: str
    make: Make
    false_alarm: float
    detectable: float
    max_draws: int
    seed: int = 0
    thetas: tuple[tuple[float, ...], ...] = THETAS
    mean: Callable[[Distribution, Callable[[Tensor], Tensor]], Tensor] | None = None

    @cached_property
    def estimator(self) -> Estimator:
        return self.at(torch.float64)

    def at(self, dtype: torch.dtype, device: str = "cpu") -> Estimator:
        """The estimator, its own parameters (if it has any) moved there on a copy."""
        moved = copy.deepcopy(self.given).to(device, dtype) if isinstance(self.given, nn.Module) else self.given
        return Estimator.of(moved)

    @property
    def differentiates(self) -> bool:
        return getattr(self.estimator, "differentiates", True)

    @cached_property
    def distribution(self) -> Distribution:
        return self.make(torch.tensor(self.thetas[0], dtype=torch.float64, requires_grad=True))

    @cached_property
    def order(self) -> float:
        return self.estimator.order(self.distribution)

    @cached_property
    def single(self) -> bool:
        """Whether it draws one branch, without an axis."""
        with torch.random.fork_rng(devices=[]):
            return self.estimator.branch(self.distribution).n is None

    def f(self, z: Tensor) -> Tensor:
        return cost(statistic(z, self.distribution))

    def estimates(self, theta: Tensor, f: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """One estimate of E[f] for each row of θ `[*batch, 3]`: `[*batch]`."""
        return estimate(self.estimator.branch(self.make(theta)), f or self.f)

    def graph(self, place: Place, estimator: Estimator | None = None) -> Graph:
        return graph_of(place, self.make, estimator or self.estimator)

    def truth(self, place: Place = "alone", order: int = 1, which: int = 0) -> Oracle:
        """At one of the θs. Of `alone` at order 1 with the value before the gradient, and by finite differences where it is no
        small sum; elsewhere NotApplicable then."""
        try:
            try:
                return _truth(place, self.make, self.thetas[which], order)
            except NoOracle:
                if place != "alone" or order > 1:
                    raise
                return _differences(self.make, self.thetas[which], self.detectable)
        except NoOracle as reason:
            raise NotApplicable(f"no exact truth: {str(reason).splitlines()[0]}") from reason


def cost(u: Tensor) -> Tensor:
    return u + 0.8 * u**2


def estimate(branches: Branches, f: Callable[[Tensor], Tensor]) -> Tensor:
    """Σᵢ wᵢ f(xᵢ) + k − sg k, for each batch element."""
    costs = f(branches.values)
    weights = branches.weights
    if weights is None:
        weights = None if branches.score is None else branches.score.exp() / (branches.n or 1)
    if branches.n is None:
        total = costs if weights is None else weights * costs
    else:
        total = costs.mean(0) if weights is None else (weights * costs).sum(0)
    return total if branches.control is None else total + branches.control - branches.control.detach()


def graph_of(place: Place, make: Make, estimator: Any) -> Graph:
    graph = Graph()

    def node(theta: Tensor, shift: Tensor) -> Distribution:
        return make(theta + 0.4 * shift.unsqueeze(-1))

    def u(z: Tensor) -> Tensor:
        return statistic(z, make(torch.zeros(3, dtype=torch.float64)))

    if place == "alone":
        graph.stochastic(estimator, lambda theta: make(theta), name="z")
        graph.cost(lambda z: cost(u(z)), name="c")
    elif place == "composed":
        graph.stochastic(Pathwise(), lambda theta: Normal(theta[..., 0], 0.7), name="x")
        graph.stochastic(estimator, lambda x, theta: node(theta, x), name="z")
        graph.stochastic(ScoreFunction(), lambda x, z, theta: Bernoulli(logits=u(z) - 0.3 + 0.3 * x + theta[..., 1]), name="y")
        graph.cost(lambda x, z, y, theta: cost(u(z)) * (0.4 + y) + 0.5 * x * u(z) + theta[..., 2] * y, name="c")
    elif place == "chained":
        with graph.sequence():
            graph.stochastic(
                estimator, lambda theta, last: node(theta, last), name="z", parents=["theta", prev("u", init="start")]
            )
            graph.deterministic(lambda z: u(z), name="u")
            graph.cost(lambda u: cost(u), name="c")
    else:
        with graph.sequence():
            graph.observed("obs")
            graph.stochastic(estimator, lambda theta, obs: node(theta, obs), name="z")
            graph.stochastic(ScoreFunction(), lambda z, theta: Bernoulli(logits=u(z) - theta[..., 1]), name="y")
            graph.cost(lambda obs, z, y: cost(u(z) - 0.3 * obs) * (y + 0.5), name="c")
    return graph


def inputs_of(place: Place, theta: Tensor) -> dict[str, Any]:
    """The inputs of that graph for θ `[*batch, 3]`."""
    batch = theta.shape[:-1]
    if place == "chained":
        return {"theta": theta, "start": theta.new_full(batch, START)}
    if place == "driven":
        return {
            "theta": theta,
            "obs": theta.new_tensor(OBSERVED).reshape(-1, *[1] * len(batch)).expand(-1, *batch).contiguous(),
        }
    return {"theta": theta}


@lru_cache(maxsize=1024)
def _truth(place: Place, make: Make, at: tuple[float, ...], order: int) -> Oracle:
    def unseen(p: float) -> Tensor:
        found = compute_truth(place, make, at, order).unseen
        assert found is not None
        return found(p)

    return kept(place, make, at, order, unseen) or compute_truth(place, make, at, order)


def compute_truth(place: Place, make: Make, at: tuple[float, ...], order: int) -> Oracle:
    theta = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    graph = graph_of(place, make, _Anything())
    parameters = Parameters(inputs_of(place, theta), "theta")
    steps = STEPS if place == "chained" else None
    found = exact(graph, parameters, order, steps)
    if float(found.error.max()) > 1e-2 * float(found.exact.abs().max().clamp_min(1e-12)):
        raise NoOracle("its integral converges too slowly")
    if place != "alone" or order == 2:
        return found
    value = torch.tensor(Objective(Program(graph, parameters.inputs, steps), parameters, 1).value(0)[0], dtype=torch.float64)
    return Oracle.certain(
        "truth", *(torch.cat([first.reshape(1), rest]) for first, rest in ((value, found.exact), (0 * value, found.error)))
    )


SAMPLES = 2**16


@lru_cache(maxsize=256)
def _differences(make: Make, at: tuple[float, ...], detectable: float) -> Oracle:
    """Value and gradient of `alone` from samples alone, with their standard errors."""
    theta = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        distribution = make(theta)
        costs = cost(statistic(distribution.sample(torch.Size((SAMPLES,))), distribution))
    parameters = Parameters({"theta": theta}, "theta")
    found = difference(graph_of("alone", make, _Anything()), parameters, 1, None, seed=0, target=detectable / 8)
    parts = (costs.mean(), found.exact), (0 * costs[0], found.error), (costs.std() / SAMPLES**0.5, found.se)
    value, error, se = (torch.cat([first.reshape(1), rest]) for first, rest in parts)
    return Oracle("finite differences", value, error, se)
