"""Abbeel's food for thought: with several ways to one gradient, which is best? Known dynamics, a black box, an unknown model.

A mass on a line with noise, under a linear policy with noise: the gradient for the two gains is known in closed form, so errors are
errors. They are root mean squares over repeated estimates, relative to the gradient's length.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

import scg
from scg import ScoreFunction
from scg.agents.bptt import bptt
from scg.agents.dynamics.base import gaussian
from scg.agents.dynamics.classic import LinearQuadratic
from scg.estimators import AlphaOrder, FiniteDifference, Mixed, Pathwise, TotalPropagation
from scg.papers.figures import panels, save
from scg.papers.report import Claim, Job, Results, Say, collect
from scg.testing.lqr import LQR, Policy

STEPS, BATCH, H = 20, 64, 1e-3
ROLLOUTS = (4, 16, 64, 256)
Way = Callable[[Generator], Tensor]


@dataclass(frozen=True)
class Settings:
    repeats: int = field(default=30, metadata={"help": "estimates behind each error"})
    seed: int = field(default=0, metadata={"help": "of everything that is drawn"})

    def __post_init__(self) -> None:
        if self.repeats < 2:
            raise ValueError(f"--repeats {self.repeats}: give at least 2")


def run(settings: Settings, out: Path, say: Say = lambda what, done: None) -> Results:
    out.mkdir(parents=True, exist_ok=True)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    bars, boxes, models = dict[str, float](), dict[str, float](), dict[str, list[float]]()
    try:
        jobs: list[Job] = [
            ("known dynamics", partial(known, settings, bars)),
            ("a black box", partial(black_box, settings, boxes)),
            ("seeds", partial(seeds, settings)),
            ("an unknown model", partial(unknown, settings, models)),
        ]
        results = collect("abbeel_food_for_thought", settings, jobs, say)
        draw(bars, boxes, models, out / "best.png")
    finally:
        torch.set_default_dtype(before)
    say("done", 1.0)
    return results


# -- the process -----------------------------------------------------------------------------------------------------


def process() -> LQR:
    a, b = torch.tensor([[1.0, 0.2], [0.0, 1.0]]), torch.tensor([[0.02], [0.2]])
    q, r = torch.diag(torch.tensor([1.0, 0.1])), torch.tensor([[0.1]])
    return LQR(a, b, q, r, torch.full((2,), 0.05), torch.tensor([1.0, 0.0]), torch.full((2,), 0.2), STEPS, 1.0)


def policy() -> Policy:
    return Policy(torch.tensor([[-0.5, -0.5]]), torch.full((1,), -1.0))


def truth() -> Tensor:
    return process().gradient(policy())[:2]


@dataclass(frozen=True)
class Error:
    """Relative root mean square error, seconds of processor time, and simulated steps, of one estimate."""

    rms: float
    seconds: float
    steps: int

    @property
    def at_equal_time(self) -> float:
        """After one second, estimates averaged; right for estimates without bias."""
        return self.rms * math.sqrt(self.seconds)


def error(way: Way, settings: Settings, steps: int = STEPS * BATCH) -> Error:
    g, exact = Generator().manual_seed(settings.seed), truth()
    way(g)  # examined
    began = time.process_time()
    found = torch.stack([way(g) for _ in range(settings.repeats)])
    seconds = (time.process_time() - began) / settings.repeats
    return Error(float((found - exact).square().sum(1).mean().sqrt() / exact.norm()), seconds, steps)


def through(estimator: scg.Estimator, world: LinearQuadratic | None = None) -> Way:
    """One batch's gradient of a graph in which the action has this estimator."""
    world, acting, weight = world or LinearQuadratic(process()), policy(), torch.ones(STEPS, 1)
    graph = bptt(acting, world, action=estimator)

    def way(g: Generator) -> Tensor:
        cost = graph.surrogate(start=world.start(BATCH, g), weight=weight, generator=g)
        return torch.autograd.grad(cost, acting.gain)[0].flatten()

    return way


