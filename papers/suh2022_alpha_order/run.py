"""Suh et al. (2022): where a simulator's own derivative is wrong or useless, and blending it with a likelihood ratio.

A ball is thrown at a wall (`Wall-v0`): a ~ N(μ, σ²), cost −distance(a). Means and variances of single gradients are integrals, piece by
piece between the jumps; errors of blends are measured over repeated batches.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor
from torch.distributions import Normal

import scg
from scg.agents.dynamics.contact import Push, Wall
from scg.estimator import Estimator
from scg.estimators import AlphaOrder, ScoreFunction, TotalPropagation
from scg.papers.figures import panels, save
from scg.papers.report import Claim, Job, Results, Say, collect

SIGMA, NEAR, FAR = 0.1, -0.2, 0.4  # of the throw; means below the wall's edge, and well above it
SIZES = (10, 100, 1000)
EVERY, OVER = 2, 8.0  # steps between two points of a descent; metres, more than any throw that does not fly over the wall
COLOURS = {"likelihood ratio": "C0", "pathwise": "C1", "total propagation": "C2", "α-order": "C3"}


@dataclass(frozen=True)
class Settings:
    repeats: int = field(default=200, metadata={"help": "batches behind each error"})
    throws: int = field(default=150, metadata={"help": "gradient steps of each descent"})
    seed: int = field(default=0, metadata={"help": "of everything that is drawn"})

    def __post_init__(self) -> None:
        if self.repeats < 2 or self.throws < 1:
            raise ValueError(f"--repeats {self.repeats} --throws {self.throws}: give at least 2, and 1")


def run(settings: Settings, out: Path, say: Say = lambda what, done: None) -> Results:
    """All claims, in the order of the paper."""
    out.mkdir(parents=True, exist_ok=True)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    paths: dict[str, list[float]] = {}
    errors: dict[str, list[float]] = {}
    try:
        jobs: list[Job] = [
            ("bias at a jump", biased),
            ("empirical bias", steep),
            ("no contact", no_contact),
            ("blends near the wall", partial(near_the_wall, settings, errors)),
            ("blends in the open", partial(in_the_open, settings)),
            ("descent", partial(descent, settings, paths)),
        ]
        results = collect("suh2022_alpha_order", settings, jobs, say)
        draw(errors, paths, out / "wall.png")
    finally:
        torch.set_default_dtype(before)
    say("done", 1.0)
    return results


# -- integrals -------------------------------------------------------------------------------------------------------


def integral(f: Callable[[Tensor], Tensor], mean: float, ends: list[float], sigma: float = SIGMA) -> float:
    """E[f(a)], a ~ N(mean, σ²), f smooth between `ends`."""
    x, w = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(60))
    cuts = sorted({*(e for e in ends), *(mean + sigma * k for k in range(-9, 10))})
    total = 0.0
    for lo, hi in itertools.pairwise(cuts):
        a = (lo + hi) / 2 + (hi - lo) / 2 * x
        density = torch.exp(-(((a - mean) / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi))
        total += float((w * (hi - lo) / 2 * f(a) * density).sum())
    return total


def cost(a: Tensor) -> Tensor:
    wall = Wall()
    return -wall.transition(a, a)


def slope(a: Tensor) -> Tensor:
    live = a.detach().requires_grad_()
    (found,) = torch.autograd.grad(cost(live).sum(), live)
    return found


def ends() -> list[float]:
    # where the ball's free flight ends at the wall's foot the distance has a kink
    foot = math.asin(0.5) / 2 / (math.pi / 4) - 1
    return [-0.999, foot, *Wall().jumps(), -foot, 0.999]


def truth(mean: float) -> float:
    return integral(lambda a: cost(a) * (a - mean) / SIGMA**2, mean, ends())


def biased() -> Claim:
    found = {}
    for mean in (NEAR, -0.1, 0.0, FAR):
        path, exact = integral(slope, mean, ends()), truth(mean)
        missing = 0.0
        for at in Wall().jumps():
            height = float(cost(torch.tensor(at + 1e-9)) - cost(torch.tensor(at - 1e-9)))
            missing += height * math.exp(-(((at - mean) / SIGMA) ** 2) / 2) / (SIGMA * math.sqrt(2 * math.pi))
        found[f"{mean:g}"] = {"pathwise": path, "exact": exact, "jumps": missing, "gap": abs(path + missing - exact)}
    right = all(f["gap"] < 1e-5 * (1 + abs(f["exact"])) for f in found.values())
    text = "; ".join(f"μ = {m}: pathwise {f['pathwise']:.2f}, true {f['exact']:.2f}" for m, f in found.items())
    claim = "Section 3.1: at a discontinuity the first-order gradient is biased, by Σ jump · p(jump)"
    return (
        claim,
        "biased",
        f"{text}; what is missing is Σ jump · p to {max(f['gap'] for f in found.values()):.0e}",
        right,
        found,
    )


def steep() -> Claim:
    """The jump made a slope of stiffness k: the mean is right, the variance grows with k."""
    at, means, variances, squares = Wall().jumps()[0], [], [], []
    stiffness = (50.0, 100.0, 200.0, 400.0)
    for k in stiffness:

        def bent(a: Tensor, k: float = k) -> Tensor:
            return -5 * torch.sigmoid(k * (a - at))

        def tilt(a: Tensor, k: float = k) -> Tensor:
            return -5 * k * torch.sigmoid(k * (a - at)) * torch.sigmoid(-k * (a - at))

        cuts = [at + d / k for d in (-40, -20, -10, -5, 0, 5, 10, 20, 40)]
        mean = integral(tilt, NEAR, cuts)
        exact = integral(lambda a: bent(a) * (a - NEAR) / SIGMA**2, NEAR, cuts)
        means.append(abs(mean - exact) / abs(exact))
        squares.append(integral(lambda a: tilt(a) ** 2, NEAR, cuts))
        variances.append(squares[-1] - mean**2)
    growth = [b / a for a, b in itertools.pairwise(squares)]
    text = (
        f"stiffness doubled: second moment × {', '.join(f'{g:.2f}' for g in growth)}, variance {variances[0]:.0f} to "
        f"{variances[-1]:.0f}; bias below {max(means):.0e} of the gradient"
    )
    claim = "Section 3.2: a stiff contact leaves it unbiased, and its variance grows with the stiffness (empirical bias)"
    right = max(means) < 1e-6 and abs(growth[-1] - 2) < 0.1
    return claim, "variance ∝ stiffness", text, right, {"variances": variances, "relative bias": means}


def no_contact() -> Claim:
    """A pusher that stops short of the block: the derivative at every sample that did not touch is 0."""
    push, count = Push(), 100_000
    state = torch.tensor([-0.25, 0.0]).expand(count, 2)
    mean = torch.full((count, 1), 0.3).requires_grad_()
    noise = torch.randn(count, 1, generator=Generator().manual_seed(0))
    action = mean + 0.25 * noise
    after = push.transition(state, action)
    (g,) = torch.autograd.grad((after[:, 1] - 1).square().sum(), mean)
    touched = float((after[:, 1] > 0).double().mean())
    zero = float((g[after[:, 1] <= 0] == 0).double().mean())
    exact = float((g.squeeze() * 1.0).mean())
    ratio = float(((after[:, 1] - 1).square().detach() * noise.squeeze() / 0.25).mean())
    text = (
        f"{touched:.1%} of throws touch the block; of the others' gradients {zero:.0%} are 0; mean {exact:.4f}, by likelihood "
        f"ratio {ratio:.4f}"
    )
    claim = "Section 3.2: without contact the first-order gradient says nothing of where to go"
    return claim, "zero gradient", text, zero == 1.0 and touched < 0.05, {"touched": touched, "zero": zero}


# -- blends ----------------------------------------------------------------------------------------------------------


CHOICES: dict[str, Estimator] = {
    "likelihood ratio": ScoreFunction(),
    "total propagation": TotalPropagation(allow_bias=True),
    "α-order": AlphaOrder(allow_bias=True),
}


def thrown(estimator: Estimator) -> scg.Graph:
    graph = scg.Graph()
    graph.stochastic(estimator, lambda mu: Normal(mu, SIGMA), name="action", parents=["mu"])
    graph.cost(cost, name="short", parents=["action"])
    return graph


def gradient(graph: scg.Graph, mean: float, noise: Tensor) -> float:
    mu = torch.full_like(noise, mean).requires_grad_()
    graph.replay({"action": mean + SIGMA * noise}, mu=mu).surrogate().backward()
    assert mu.grad is not None
    return float(mu.grad.sum())


def centred(mean: float, noise: Tensor) -> float:
    """The likelihood ratio with the mean of the other throws as a baseline, which the blends have too."""
    c, n = cost(mean + SIGMA * noise), len(noise)
    return float(((c - (c.sum() - c) / (n - 1)) * noise / SIGMA).mean())


def rms(settings: Settings, mean: float, size: int) -> dict[str, float]:
    exact, g = truth(mean), Generator().manual_seed(settings.seed)
    graphs = {name: thrown(e) for name, e in CHOICES.items() if name != "likelihood ratio"}
    squares: dict[str, list[float]] = {name: [] for name in COLOURS}
    for _ in range(settings.repeats):
        noise = torch.randn(size, generator=g)
        squares["likelihood ratio"].append((centred(mean, noise) - exact) ** 2)
        squares["pathwise"].append((float(slope(mean + SIGMA * noise).mean()) - exact) ** 2)
        for name, graph in graphs.items():
            squares[name].append((gradient(graph, mean, noise) - exact) ** 2)
    return {name: math.sqrt(sum(s) / len(s)) / abs(exact) for name, s in squares.items()}


def near_the_wall(settings: Settings, errors: dict[str, list[float]]) -> Claim:
    found = {size: rms(settings, NEAR, size) for size in SIZES}
    for name in COLOURS:
        errors[name] = [found[size][name] for size in SIZES]
    last = found[SIZES[-1]]
    text = "; ".join(f"{name} {', '.join(f'{e:.2f}' for e in errors[name])}" for name in COLOURS)
    claim = "Section 4: below the wall's edge α-order falls back on the likelihood ratio; inverse variances do not"
    right = last["α-order"] < 1.3 * last["likelihood ratio"] + 0.02 and last["total propagation"] > 0.7 < last["pathwise"]
    said = f"error over |gradient| with {', '.join(map(str, SIZES))} throws: {text}"
    return claim, "robust", said, right, {str(k): v for k, v in found.items()}


def in_the_open(settings: Settings) -> Claim:
    found = rms(settings, FAR, 100)
    text = ", ".join(f"{name} {e:.3f}" for name, e in found.items())
    claim = "Section 4: where the landscape is smooth α-order keeps the first-order gradient's small variance"
    right = found["α-order"] < 0.6 * found["likelihood ratio"]
    return claim, "as the first-order one", f"error over |gradient| with 100 throws at μ = {FAR}: {text}", right, dict(found)


def descent(settings: Settings, paths: dict[str, list[float]]) -> Claim:
    """Steps of 0.02 · gradient, shortened to 0.02, from below the wall's edge; the gradient of 50 throws."""
    ended, first = {}, {}
    graphs = {name: thrown(e) for name, e in CHOICES.items() if name != "likelihood ratio"}
    for name in COLOURS:
        mean, g, distances = -0.3, Generator().manual_seed(settings.seed), []
        for step in range(settings.throws):
            noise = torch.randn(50, generator=g)
            if name == "pathwise":
                found = float(slope(mean + SIGMA * noise).mean())
            elif name == "likelihood ratio":
                found = centred(mean, noise)
            else:
                found = gradient(graphs[name], mean, noise)
            rate = 0.02 * (1 - step / settings.throws)
            mean = min(max(mean - rate * max(-1.0, min(1.0, found)), -0.9), 0.9)
            if step % EVERY == EVERY - 1:
                distances.append(-integral(cost, mean, ends()))
        over = [EVERY * (i + 1) for i, d in enumerate(distances) if d > OVER]
        paths[name], ended[name], first[name] = distances, distances[-1], over[0] if over else settings.throws
    text = "; ".join(f"{name} {first[name]} steps, {ended[name]:.2f} m in the end" for name in COLOURS)
    claim = (
        "Section 5, ball with wall: the first-order gradient is slow to throw over the wall, α-order and zeroth order are not"
    )
    right = 2 * max(first["α-order"], first["likelihood ratio"]) < first["pathwise"]
    return claim, "over the wall", f"to a mean distance of {OVER:g} m: {text}", right, {"steps": first, "metres": ended}


def draw(errors: dict[str, list[float]], paths: dict[str, list[float]], path: Path) -> None:
    figure, axes = panels(1, 3)
    a = torch.linspace(-0.999, 0.999, 800)
    axes[0, 0].plot(a, -cost(a), color="0.3", linewidth=1)
    means = torch.linspace(-0.6, 0.6, 61)
    axes[0, 0].plot(means, [-integral(cost, float(m), ends()) for m in means], color="0.3", linestyle=":")
    axes[0, 0].set(xlabel="action, mean action (dotted)", ylabel="distance, m")
    for name, colour in COLOURS.items():
        axes[0, 1].plot(SIZES, errors[name], marker="o", markersize=3, color=colour, label=name)
        axes[0, 2].plot([EVERY * (i + 1) for i in range(len(paths[name]))], paths[name], color=colour, label=name)
    axes[0, 1].set(xscale="log", yscale="log", xlabel=f"throws, μ = {NEAR}", ylabel="error / |gradient|")
    axes[0, 2].set(xlabel="gradient steps", ylabel="mean distance, m")
    save(figure, path, axes[0, 2])
