"""Parmas et al. (2018): chaos makes pathwise gradients explode, the likelihood ratio does not notice, and total propagation chooses.

A rotor that is kicked: s' = s + κ sin s + a, a ~ N(θ, σ²), cost 1 − cos s_T. Only the angle matters, so moments of both gradients are
linear recursions on the circle, exact on a grid; the growth of the pathwise one is an eigenvalue.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor
from torch.distributions import Normal

import scg
from scg import prev
from scg.estimators import Pathwise, ScoreFunction, TotalPropagation
from scg.papers.figures import panels, save
from scg.papers.report import REFUTED, Claim, Job, Results, Say, collect

KICK, ORDERLY, SIGMA, THETA, START = 4.0, 2.0, 0.3, 0.2, 0.5
LONGEST, GRID = 32, 256
SAMPLED, TRIED = (1, 2, 4, 8), (1, 2, 4, 8, 16)
COLOURS = {"likelihood ratio": "C0", "pathwise": "C1", "total propagation": "C2"}
CHOICES = {
    "likelihood ratio": ScoreFunction(),
    "pathwise": Pathwise(),
    "total propagation": TotalPropagation(allow_bias=True),
}


@dataclass(frozen=True)
class Settings:
    paths: int = field(default=40_000, metadata={"help": "roll-outs behind each sampled variance"})
    repeats: int = field(default=60, metadata={"help": "batches behind each error"})
    batch: int = field(default=100, metadata={"help": "roll-outs of a batch"})
    seed: int = field(default=0, metadata={"help": "of everything that is drawn"})

    def __post_init__(self) -> None:
        if min(self.paths, self.repeats, self.batch) < 3:
            raise ValueError(f"--paths {self.paths} --repeats {self.repeats} --batch {self.batch}: give at least 3 of each")


@dataclass(frozen=True)
class Exact:
    """Moments by horizon 1 … LONGEST, on a grid of the circle."""

    kick: float = KICK

    def kernels(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The angles, the slope of a step there, and E[(ε/σ)^k; s' | s] for k = 0, 1, 2, `[s', s]`, by angle of s'."""
        s = torch.arange(GRID) * (2 * math.pi / GRID)
        return s, 1 + self.kick * s.cos(), self.step(s, s)

    def step(self, after: Tensor, before: Tensor) -> list[Tensor]:
        gap = after[:, None] - (before + self.kick * before.sin() + THETA)
        wound = gap[..., None] + 2 * math.pi * torch.arange(-8.0, 9.0)  # every number of turns that could lie between
        density = torch.exp(-((wound / SIGMA) ** 2) / 2) / (SIGMA * math.sqrt(2 * math.pi)) * (2 * math.pi / len(after))
        return [(density * (wound / SIGMA**2) ** k).sum(-1) for k in range(3)]

    @cached_property
    def moments(self) -> dict[str, Tensor]:
        """Mean and variance of one roll-out's gradient: `path`, `path variance`, `ratio`, `ratio variance`, `[LONGEST]`.

        D = ∂s/∂θ and S = Σ ε/σ go along with the state: their first two moments, by state, are densities on the grid.
        """
        s, slope, (p, p1, p2) = self.kernels()
        m0, l1, l2 = (x.squeeze(-1) for x in self.step(s, torch.tensor([START])))
        m1, m2 = m0, m0  # D = 1 after the first step
        found: dict[str, list[Tensor]] = {name: [] for name in ("path", "path variance", "ratio", "ratio variance", "cost")}
        for _ in range(LONGEST):
            cost = (1 - s.cos()) @ m0
            path, ratio = s.sin() @ m1, (1 - s.cos() - cost) @ l1
            for name, value in (
                ("cost", cost),
                ("path", path),
                ("path variance", s.sin() ** 2 @ m2 - path**2),
                ("ratio", ratio),
                ("ratio variance", (1 - s.cos() - cost) ** 2 @ l2 - ratio**2),
            ):
                found[name].append(value)
            m0, m1, m2, l1, l2 = (
                p @ m0,
                p @ (m0 + slope * m1),
                p @ (m0 + 2 * slope * m1 + slope**2 * m2),
                p @ l1 + p1 @ m0,
                p @ l2 + 2 * (p1 @ l1) + p2 @ m0,
            )
        return {name: torch.stack(values) for name, values in found.items()}

    @cached_property
    def growth(self) -> float:
        """log of the factor by which E[D²] grows with a step in the end: the largest eigenvalue of E[f'(s)²; s' | s]."""
        _, slope, (p, _, _) = self.kernels()
        return math.log(float(torch.linalg.eigvals(p * slope**2).abs().max()))

    @cached_property
    def lyapunov(self) -> float:
        """E log |f'(s)| where the angle settles."""
        s, _, (p, _, _) = self.kernels()
        density = torch.full_like(s, 1 / len(s))
        for _ in range(500):
            density = p @ density
        # the singularity of the logarithm is integrable: a finer grid, the density between its points
        fine = torch.arange(64 * len(s)) * (2 * math.pi / (64 * len(s))) + 1e-4
        weight = density.repeat_interleave(64) / 64
        return float(weight @ (1 + self.kick * fine.cos()).abs().log())