def cost_of(gain: Tensor, g: Generator, batch: int = BATCH) -> Tensor:
    """The mean cost of roll-outs, for gains `[…, 2]` that share all noise; without a graph."""
    lqr, scale = process(), policy().scale.detach()
    s = lqr.start + lqr.spread * torch.randn(batch, 2, generator=g)
    s, total = s.expand(*gain.shape[:-1], batch, 2), torch.zeros(())
    for _ in range(STEPS):
        a = (s * gain[..., None, :]).sum(-1, keepdim=True) + scale * torch.randn(batch, 1, generator=g)
        total = total + ((s @ lqr.q) * s).sum(-1) + ((a @ lqr.r) * a).sum(-1)
        s = s @ lqr.a.mT + a @ lqr.b.mT + lqr.noise * torch.randn(batch, 2, generator=g)
    return total.mean(-1)


def differences(g: Generator, common: bool = True, h: float = H) -> Tensor:
    """Central differences for both gains; with `common` all four roll-outs have the same noise."""
    points = policy().gain.detach().flatten() + h * torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    values = cost_of(points, g) if common else torch.stack([cost_of(p, g) for p in points])
    return (values[0::2] - values[1::2]) / (2 * h)


def evolution(g: Generator, pairs: int = 16, sigma: float = 0.05) -> Tensor:
    """Antithetic evolution strategies on the gains: noise common to each pair, `BATCH` roll-outs a member."""
    total = torch.zeros(2)
    for _ in range(pairs):
        direction = torch.randn(2, generator=g)
        values = cost_of(policy().gain.detach().flatten() + sigma * torch.stack([direction, -direction]), g)
        total += (values[0] - values[1]) / (2 * sigma) * direction
    return total / pairs


class Boxed(LinearQuadratic):
    """The same, its mean a black box: differences on the state and the action, at every step of the path."""

    def __init__(self, lqr: LQR) -> None:
        super().__init__(lqr)
        self.calls = 0
        self.box = FiniteDifference(self._simulated, "(s),(a)->(s)")

    def _simulated(self, state: Tensor, action: Tensor) -> Tensor:
        self.calls += state[..., 0].numel()
        return state @ self.a.mT + action @ self.b.mT

    def transition(self, state: Tensor, action: Tensor) -> Distribution:
        return gaussian(self.box(state, action), self.noise)


# -- claims ----------------------------------------------------------------------------------------------------------


WAYS: dict[str, scg.Estimator] = {
    "likelihood ratio": ScoreFunction(),
    "mixed ½": Mixed(0.5),
    "total propagation": TotalPropagation(allow_bias=True),
    "α-order": AlphaOrder(allow_bias=True),
    "pathwise": Pathwise(),
}


def known(settings: Settings, bars: dict[str, float]) -> Claim:
    found = {name: error(through(estimator), settings) for name, estimator in WAYS.items()}
    found["differences"] = error(differences, settings, 4 * STEPS * BATCH)
    bars.update({name: e.at_equal_time for name, e in found.items()})
    text = f"error of {BATCH} roll-outs of {STEPS} steps over |gradient|, and after one second: " + "; ".join(
        f"{name} {e.rms:.3f}, {e.at_equal_time:.4f}" for name, e in found.items()
    )
    claim = "More than one way applies: which is best, in equal time? (smooth, stable dynamics)"
    right = max(bars["pathwise"], bars["differences"]) < bars["likelihood ratio"]
    return claim, "asked", text, right, {k: vars(e) for k, e in found.items()}


def black_box(settings: Settings, boxes: dict[str, float]) -> Claim:
    world = Boxed(process())
    way, g = through(Pathwise(), world), Generator().manual_seed(settings.seed)
    way(g)
    world.calls = 0
    way(g)
    found = {
        "differences on the dynamics": error(way, settings, world.calls),
        "differences on the policy": error(differences, settings, 4 * STEPS * BATCH),
        "evolution strategies": error(evolution, settings, 32 * STEPS * BATCH),
        "likelihood ratio": error(through(ScoreFunction()), settings),
    }
    boxes.update({name: e.rms * math.sqrt(e.steps / 1e5) for name, e in found.items()})
    text = "simulated steps of an estimate, and its error after 100,000 of them: " + "; ".join(
        f"{name} {e.steps:,}, {boxes[name]:.4f}" for name, e in found.items()
    )
    claim = "Black-box dynamics: differences on the dynamics, or on the policy? (2 states, 1 action, 2 gains)"
    right = max(boxes["differences on the dynamics"], boxes["differences on the policy"]) < min(
        boxes["evolution strategies"], boxes["likelihood ratio"]
    )
    return claim, "asked", text, right, dict(boxes)


