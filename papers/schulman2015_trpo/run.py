"""Schulman et al. (2015): a surrogate that bounds the return from below, and a trust region in the place of the bound.

The theory is checked exactly, on random tabular processes; the algorithm beside natural gradient and dual ascent.
"""

from __future__ import annotations

import itertools
import math
import statistics
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from scg.papers.figures import panels, save
from scg.papers.learning import Learned, TrainingSettings, by_seed, clearly_more, cpu, curve, learn_all
from scg.papers.report import Claim, Job, Results, Say, collect, over_seeds, with_error
from scg.papers.schulman2015_trpo.improvement import BOUND, NOTHING, REGION, Course, Setting, improve, judges
from scg.testing.tabular import Process, divergence, gradient

RIGHT = 1e-9
DELTA = 0.01
ENVIRONMENTS = {"CartPole-v1": 0.5, "Hopper-v5": 1.0}  # share of the steps
SEARCH, FIXED, DUAL = "TRPO, line search", "natural gradient, one step", "TRPO, dual ascent"
AGENTS = {SEARCH: "trpo", FIXED: "npg", DUAL: "trpo-dual"}
SIZES: dict[str, dict[str, dict[str, float]]] = {
    "δ = 0.01, damping 0.1": {name: {} for name in AGENTS},
    "δ = 0.1, damping 0.001": {
        SEARCH: {"kl": 0.1, "damping": 1e-3},
        FIXED: {"kl": 0.1, "damping": 1e-3},
        DUAL: {"kl_target": 0.1, "dual_rate": 5.0},  # a violation of the same share moves the multiplier as far
    },
}
ALLOWED = dict(zip(SIZES, (0.01, 0.1), strict=True))


