"""The toy optimised: Adam on θ with one estimate a step, as the papers do, and the exact loss and variance along the way.

A batch of toys descends at once, each with its own noise and its own learned parameters. The surrogate is a mean over
the batch, so it is multiplied by the number of toys: each toy sees the gradient that it would see alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli

from scg import Estimator, Graph
from scg.estimators import DisARM, GumbelSoftmax, LeaveOneOut, MuProp, ScoreFunction
from scg.estimators.baselines import MovingAverage
from scg.papers.report import over_seeds
from scg.papers.toy import exact
from scg.papers.toy.learned import EachREBAR, EachRELAX

RATE = 0.01
Variance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Run:
    """One estimator on a batch of toys: what it is, and its variance at (θ, t) with what it has learned so far."""

    estimator: Estimator
    variance: Variance
    average: MovingAverage | None = None


@dataclass(frozen=True)
class Contender:
    """An estimator by name. `evaluations` of the cost for one estimate; `make(toys, seed)` starts it afresh."""

    name: str
    evaluations: int
    make: Callable[[int, int], Run]


@dataclass(frozen=True)
class Curves:
    """Along the descent: `step [points]`; `theta`, `loss`, `variance`, each `[points, toys]`; the toys' targets `t`."""

    step: Tensor
    theta: Tensor
    loss: Tensor
    variance: Tensor
    t: Tensor
    estimator: Estimator

    def of(self, target: float) -> Curves:
        """Those of one target."""
        own = self.t == target
        return replace(self, theta=self.theta[:, own], loss=self.loss[:, own], variance=self.variance[:, own], t=self.t[own])

    @property
    def excess(self) -> Tensor:
        """What of the initial distance to the optimal loss is left: 1 at the start, 0 at the optimum."""
        best = torch.minimum(self.t, 1 - self.t) ** 2
        return (self.loss - best) / (self.loss[0] - best)

    @property
    def share(self) -> Tensor:
        """The variance as a share of the plain score function's at the same θ."""
        return self.variance / exact.score_function(self.theta, self.t)


@dataclass(frozen=True)
class Settings:
    """What a paper about the toy is run with."""

    steps: int = field(default=5000, metadata={"help": "steps of Adam on θ"})
    seeds: int = field(default=20, metadata={"help": "independent toys for each estimator and target"})
    seed: int = field(default=0, metadata={"help": "seed of all noise"})

    def __post_init__(self) -> None:
        if self.seeds < 2:
            raise ValueError(f"--seeds {self.seeds}: a standard error needs at least 2")
        if self.steps < 100:
            raise ValueError(f"--steps {self.steps}: nothing is learned in fewer than 100")


