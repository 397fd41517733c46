"""Kakade (2001): the natural policy gradient: free of the parameterisation, towards the greedy action, across plateaus.

All of it exact: linear solves and differential equations, no samples.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Generator, Tensor

from scg.papers.figures import panels
from scg.papers.kakade2001_npg.average import AverageProcess, Flow, Policy, Regulator, change, flow, loops, scores, two_states
from scg.papers.report import Claim, Job, Results, Say, collect, number

RIGHT = 1e-8
NATURAL, PLAIN = "natural gradient", "gradient"
VISITS, MOVE = 0.8, 0.22  # of the first state, and P(move) there, at the start
MOVES = (0.1, 0.2, 0.24)
FIRST, LAST = 1e-2, 1e8
SCALES = ((1.0, 1.0), (0.3, 1.0), (1.0, 0.3), (3.0, 1.0), (1.0, 3.0), (3.0, 0.3))


@dataclass(frozen=True)
class Settings:
    processes: int = field(default=50, metadata={"help": "random processes on which the theorems are checked"})
    points: int = field(default=150, metadata={"help": "times at which each flow is recorded"})

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise ValueError(f"--processes {self.processes}: give at least 1")
        if self.points < 20:
            raise ValueError(f"--points {self.points}: a flow needs at least 20")


def run(settings: Settings, out: Path, say: Say = lambda what, done: None) -> Results:
    """All claims, in the order of the paper."""
    out.mkdir(parents=True, exist_ok=True)
    flows: dict[str, dict[str, Flow]] = {}
    jobs: list[Job] = [
        ("gradient", partial(theorem_of_gradients, settings)),
        ("reparameterisation", partial(reparameterised, settings)),
        ("Theorem 1", partial(compatible, settings)),
        ("Theorem 2", partial(greedy, settings)),
        ("Theorem 3", partial(improvement, settings)),
        ("regulator", partial(regulator, settings, flows)),
        ("plateau", partial(plateau, settings, flows)),
        ("rescaled loops", partial(rescaled, settings, flows)),
    ]
    results = collect("kakade2001_npg", settings, jobs, say)
    draw(flows, out / "flows.png")
    say("done", 1.0)
    return results


# -- theorems --------------------------------------------------------------------------------------------------------


def softmax(theta: Tensor) -> Tensor:
    return theta.softmax(-1)


def bent(theta: Tensor) -> Tensor:
    """The logits as a function of other parameters, one to one: each mixes with its neighbours, some stretched tenfold."""
    flat = theta.flatten()
    stretched = flat * torch.logspace(-0.5, 0.5, flat.numel(), dtype=theta.dtype)
    return (stretched + 0.3 * torch.sin(stretched.roll(1))).view_as(theta)


def drawn(settings: Settings) -> list[tuple[AverageProcess, Tensor]]:
    found = []
    for seed in range(settings.processes):
        theta = torch.randn(4, 3, generator=Generator().manual_seed(seed), dtype=torch.float64)
        found.append((AverageProcess.random(seed), theta))
    return found


def theorem_of_gradients(settings: Settings) -> Claim:
    gaps = []
    for process, theta in drawn(settings):
        live = theta.clone().requires_grad_()
        (exact,) = torch.autograd.grad(process.objective(softmax(live)), live)
        gaps.append(float((process.gradient(softmax, theta) - exact).abs().max()))
    text = f"largest gap to the derivative of the linear solve, over {len(gaps)} processes: {max(gaps):.0e}"
    claim = "Section 2: ∇η = Σ_s ρ(s) Σ_a ∇π(a|s) Q(s, a), of the average reward"
    return claim, "equal", text, max(gaps) < RIGHT, {"gaps": gaps}


def reparameterised(settings: Settings) -> Claim:
    """θ = bent(ψ): what a step in ψ does to the policy, beside what a step in θ does."""
    natural: list[float] = []
    plain: list[float] = []
    for process, psi in drawn(settings):
        theta, policy = bent(psi), lambda p: softmax(bent(p))
        pairs = {
            "natural": (process.natural(softmax, theta), process.natural(policy, psi)),
            "plain": (process.gradient(softmax, theta), process.gradient(policy, psi)),
        }
        for found, (ours, theirs) in zip((natural, plain), pairs.values(), strict=True):
            one, other = change(softmax, theta, ours), change(policy, psi, theirs)
            found.append(float((one - other).norm() / one.norm()))
    text = (
        f"change of the policy under two parameterisations, largest relative gap over {len(natural)} processes: natural "
        f"{max(natural):.0e}; gradient, least gap {min(plain):.2f}"
    )
    claim = "Section 3: the natural direction does not depend on the parameterisation; the gradient's does"
    return claim, "invariant", text, max(natural) < RIGHT and min(plain) > 0.01, {"natural": natural, "plain": plain}


def compatible(settings: Settings) -> Claim:
    """min_w Σ ρ π (w·∇log π − Q)²."""
    gaps, errors = [], []
    for process, theta in drawn(settings):
        pi = softmax(theta)
        weight = (process.visits(pi).unsqueeze(-1) * pi).flatten().sqrt()
        design = scores(softmax, theta).flatten(0, 1)
        q = process.action_value(pi).flatten()
        fitted = torch.linalg.lstsq(weight.unsqueeze(-1) * design, weight * q, driver="gelsd").solution
        gaps.append(float((fitted.view_as(theta) - process.natural(softmax, theta)).abs().max()))
        errors.append(float((weight * (design @ fitted - q)).norm()))
    text = f"largest gap between the weights and F⁻¹∇η, over {len(gaps)} processes: {max(gaps):.0e}"
    claim = "Theorem 1: the weights of the compatible approximation of Q by w·∇log π are the natural gradient"
    return claim, "equal", text, max(gaps) < RIGHT, {"gaps": gaps, "errors of the fit": errors}


def features(seed: int, states: int = 4, actions: int = 3, count: int = 3) -> tuple[Policy, Tensor]:
    """π ∝ exp(θ·φ(s, a)) with fewer features than logits."""
    phi = torch.randn(states, actions, count, generator=Generator().manual_seed(seed), dtype=torch.float64)
    return lambda theta: (phi @ theta).softmax(-1), phi


def greedy(settings: Settings, far: float = 1e6) -> Claim:
    """An infinite step of the natural gradient takes argmax_a f(s, a); one of the gradient need not."""
    natural, plain, total = 0, 0, 0
    for seed in range(settings.processes):
        process, (policy, phi) = AverageProcess.random(seed), features(seed)
        theta = torch.randn(3, generator=Generator().manual_seed(seed + 1), dtype=torch.float64)
        direction, gradient = process.natural(policy, theta), process.gradient(policy, theta)
        best = (phi @ direction).argmax(-1)  # of f(s, a) = w·∇log π, which is w·φ but for a term of the state
        states = torch.arange(len(best))
        natural += int((policy(theta + far * direction / direction.norm())[states, best] > 0.999).sum())
        plain += int((policy(theta + far * gradient / gradient.norm())[states, best] > 0.999).sum())
        total += len(best)
    text = f"of {total} states, natural: {natural} end in the action that is best for f; gradient: {plain}"
    claim = "Theorem 2: for π ∝ exp(θ·φ) a natural step, ever longer, ends in the best action under the compatible f, not just a better one"
    return (
        claim,
        "the best action",
        text,
        natural == total and plain < total,
        {"natural": natural, "plain": plain, "states": total},
    )


def improvement(settings: Settings) -> Claim:
    """π(θ + αw) = π (1 + α f) + O(α²)."""
    ratios = []
    for seed in range(settings.processes):
        process, (policy, _) = AverageProcess.random(seed), features(seed)
        theta = torch.randn(3, generator=Generator().manual_seed(seed + 1), dtype=torch.float64)
        w = process.natural(policy, theta)
        pi, f = policy(theta), scores(policy, theta) @ w
        errors = [float((policy(theta + a * w) - pi * (1 + a * f)).norm()) for a in (1e-3, 5e-4)]
        ratios.append(errors[0] / errors[1])
    text = f"half the step, 1/{min(ratios):.3f} to 1/{max(ratios):.3f} of the error, over {len(ratios)} processes"
    claim = "Theorem 3: a natural step α changes any policy by π α f + O(α²): locally, towards the best action"
    return claim, "second order", text, max(abs(r - 4) for r in ratios) < 0.1, {"ratios": ratios}


# -- examples --------------------------------------------------------------------------------------------------------


def worth(system: Regulator, at: Tensor) -> Tensor:
    return -system.cost(at)


def regulator(settings: Settings, flows: dict[str, dict[str, Flow]]) -> Claim:
    """From the same policy, under parameters that are scaled."""
    found: dict[str, Flow] = {}
    for scale in SCALES:
        system = Regulator(scale)
        start = torch.tensor([0.15 / scale[0], 1.0 / scale[1]], dtype=torch.float64)
        for name, direction in ((NATURAL, system.natural), (PLAIN, system.uphill)):
            found[f"{name}, s = {scale}"] = flow(direction, partial(worth, system), start, 1e-4, 1e4, -2.001, settings.points)
    flows["regulator: cost"] = found
    times = {name: f.reaches(-2.01) for name, f in found.items()}
    natural, plain = ([t for n, t in times.items() if n.startswith(kind + ",")] for kind in (NATURAL, PLAIN))
    spread = max(
        float(abs(found[f"{NATURAL}, s = {s}"].values - found[f"{NATURAL}, s = {SCALES[0]}"].values).max()) for s in SCALES
    )
    text = (
        f"time to a cost of 2.01 (best 2): natural {span(natural)}, largest difference of the curves {spread:.0e}; "
        f"gradient {span(plain)}"
    )
    claim = "Figure 1, linear-quadratic regulator: the gradient's speed depends on the scale of the parameters, the natural one's does not"
    return claim, "curves", text, spread < 1e-4 and max(plain) > 10 * min(plain), {"times": times, "spread": spread}


def start_of_loops(scale: tuple[float, float] = (1.0, 1.0), move: float = MOVE) -> Tensor:
    """P(move) at the first state is `move`, and at the second what makes ρ there 0.2."""
    moves = torch.tensor([move, move * VISITS / (1 - VISITS)], dtype=torch.float64)
    return torch.logit(1 - moves) / torch.tensor(scale, dtype=torch.float64)


def of_loops(scale: tuple[float, float], natural: bool, points: int, move: float = MOVE) -> Flow:
    process, policy = two_states(), loops(scale)
    direction = process.natural if natural else process.gradient
    return flow(
        lambda at: direction(policy, at),
        lambda at: process.objective(policy(at)),
        start_of_loops(scale, move),
        FIRST,
        LAST,
        1.95,
        points,
    )


def plateau(settings: Settings, flows: dict[str, dict[str, Flow]]) -> Claim:
    process = two_states()
    found = {name: of_loops((1.0, 1.0), name == NATURAL, settings.points) for name in (NATURAL, PLAIN)}
    flows["two states: average reward"] = found
    times = {name: f.reaches(1.9) for name, f in found.items()}
    stays = {name: f.stays(0.95, 1.05) for name, f in found.items()}
    lines = [f"{name}: average reward 1.9 at t = {when(times[name])}" for name in found]
    others = {
        move: [of_loops((1.0, 1.0), kind, settings.points, move).reaches(1.9) for kind in (True, False)] for move in MOVES
    }
    start = process.visits(loops()(start_of_loops()))
    text = (
        f"from ρ = {number(float(start[0]), 1)}, {number(float(start[1]), 1)} with P(move) = {MOVE:g} at the first state: "
        + "; ".join(lines)
        + f"<br>within 0.05 of the plateau at 1 for {100 * stays[PLAIN]:.0f} % of the log-time from {FIRST:g} on, natural {100 * stays[NATURAL]:.0f} %"
        + "<br>from other starts with the same ρ, natural and gradient: "
        + ", ".join(f"P(move) = {move:g}: {when(one)} and {when(other)}" for move, (one, other) in others.items())
    )
    claim = "Figure 2, two states with loops worth 1 and 2: the gradient sits on a plateau at 1, the natural one goes on to 2"
    right = times[NATURAL] < times[PLAIN] / 1000 and stays[PLAIN] > 0.4
    numbers = {"times": {k: finite(v) for k, v in times.items()}, "plateau": stays}
    starts = {str(move): [finite(t) for t in pair] for move, pair in others.items()}
    return claim, "10⁷ steps for the gradient", text, right, {**numbers, "other starts": starts}


def rescaled(settings: Settings, flows: dict[str, dict[str, Flow]]) -> Claim:
    found = {s: (of_loops(s, True, settings.points), of_loops(s, False, settings.points)) for s in SCALES[1:]}
    ours, theirs = ([f.reaches(1.9) for f in side] for side in zip(*found.values(), strict=True))
    first = flows["two states: average reward"]
    gap = max(float(abs(natural.values - first[NATURAL].values).max()) for natural, _ in found.values())
    text = f"t at 1.9: natural {span(ours)}, largest difference of the curves {gap:.0e}; gradient {span(theirs)}"
    claim = "The same with each state's parameter rescaled"
    numbers = {"natural": [finite(t) for t in ours], "plain": [finite(t) for t in theirs], "gap": gap}
    return claim, "invariant", text, gap < 1e-4 and max(theirs) > 3 * min(theirs), numbers


def when(time: float) -> str:
    return f"none before {LAST:.0e}" if math.isinf(time) else f"{time:.2g}"


def span(times: list[float]) -> str:
    return f"{when(min(times))} to {when(max(times))}"


def finite(time: float) -> float | None:
    """None stands for never in results.json."""
    return None if math.isinf(time) else time


def draw(flows: dict[str, dict[str, Flow]], path: Path) -> None:
    figure, axes = panels(1, len(flows), (4.6, 3.0))
    for axis, (title, found) in zip(axes[0], flows.items(), strict=True):
        sign = -1 if title.endswith("cost") else 1
        for name, f in found.items():
            colour = "C0" if name.startswith(NATURAL) else "C1"
            first = name in (NATURAL, PLAIN) or name.endswith(str(SCALES[0]))
            axis.plot(f.times, sign * f.values, color=colour, linewidth=1.2, label=name.partition(",")[0] if first else None)
        axis.set(xscale="log", xlabel="t")
        axis.set_title(title, fontsize=9)
        axis.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=130, facecolor="white")


if __name__ == "__main__":
    from scg.papers.cli import paper

    sys.exit(paper(["kakade2001_npg", *sys.argv[1:]]))