@dataclass(frozen=True)
class Settings(TrainingSettings):
    steps: int = field(default=30_000, metadata={"help": "environment steps of each run on Hopper-v5; CartPole-v1: half of it"})
    seeds: int = field(default=3, metadata={"help": "runs of each agent on each environment"})
    processes: int = field(default=200, metadata={"help": "random processes for the identities and the bound"})
    iterations: int = field(default=25, metadata={"help": "iterations of exact policy improvement"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 5120:
            raise ValueError(f"--steps {self.steps}: give 5120 or more, or CartPole-v1 has no two updates")
        if self.processes < 10 or self.iterations < 1:
            raise ValueError("--processes is at least 10, --iterations at least 1")


def run(settings: Settings, out: Path, say: Say = lambda what, done: None) -> Results:
    """All claims, in the order of the paper."""
    out.mkdir(parents=True, exist_ok=True)
    lab, courses = Lab(settings), dict[str, list[Course]]()
    jobs: list[Job] = [
        ("performance difference", partial(performance_difference, settings)),
        ("first order", partial(first_order, settings)),
        ("Theorem 1", partial(theorem, settings)),
        ("Algorithm 1", partial(improvement, settings, courses)),
        ("steps of the bound", partial(small_steps, courses)),
    ]
    lab.train(say)
    jobs += [
        (f"{env}: {name}, {size}", partial(lab.measured, env, size, name))
        for env in ENVIRONMENTS
        for size in SIZES
        for name in AGENTS
    ]
    jobs += [("constraint", partial(kept, lab)), ("line search or one step", partial(against, lab, FIXED))]
    jobs += [("line search or dual ascent", partial(against, lab, DUAL))]
    results = collect("schulman2015_trpo", settings, jobs, say)
    draw(lab, out / "curves.png")
    draw_improvement(courses, out / "improvement.png")
    say("done", 1.0)
    return results


# -- exact -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """A process, a policy, and where another one lies."""

    process: Process
    theta: Tensor
    change: Tensor

    @property
    def pi(self) -> Tensor:
        return softmax(self.theta)

    def new(self, length: float = 1.0) -> Tensor:
        return softmax(self.theta + length * self.change)


def softmax(theta: Tensor) -> Tensor:
    return theta.softmax(-1)


def pairs(count: int) -> list[Pair]:
    """2 to 5 states, 2 to 4 actions, discounts from ½ to 0.99."""
    found = []
    for seed in range(count):
        shape, generator = (2 + seed % 4, 2 + seed % 3), Generator().manual_seed(seed)
        theta, change = (torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(2))
        found.append(Pair(Process.random(seed, *shape, gamma=(0.5, 0.9, 0.99)[seed % 3]), 2 * theta, change))
    return found


def performance_difference(settings: Settings) -> Claim:
    gaps, others = [], []
    for pair in pairs(settings.processes):
        process, pi, new = pair.process, pair.pi, pair.new()
        gained = process.objective(new) - process.objective(pi)
        advantage = (new * process.advantage(pi)).sum(-1)
        gaps.append(float((process.visits(new) @ advantage - gained).abs()) * (1 - process.gamma) ** 2)
        others.append(float((process.visits(pi) @ advantage - gained).abs()))
    text = (
        f"largest gap over {len(gaps)} pairs of policies {max(gaps):.0e}; with the old policy's states up to {max(others):.2f}"
    )
    claim = "Equation 1: η(π̃) = η(π) + Σ_s ρ_π̃(s) Σ_a π̃(a|s) A_π(s, a)"
    return claim, "equal", text, max(gaps) < RIGHT and max(others) > 0.1, {"gap": max(gaps), "old states": max(others)}


def first_order(settings: Settings) -> Claim:
    values, slopes, ratios = [], [], []
    for pair in pairs(settings.processes):
        process, pi = pair.process, pair.pi
        scale = (1 - process.gamma) ** 2
        values.append(float((process.local(pi, pi) - process.objective(pi)).abs()) * scale)
        exact = gradient(lambda t: process.objective(softmax(t)), pair.theta)  # noqa: B023
        local = gradient(lambda t: process.local(pi, softmax(t)), pair.theta)  # noqa: B023
        slopes.append(float((local - exact).abs().max()) * scale)
        errors = [abs(float(process.local(pi, pair.new(h)) - process.objective(pair.new(h)))) for h in (2e-3, 1e-3)]
        if process.gamma < 0.99:  # there, rounding is a part of so small an error
            ratios.append(errors[0] / errors[1])
    ratio = statistics.median(ratios)
    text = f"largest gap of the values {max(values):.0e}, of the gradients {max(slopes):.0e}; half the step, 1/{ratio:.3f} of the error"
    claim = "Equation 4: L_π has η's value and gradient at π"
    right = max(*values, *slopes) < RIGHT and abs(ratio - 4) < 0.05
    return claim, "equal", text, right, {"values": max(values), "gradients": max(slopes), "ratio": ratio}


def theorem(settings: Settings) -> Claim:
    least, tightest, without, total = math.inf, 0.0, 0, 0
    for pair in pairs(settings.processes):
        process, pi = pair.process, pair.pi
        for length in (0.01, 0.1, 1.0, 5.0):
            new = pair.new(length)
            slack = float(process.objective(new) - process.minorant(pi, new)) * (1 - process.gamma) ** 2
            short = float(process.local(pi, new) - process.objective(new))
            penalty = float(process.penalty(pi) * divergence(pi, new).max())
            least, tightest = min(least, slack), max(tightest, short / penalty)
            without, total = without + (short > 1e-9), total + 1
    text = (
        f"holds for all {total:,} pairs (least slack {least:.0e}); without the penalty it fails for {100 * without / total:.0f} %; "
        f"of the penalty at most {tightest:.3f} was needed"
    )
    claim = "Theorem 1, equation 9: η(π̃) ≥ L_π(π̃) − C max KL, C = 4εγ/(1−γ)²"
    numbers = {"least": least, "tightest": tightest, "fails without": without / total}
    return claim, "holds", text, least > -RIGHT and tightest <= 1 and without > 0, numbers


def improvement(settings: Settings, courses: dict[str, list[Course]]) -> Claim:
    chosen = range(max(10, settings.processes // 10))
    for name, judge in judges(DELTA).items():
        courses[name] = [improve(Setting.random(seed), judge, settings.iterations) for seed in chosen]
    lines, numbers = [], dict[str, Any]()
    for name, found in courses.items():
        falls, deepest = sum(c.falls for c in found), max(c.deepest for c in found)
        total = len(found) * settings.iterations
        lines.append(f"{name}: falls in {falls} of {total} iterations" + (f", by up to {deepest:.2g}" if falls else ""))
        numbers[name] = {"falls": falls, "deepest": deepest, "iterations": total}
    claim = "Algorithm 1: maximising the bound never lowers η; L alone promises nothing (6 states, 2 features)"
    right = numbers[BOUND]["falls"] == 0 and numbers[NOTHING]["falls"] > 0
    return claim, "monotone", "<br>".join(lines), right, numbers


def small_steps(courses: dict[str, list[Course]]) -> Claim:
    gained = {name: [c.returns[-1] - c.returns[0] for c in found] for name, found in courses.items()}
    kl = {name: statistics.median([k for c in found for k in c.kl[:1]]) for name, found in courses.items()}
    text = "<br>".join(
        f"{name}: first step's KL {kl[name]:.1e} (median), η gains {over_seeds(gained[name])}" for name in courses
    )
    claim = f"Section 4: with the C of the theory steps would be very small; a constraint takes larger ones (δ = {DELTA:g})"
    right = kl[BOUND] < kl[REGION] / 10 and clearly_more(gained[REGION], gained[BOUND]) is True
    return claim, "very small", text, right, {"kl": kl, "gained": gained}


# -- learned ---------------------------------------------------------------------------------------------------------


class Lab:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.runs: dict[tuple[str, str], dict[str, list[Learned]]] = {(env, size): {} for env in ENVIRONMENTS for size in SIZES}

    def train(self, say: Say) -> None:
        settings = self.settings
        wanted: dict[tuple[str, str, str, int], dict[str, Any]] = {}
        for (env, size), name in itertools.product(self.runs, AGENTS):
            steps = int(settings.steps * ENVIRONMENTS[env])
            for seed in range(settings.seed, settings.seed + settings.seeds):
                wanted[env, size, name, seed] = {
                    "agent": AGENTS[name],
                    "env": env,
                    "steps": steps,
                    "seed": seed,
                    **SIZES[size][name],
                }
        for (env, size, name, _), learned in learn_all(wanted, settings.workers, say, settings.runs, settings.executor).items():
            self.runs[env, size].setdefault(name, []).append(learned)

    def measured(self, env: str, size: str, name: str) -> Claim:
        steps, runs = int(self.settings.steps * ENVIRONMENTS[env]), self.runs[env, size][name]
        kl = [k for r in runs for k in r.kl]
        over = sum(k > ALLOWED[size] for k in kl) / len(kl)
        text = (
            f"training return at the end {over_seeds([r.last for r in runs])}, along the run {over_seeds([r.along for r in runs])}; "
            f"fresh episodes, most probable actions {over_seeds([r.final for r in runs])}"
            f"<br>KL of an update: median {statistics.median(kl):.4f}, largest {max(kl):.3f}, above δ {100 * over:.0f} %; {cpu(runs)}"
        )
        learned = all(r.last == r.last for r in runs)
        numbers = {**by_seed({name: runs}), "kl": {"median": statistics.median(kl), "largest": max(kl), "above": over}}
        return f"{env}, {steps:,} steps, {size}: {name}", "curves", text, "measured" if learned else False, numbers


def kept(lab: Lab) -> Claim:
    """The line search accepts nothing beyond δ."""
    lines, largest, above = [], 0.0, dict[str, float]()
    for name in AGENTS:
        shares = []
        for (_, size), runs in lab.runs.items():
            kl = [k / ALLOWED[size] for r in runs[name] for k in r.kl]
            shares += kl
            if name == SEARCH:
                largest = max(largest, *kl)
        above[name] = sum(k > 1 for k in shares) / len(shares)
        lines.append(f"{name}: {100 * above[name]:.0f} % of updates above δ, the largest {max(shares):.2f} δ")
    claim = "Appendix C: the line search holds the constraint on the mean KL; one step of the quadratic model need not"
    right = largest <= 1 and above[FIXED] > 0
    return claim, "holds", "<br>".join(lines), right, {"above": above}


def against(lab: Lab, other: str) -> Claim:
    """By size and environment, paired by seed; together as shares of the better one's return."""
    lines, together, numbers = [], list[tuple[float, float]](), dict[str, Any]()
    for (env, size), runs in lab.runs.items():
        ours, theirs = ([r.along for r in runs[name]] for name in (SEARCH, other))
        scale = max(abs(r) for r in (*ours, *theirs))
        together += [(a / scale, b / scale) for a, b in zip(ours, theirs, strict=True)]
        gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
        lines.append(f"{env}, {size}: " + ("the same runs" if not any(gaps) else over_seeds(gaps)))
        numbers[f"{env}, {size}"] = gaps
    one, two = zip(*together, strict=True)
    gap = [a - b for a, b in together]
    error = statistics.stdev(gap) / len(gap) ** 0.5
    text = "return along the run, line search less the other:<br>" + "<br>".join(lines)
    text += f"<br>all, as shares of the best run: {with_error(statistics.fmean(gap), error)}"
    verdict = clearly_more(one, two)
    claim = f"Section 8.1: constraining the KL is a more robust way to choose step sizes: line search beside {other}"
    return claim, "better on the harder tasks", text, verdict, numbers


def draw(lab: Lab, path: Path) -> None:
    figure, axes = panels(1, len(lab.runs))
    for axis, ((env, size), runs) in zip(axes[0], lab.runs.items(), strict=True):
        for name, found in runs.items():
            curve(axis, found, name)
        axis.set_title(f"{env}, {size}", fontsize=9)
        axis.set_xlabel("environment steps", fontsize=8)
    save(figure, path, axes[0, 0])


def draw_improvement(courses: dict[str, list[Course]], path: Path) -> None:
    """The process on which L alone falls deepest."""
    worst = max(range(len(courses[NOTHING])), key=lambda i: courses[NOTHING][i].deepest)
    figure, axes = panels(1, 1, (4.4, 2.8))
    for name, found in courses.items():
        axes[0, 0].plot(found[worst].returns, label=name, linewidth=1.2)
    axes[0, 0].set_xlabel("iteration", fontsize=8)
    axes[0, 0].set_title("exact return", fontsize=9)
    save(figure, path, axes[0, 0])


if __name__ == "__main__":
    from scg.papers.cli import paper

    sys.exit(paper(["schulman2015_trpo", *sys.argv[1:]]))