def rotor(estimator: scg.Estimator) -> scg.Graph:
    """Inputs: theta `[batch]`, start `[batch]`, baseline."""
    graph = scg.Graph()
    before = prev("state", init="start")
    with graph.sequence():
        graph.stochastic(estimator, lambda theta: Normal(theta, SIGMA), name="action", parents=["theta"])
        graph.deterministic(lambda s, action: s + KICK * s.sin() + action, name="state", parents=[before, "action"])
    graph.cost(lambda state, baseline: 1 - state.cos() - baseline, name="cost", parents=["state", "baseline"])
    return graph


def gradients(graph: scg.Graph, horizon: int, size: int, exact: Exact, g: Generator) -> Tensor:
    """Each roll-out's own, `[size]`."""
    theta = torch.full((size,), THETA, requires_grad=True)
    baseline = float(exact.moments["cost"][horizon - 1])
    loss = graph.surrogate(theta=theta, start=torch.full((size,), START), baseline=baseline, steps=horizon, generator=g)
    return size * torch.autograd.grad(loss, theta)[0]


def run(settings: Settings, out: Path, say: Say = lambda what, done: None) -> Results:
    out.mkdir(parents=True, exist_ok=True)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    exact, dots, errors = Exact(), dict[str, list[float]](), dict[str, list[float]]()
    try:
        jobs: list[Job] = [
            ("chaos", partial(chaos, exact)),
            ("likelihood ratio", partial(likelihood_ratio, exact)),
            ("sampled", partial(sampled, settings, exact, dots)),
            ("total propagation", partial(propagated, settings, exact, errors)),
        ]
        results = collect("parmas2018_pipps", settings, jobs, say)
        draw(exact, dots, errors, settings, out / "horizon.png")
    finally:
        torch.set_default_dtype(before)
    say("done", 1.0)
    return results