class OptimisationRuns:
    """The optimisation runs of contenders on `seeds` toys for each target: computed once each, recorded at a hundred steps."""

    def __init__(self, targets: Sequence[float], settings: Settings) -> None:
        self.settings, self.targets = settings, targets
        self.t = torch.tensor(targets, dtype=torch.float64).repeat_interleave(settings.seeds)
        self.found: dict[str, Curves] = {}

    def of(self, contender: Contender) -> Curves:
        if contender.name not in self.found:
            every = max(1, self.settings.steps // 100)
            self.found[contender.name] = descend(contender, self.t, self.settings.steps, every, self.settings.seed)
        return self.found[contender.name]

    def table(self, contenders: Sequence[Contender]) -> str:
        """Markdown: the excess loss that each leaves, for each target."""
        heads = "| | evaluations a step | " + " | ".join(f"t = {t}" for t in self.targets) + " |"
        rows = [heads, "|---" * (len(self.targets) + 2) + "|"]
        for contender in contenders:
            cells = (over_seeds(self.of(contender).of(t).excess[-1].tolist()) for t in self.targets)
            rows.append(f"| {contender.name} | {contender.evaluations} | " + " | ".join(cells) + " |")
        return "\n".join(rows)


def score_function(toys: int, seed: int) -> Run:
    return Run(ScoreFunction(), exact.score_function)


def moving_average(toys: int, seed: int) -> Run:
    average = MovingAverage(shape=(toys,)).double()
    return Run(ScoreFunction(), lambda theta, t: exact.score_function(theta, t, average()), average)


def rebar(mean_field: bool) -> Callable[[int, int], Run]:
    def make(toys: int, seed: int) -> Run:
        estimator = EachREBAR(toys, mean_field=mean_field)
        return Run(estimator, lambda theta, t: exact.controlled(theta, t, estimator.control(theta, t)))

    return make


def relax(toys: int, seed: int) -> Run:
    estimator = EachRELAX(toys, seed=seed)
    return Run(estimator, lambda theta, t: exact.controlled(theta, t, estimator.level))


def concrete(temperature: float) -> Callable[[int, int], Run]:
    def make(toys: int, seed: int) -> Run:
        estimator = GumbelSoftmax(temperature=temperature, allow_bias=True)
        return Run(estimator, lambda theta, t: exact.concrete_variance(theta, t, temperature))

    return make


def fixed(estimator: Estimator, variance: Variance) -> Callable[[int, int], Run]:
    return lambda toys, seed: Run(estimator, variance)


SCORE = Contender("score function", 1, score_function)
AVERAGE = Contender("score function, moving average", 1, moving_average)
MUPROP = Contender("MuProp", 3, fixed(MuProp(), exact.mu_prop))
REBAR_PLAIN = Contender("REBAR, σ(z/τ)", 3, rebar(mean_field=False))
REBAR = Contender("REBAR", 3, rebar(mean_field=True))
RELAX = Contender("RELAX", 1, relax)
LEAVE_ONE_OUT = Contender("leave-one-out, 2", 2, fixed(LeaveOneOut(2), exact.leave_one_out))
DISARM = Contender("DisARM", 2, fixed(DisARM(), exact.disarm))


def toy(estimator: Estimator, average: MovingAverage | None = None) -> Graph:
    graph = Graph()
    graph.stochastic(estimator, lambda theta: Bernoulli(logits=theta), name="b", baseline=average)
    graph.cost(exact.cost, name="f")
    return graph


def descend(contender: Contender, t: Tensor, steps: int, every: int, seed: int, rate: float = RATE) -> Curves:
    """`steps` of Adam from θ = 0 on one toy for each element of t, recorded every `every` steps and at the end.

    `rate` is θ's: at 0 only the estimator learns.
    """
    t = t.double()
    toys = t.numel()
    run = contender.make(toys, seed)
    graph = toy(run.estimator, run.average)
    generator = torch.Generator().manual_seed(seed)
    theta = torch.zeros_like(t, requires_grad=True)
    optimiser = torch.optim.Adam([theta], rate)
    learned = list(run.estimator.parameters()) if isinstance(run.estimator, nn.Module) else []
    tuner = torch.optim.Adam(learned, RATE) if learned else None
    points: list[tuple[Tensor, ...]] = []
    for step in range(steps + 1):
        if step % every == 0 or step == steps:
            here = theta.detach().clone()
            points.append((torch.tensor(step), here, exact.loss(here, t), run.variance(here, t).detach()))
        if step == steps:
            break
        trace = graph.sample(generator=generator, theta=theta, t=t)
        (gradient,) = torch.autograd.grad(trace.surrogate() * toys, theta)
        if tuner is not None:
            tuner.zero_grad()
            (trace.variance(wrt=theta) * toys**2).backward()
            tuner.step()
        theta.grad = gradient
        optimiser.step()
        if run.average is not None:  # after the step: a level must not have seen the sample that it is subtracted from
            run.average.update(trace["f"].detach())
    at, thetas, losses, variances = (torch.stack(column) for column in zip(*points, strict=True))
    return Curves(at, thetas, losses, variances, t, run.estimator)