def seeds(settings: Settings) -> Claim:
    same = error(differences, settings)
    other = {h: error(partial(differences, common=False, h=h), settings) for h in (0.001, 0.01, 0.1, 0.3)}
    text = f"same noise on both sides {same.rms:.3f}; other noise, by the step h: " + "; ".join(
        f"{h:g}: {e.rms:.2f}" for h, e in other.items()
    )
    claim = "Finite differences are tricky when the seed cannot be controlled"
    best = min(e.rms for e in other.values())
    return claim, "tricky", text, same.rms < best, {"same": same.rms, **{str(h): e.rms for h, e in other.items()}}


def unknown(settings: Settings, models: dict[str, list[float]]) -> Claim:
    """The same real roll-outs: a model is fitted to them by least squares and differentiated, or nothing is fitted."""
    lqr, acting, exact, g = process(), policy(), truth(), Generator().manual_seed(settings.seed)
    names = ("learned model", "learned model, wrong kind", "likelihood ratio", "likelihood ratio, baseline")
    world, weight = LinearQuadratic(lqr), torch.ones(STEPS, 1)
    graph = bptt(acting, world, action=ScoreFunction())
    baselines = lqr.values(acting)
    for name in names:
        models[name] = []
    for count in ROLLOUTS:
        squares = dict.fromkeys(names, 0.0)
        for _ in range(settings.repeats):
            trace = graph.sample(start=world.start(count, g), weight=weight, generator=g)
            s, a, after = (trace[n].detach() for n in ("obs", "action", "state"))
            estimates = {
                "learned model": fitted(lqr, s, a, after).gradient(acting)[:2],
                "learned model, wrong kind": fitted(lqr, s, a, after, known_inertia=False).gradient(acting)[:2],
                "likelihood ratio": torch.autograd.grad(trace.surrogate("gain"), acting.gain)[0].flatten(),
            }
            ahead = trace["gain"].detach().flip(0).cumsum(0).flip(0)  # of costs, as every value of a reward node
            advantage = ahead - torch.stack([v(x).detach() for v, x in zip(baselines, s, strict=False)])
            score = (a - s @ acting.gain.detach().mT) / acting.scale.detach().square() * s
            estimates["likelihood ratio, baseline"] = (advantage[..., None] * score).sum(0).mean(0)
            for name in names:
                squares[name] += float((estimates[name] - exact).square().sum())
        for name in names:
            models[name].append(math.sqrt(squares[name] / settings.repeats) / float(exact.norm()))
    text = f"error over |gradient| with {', '.join(map(str, ROLLOUTS))} real roll-outs: " + "; ".join(
        f"{name} {', '.join(f'{v:.3f}' for v in values)}" for name, values in models.items()
    )
    claim = "Unknown dynamics: a learned model and the path through it, or no model, at equal real steps?"
    right = all(m < r for m, r in zip(models["learned model"], models["likelihood ratio, baseline"], strict=True))
    return claim, "asked", text, right, dict(models)


def fitted(lqr: LQR, s: Tensor, a: Tensor, after: Tensor, known_inertia: bool = True) -> LQR:
    """Least squares for A and B; of the wrong kind, each state's change depends on the action alone."""
    x, y = torch.cat([s, a], -1).flatten(0, 1), after.flatten(0, 1)
    if known_inertia:
        found = torch.linalg.lstsq(x, y).solution.mT
        return replace(lqr, a=found[:, :2], b=found[:, 2:])
    found = torch.linalg.lstsq(x[:, 2:], y - x[:, :2]).solution.mT
    return replace(lqr, a=torch.eye(2), b=found)


def draw(bars: dict[str, float], boxes: dict[str, float], models: dict[str, list[float]], path: Path) -> None:
    figure, axes = panels(1, 3)
    for axis, values, label in (
        (axes[0, 0], bars, "error after 1 s / |gradient|"),
        (axes[0, 1], boxes, "error after 100,000 steps / |gradient|"),
    ):
        axis.barh(list(values), list(values.values()), color="0.6")
        axis.set(xlabel=label)
    for i, (name, along) in enumerate(models.items()):
        axes[0, 2].plot(ROLLOUTS, along, marker="o", markersize=3, color=f"C{i}", label=name)
    axes[0, 2].set(xscale="log", yscale="log", xlabel="real roll-outs", ylabel="error / |gradient|")
    save(figure, path, axes[0, 2])