def chaos(exact: Exact) -> Claim:
    variance = exact.moments["path variance"].log()
    slope = float(variance[-1] - variance[LONGEST // 2 - 1]) / (LONGEST - LONGEST // 2)
    calm = Exact(ORDERLY)
    gap = float((exact.moments["path"] - exact.moments["ratio"]).abs().max())
    text = (
        f"variance × {math.exp(slope):.3f} a step from {LONGEST // 2} to {LONGEST} steps; the eigenvalue is {math.exp(exact.growth):.3f}; "
        f"Lyapunov exponent {exact.lyapunov:.2f}; pathwise and likelihood ratio's means equal to {gap:.0e}. Chaos is not needed: with "
        f"κ = {ORDERLY:g} the exponent is {calm.lyapunov:.2f}, the eigenvalue {math.exp(calm.growth):.3f}"
    )
    claim = "Section 1: in a chaotic system the variance of pathwise gradients grows exponentially with the horizon"
    right = abs(slope - exact.growth) < 0.01 and exact.lyapunov > 0
    return (
        claim,
        "exponential",
        text,
        right,
        {
            "slope": slope,
            "growth": exact.growth,
            "lyapunov": exact.lyapunov,
            "orderly": {"growth": calm.growth, "lyapunov": calm.lyapunov},
        },
    )


def likelihood_ratio(exact: Exact) -> Claim:
    variance, path = exact.moments["ratio variance"], exact.moments["path variance"]
    slope = float((variance[-1] / variance[LONGEST // 2 - 1]).log()) / math.log(2)
    over = int((path > variance).nonzero()[0]) + 1
    text = (
        f"variance ∝ horizon^{slope:.2f} from {LONGEST // 2} to {LONGEST} steps; the pathwise one is larger from {over} steps on, and "
        f"{float(path[-1] / variance[-1]):.1e} times as large at {LONGEST}"
    )
    claim = "Section 1: the likelihood ratio's variance does not explode"
    return claim, "no explosion", text, abs(slope - 1) < 0.1, {"slope": slope, "larger from": over}


def sampled(settings: Settings, exact: Exact, dots: dict[str, list[float]]) -> Claim:
    g, worst, numbers = Generator().manual_seed(settings.seed), 0.0, dict[str, Any]()
    for name, key in (("pathwise", "path"), ("likelihood ratio", "ratio")):
        graph, dots[name] = rotor(CHOICES[name]), []
        for horizon in SAMPLED:
            found = gradients(graph, horizon, settings.paths, exact, g)
            gap = (found.mean() - exact.moments[key][horizon - 1]).abs() / (found.std() / math.sqrt(settings.paths))
            worst = max(worst, float(gap))
            dots[name].append(float(found.var()))
        numbers[name] = dots[name]
    text = f"{settings.paths:,} roll-outs of {', '.join(map(str, SAMPLED))} steps: " + "; ".join(
        f"{name} variance "
        + ", ".join(f"{v / float(exact.moments[key][h - 1]):.2f}" for v, h in zip(dots[name], SAMPLED, strict=True))
        + " of the exact"
        for name, key in (("pathwise", "path variance"), ("likelihood ratio", "ratio variance"))
    )
    near = all(
        abs(dots[name][i] / float(exact.moments[key][h - 1]) - 1) < 0.15
        for name, key in (("pathwise", "path variance"), ("likelihood ratio", "ratio variance"))
        for i, h in enumerate(SAMPLED[:3])
    )
    text += f"; means within {worst:.1f} standard errors"
    return "Section 2.1: both are unbiased, with these variances", "unbiased", text, near and worst < 4, numbers


def propagated(settings: Settings, exact: Exact, errors: dict[str, list[float]]) -> Claim:
    for name, key in (("likelihood ratio", "ratio variance"), ("pathwise", "path variance")):
        errors[name] = [math.sqrt(float(exact.moments[key][h - 1]) / settings.batch) for h in TRIED]
    g, graph, errors["total propagation"] = Generator().manual_seed(settings.seed), rotor(CHOICES["total propagation"]), []
    for h in TRIED:
        true = float(exact.moments["path"][h - 1])
        means = [float(gradients(graph, h, settings.batch, exact, g).mean()) for _ in range(settings.repeats)]
        errors["total propagation"].append(math.sqrt(sum((m - true) ** 2 for m in means) / len(means)))
    better = [min(pair) for pair in zip(errors["likelihood ratio"], errors["pathwise"], strict=True)]
    shares = [e / b for e, b in zip(errors["total propagation"], better, strict=True)]
    text = (
        f"root mean square error of {settings.batch} roll-outs, {', '.join(map(str, TRIED))} steps, over that of the better of the two: "
        + ", ".join(f"{s:.2f}" for s in shares)
        + "; over the pathwise one: "
        + ", ".join(f"{e / p:.2g}" for e, p in zip(errors["total propagation"], errors["pathwise"], strict=True))
    )
    claim = "Section 3.3: total propagation is about as good as the better of the two at every horizon"
    slack = 1 + 3 / math.sqrt(2 * settings.repeats)  # three standard errors of a root mean square
    return claim, "the best of both", text, max(shares) < slack or REFUTED, dict(errors)


def draw(exact: Exact, dots: dict[str, list[float]], errors: dict[str, list[float]], settings: Settings, path: Path) -> None:
    figure, axes = panels(1, 2)
    steps = torch.arange(1, LONGEST + 1)
    for name, key in (("likelihood ratio", "ratio variance"), ("pathwise", "path variance")):
        axes[0, 0].plot(steps, exact.moments[key], color=COLOURS[name])
        axes[0, 0].plot(SAMPLED, dots[name], "o", markersize=4, color=COLOURS[name])
    last = float(exact.moments["path variance"][-1])
    axes[0, 0].plot(steps, last * torch.exp(exact.growth * (steps - LONGEST)), ":", color="0.3")
    axes[0, 0].plot(steps, exact.moments["ratio variance"][-1] * steps / LONGEST, ":", color="0.3")
    axes[0, 0].set(yscale="log", xlabel="horizon", ylabel="variance")
    for name, colour in COLOURS.items():
        axes[0, 1].plot(TRIED, errors[name], marker="o", markersize=3, color=colour, label=name)
    axes[0, 1].set(xscale="log", yscale="log", xlabel="horizon", ylabel=f"error of {settings.batch} roll-outs")
    save(figure, path, axes[0, 1])
