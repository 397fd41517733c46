"""One choice under measurement: draws of its gradient, their moments, and what each took.

Moments run along (Welford 1962), so that nothing of the size of a gradient is kept for each draw:

    ḡ_r = ḡ_{r−1} + (g_r − ḡ_{r−1})/r             δ_r = (r−1)/r · ‖g_r − ḡ_{r−1}‖²

Σ δ_r / (n − 1) is the sample variance, exactly; each δ_r has the variance as its mean, and for independent draws they
are uncorrelated with each other up to O(1/r). So intervals for the variance are intervals for a mean of the δ_r.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scg.checks.signature import examination
from scg.comparison.parameters import Parameters
from scg.estimator import Estimator
from scg.graph import Graph
from scg.randomness import randomness

Clock = Callable[[], float]


@dataclass(frozen=True)
class Moments:
    """Mean, sums of squared and of cubed deviations, and the largest squared step of the mean, by entry."""

    count: int
    mean: Tensor
    squares: Tensor
    cubes: Tensor
    peak: Tensor
    largest: float

    @staticmethod
    def none(size: int) -> Moments:
        zero = torch.zeros(size, dtype=torch.float64)
        return Moments(0, zero, zero, zero, zero, 0.0)

    def with_draw(self, x: Tensor) -> tuple[Moments, Tensor]:
        """The moments with one more draw, and what it adds to the sum of squares."""
        n = self.count + 1
        gap = x - self.mean
        step = gap / n
        increment = gap * step * (n - 1)
        cubes = self.cubes + increment * step * (n - 2) - 3 * step * self.squares
        largest = max(self.largest, float(x.abs().max()))
        peak = torch.maximum(self.peak, increment)
        return Moments(n, self.mean + step, self.squares + increment, cubes, peak, largest), increment

    @property
    def se(self) -> Tensor:
        """Standard error of the mean, by entry."""
        return (self.squares / max(self.count - 1, 1) / max(self.count, 1)).sqrt()

    @property
    def skewness(self) -> Tensor:
        spread = (self.squares / self.count).sqrt()
        return torch.where(spread > 0, self.cubes / self.count / spread.clamp_min(1e-300) ** 3, torch.zeros(()).double())


@dataclass
class Measurement:
    """A choice of estimators, its graph, and what was measured so far."""

    label: str
    estimators: Mapping[str, Estimator]
    graph: Graph
    parameters: Parameters
    steps: int | None = None
    evaluations: float = float("nan")
    memory: float = float("nan")
    learned: int = 0
    seconds: list[float] = field(default_factory=list)
    increments: list[Tensor] = field(default_factory=list)  # [parameters] a draw

    def __post_init__(self) -> None:
        self.moments = Moments.none(self.parameters.size)

    @property
    def unbiased(self) -> bool:
        """What its estimators declare."""
        return all(node.estimator.unbiased for node in self.graph.nodes.values() if node.kind == "stochastic")

    def draw(self, seed: int, clock: Clock) -> tuple[Tensor, float]:
        """One gradient on the random numbers of `seed`, and the time that surrogate and backward took.

        The choice was examined when it was prepared: another examination would be counted in the time of a draw.
        """
        device = self.parameters.device
        with randomness(torch.Generator(device).manual_seed(seed)), examination(again=False):
            _finish(device)
            start = clock()
            gradients = self.parameters.gradient(self.graph.surrogate(steps=self.steps, **self.parameters.inputs))
            _finish(device)
            seconds = clock() - start
        return self.parameters.flat(gradients), seconds

    def add(self, gradient: Tensor, seconds: float) -> None:
        moments, increment = self.moments.with_draw(gradient)
        self.seconds[self.count :] = [seconds]
        self.increments[self.count :] = [torch.stack([part.sum() for part in increment.split(self.parameters.sizes)])]
        self.moments = moments  # last, and at once: what an interrupt leaves half done does not count

    @property
    def count(self) -> int:
        return self.moments.count

    @property
    def rounding(self) -> float:
        """How far equal draws may lie apart by rounding alone."""
        return 64 * self.parameters.epsilon * self.moments.largest

    def squared_deviations(self) -> Tensor:
        """δ_2 … δ_n by parameter, `[n − 1, parameters]`; 0 where they are no more than rounding."""
        found = torch.stack(self.increments[: self.count])[1:]
        floor = torch.tensor([float(size) for size in self.parameters.sizes], dtype=torch.float64) * self.rounding**2
        return torch.where(found.amax(0) <= floor, torch.zeros(()).double(), found)


def evaluations(graph: Graph, parameters: Parameters, steps: int | None) -> float:
    """How often the costs are evaluated for one batch element and step: Σ_costs Π_{x above it} n_x."""
    trace = graph.sample(steps=steps, **parameters.inputs)
    total = 0.0
    for cost in graph.structure.costs:
        count = 1
        for influence in graph.structure.influences(cost):
            count *= trace.weight(influence.node).n or 1
        total += count * (graph.structure.plate or 1 if cost in graph.structure.reducing else 1)
    return total


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


__all__ = ["Clock", "Measurement", "evaluations"]
