"""Mania et al. (2018): random search with scaled steps and the best directions alone, exactly, and linear policies on Swimmer.

Steps are held against the paper's formula; a regulator's gradient against its solution; the runs are of ARS and of agents with gradients.
"""

from __future__ import annotations

import math
import statistics
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from scg.agents.search import credits
from scg.agents.search.distributions import DiagonalGaussian
from scg.agents.search.perturbations import Perturbations
from scg.agents.search.specification import search_graph, surrogate
from scg.papers.figures import panels, save
from scg.papers.learning import Learned, TrainingSettings, by_seed, cpu, learn_all
from scg.papers.mania2018_ars.regulator import BEST, START, cost, gradient
from scg.papers.report import Claim, Job, Results, Say, collect, number, over_seeds

SWIMMER, THRESHOLD = "Swimmer-v5", 325.0
V1, V2, TRPO, PPO = "ARS V1", "ARS V2", "TRPO", "PPO"
RUNS: dict[str, dict[str, Any]] = {
    V1: {"agent": "ars", "normalise_obs": False},
    V2: {"agent": "ars", "normalise_obs": True},
    TRPO: {"agent": "trpo"},
    PPO: {"agent": "ppo"},
}
PUBLISHED = {V1: "100 episodes to 325 (Table 1, from memory)", V2: "427 episodes to 325 (Table 1, from memory)"}
FAR = 4.5


@dataclass(frozen=True)
class Settings(TrainingSettings):
    draws: int = field(default=40_000, metadata={"help": "directions for the regulator's gradient"})
    steps: int = field(default=300_000, metadata={"help": "environment steps of each run on Swimmer-v5; 0 leaves the runs out"})
    seeds: int = field(default=3, metadata={"help": "runs of ARS V1 and V2"})
    gradient_seeds: int = field(default=2, metadata={"help": "runs of TRPO and of PPO"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("draws", 100), ("steps", 0), ("gradient_seeds", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} {getattr(self, name)}: give at least {least}")


def run(settings: Settings, out: Path, say: Say = lambda what, done: None) -> Results:
    """All claims."""
    out.mkdir(parents=True, exist_ok=True)
    jobs: list[Job] = [
        ("the step", the_step),
        ("scale of the returns", scales),
        ("the regulator's gradient", partial(slope, settings)),
        ("the regulator", partial(regulator, settings)),
    ]
    runs = trained(settings, say) if settings.steps else {}
    jobs += [(name, partial(measured, name, found, settings)) for name, found in runs.items()]
    if runs:
        jobs.append(("Swimmer by search or by gradient", partial(against, runs)))
        draw(runs, out / "swimmer.png")
    results = collect("mania2018_ars", settings, jobs, say)
    say("done", 1.0)
    return results


# -- the step --------------------------------------------------------------------------------------------------------


def stepped(utility: Tensor, noise: Tensor, best: int, rate: float, scale: float) -> Tensor:
    """What `ars` does to a mean of 0: the graph's gradient times 2 · rate · scale."""
    distribution = DiagonalGaussian(torch.zeros(noise.shape[1]), scale, learn_scale=False)
    graph = search_graph(distribution, "best_directions")
    weight = credits.directions(utility, best)
    surrogate(graph, "best_directions", distribution.members(noise), utility, weight).backward()
    assert distribution.mean.grad is not None
    return -2 * rate * scale * distribution.mean.grad


def formula(utility: Tensor, noise: Tensor, best: int, rate: float, spread: bool = True) -> Tensor:
    """Algorithm 2's: rate / (b σ_R) Σ over the b best directions of (r₊ − r₋) δ; with σ_R = 1, and all of them, Algorithm 1's."""
    plus, minus, delta = utility[0::2], utility[1::2], noise[0::2]
    top = torch.maximum(plus, minus).argsort(descending=True, stable=True)[:best]
    size = torch.cat([plus[top], minus[top]]).std(correction=0) if spread else torch.ones(())
    return rate / (best * size) * ((plus - minus)[top, None] * delta[top]).sum(0)


def cases(count: int = 20) -> list[tuple[Tensor, Tensor]]:
    found = []
    for seed in range(count):
        noise = Perturbations(seed, 5, mirrored=True).rows(0, range(16))
        found.append((torch.randn(16, generator=Generator().manual_seed(seed), dtype=torch.float64).exp(), noise))
    return found


def the_step() -> Claim:
    gaps = [float((stepped(u, n, 3, 0.02, 0.03) - formula(u, n, 3, 0.02)).abs().max()) for u, n in cases()]
    text = f"largest gap of the agent’s step, a score-function surrogate’s gradient, to the formula, over {len(gaps)} generations: {max(gaps):.0e}"
    return (
        "Algorithm 2: the update, with the b best directions and the returns’ standard deviation",
        "equal",
        text,
        max(gaps) < 1e-12,
        {"gaps": gaps},
    )


def scales() -> Claim:
    """Returns times 1000, plus 50."""
    ours = [float((stepped(1000 * u + 50, n, 3, 0.02, 0.03) - stepped(u, n, 3, 0.02, 0.03)).norm()) for u, n in cases()]
    basic = [float(formula(1000 * u + 50, n, 8, 0.02, False).norm() / formula(u, n, 8, 0.02, False).norm()) for u, n in cases()]
    text = f"returns times 1000 plus 50: ARS’s step changes by at most {max(ours):.0e}; basic random search’s is {statistics.median(basic):.0f} times as long"
    claim = "Section 3.1: dividing by the returns’ standard deviation makes the step free of their scale, which basic random search’s is not"
    return claim, "scale", text, max(ours) < 1e-9 and min(basic) > 999, {"ARS": max(ours), "basic": basic[:5]}


# -- the regulator ---------------------------------------------------------------------------------------------------


def slope(settings: Settings) -> Claim:
    """Central differences along directions, whose mean is the gradient up to O(ν²); and its dependence on ν."""
    exact, worst, lines, numbers = gradient(START), 0.0, [], dict[str, Any]()
    count = settings.draws // 2
    for scale in (0.02, 0.005):
        delta = np.random.default_rng(settings.seed).standard_normal((count, *START.shape))
        difference = (cost(START + scale * delta) - cost(START - scale * delta)) / (2 * scale)
        each = difference[:, None, None] * delta
        off = each.mean(0) - exact
        z = np.abs(off) / (each.std(0) / count**0.5)
        worst = max(worst, float(z.max())) if scale == 0.005 else worst
        lines.append(
            f"ν = {scale:g}: relative gap {np.linalg.norm(off) / np.linalg.norm(exact):.1e}, at most {z.max():.1f} standard errors"
        )
        numbers[str(scale)] = {"z": z.max(), "gap": float(np.linalg.norm(off))}
    text = f"{count:,} directions: {'; '.join(lines)}"
    claim = "Section 3: a difference along a random direction, times the direction, is an estimate of the gradient; the regulator of Dean et al. (2017)"
    return claim, "equal as ν → 0", text, worst < FAR, numbers


def searched(seed: int, scale: float, generations: int = 300) -> float:
    """Cost over the best − 1 that 16 members a generation reach; members that are not stable have failed. The step is the
    formula's, which `the_step` holds to be the agent's."""
    unit, gain = Perturbations(seed, START.size, mirrored=True), START.copy()
    for generation in range(generations):
        noise = unit.rows(generation, range(16))
        values = torch.from_numpy(cost(gain + scale * noise.numpy().reshape(-1, *START.shape)))
        used = torch.isfinite(values).view(-1, 2).all(-1).repeat_interleave(2)
        rate = 0.01 * (1 - generation / generations)
        gain = gain + formula(-values[used], noise[used], int(used.sum()) // 2, rate).numpy().reshape(START.shape)
    return float(cost(gain)) / BEST - 1


def regulator(settings: Settings) -> Claim:
    """The infinite-horizon cost without noise in the evaluation, so that the search alone is judged."""
    seeds = range(settings.seed, settings.seed + settings.seeds)
    found = {scale: [searched(seed, scale) for seed in seeds] for scale in (0.02, 0.005)}
    text = (
        f"300 generations of 16 members, cost over the best − 1: {number(float(cost(START)) / BEST - 1, 2)} at first; at the end "
        + "; ".join(f"ν = {scale:g}: {', '.join(f'{v:.2g}' for v in last)} (seeds)" for scale, last in found.items())
        + ". The best gain is near the edge of stability, which a wide ν keeps away from"
    )
    claim = "Section 4.4: random search finds nearly the best linear controller of the regulator"
    paper = "finds it, with far more samples than a model-based method"
    return claim, paper, text, max(found[0.005]) < 0.05, {str(scale): last for scale, last in found.items()}


# -- Swimmer ---------------------------------------------------------------------------------------------------------


def trained(settings: Settings, say: Say) -> dict[str, list[Learned]]:
    common: dict[str, Any] = {"env": SWIMMER, "steps": settings.steps, "episodes": 5, "points": 10}
    wanted = {
        (name, seed): {**common, **options, "seed": seed}
        for name, options in RUNS.items()
        for seed in range(settings.seed, settings.seed + (settings.seeds if name in PUBLISHED else settings.gradient_seeds))
    }
    found: dict[str, list[Learned]] = {}
    for (name, _), learned in learn_all(wanted, settings.workers, say, settings.runs).items():
        found.setdefault(name, []).append(learned)
    return found


def reached(run: Learned) -> float:
    """Environment steps at the first evaluation of THRESHOLD or more; ∞ without one."""
    return next((step for step, value in run.evaluations if value >= THRESHOLD), math.inf)


def measured(name: str, runs: list[Learned], settings: Settings) -> Claim:
    when = ["no" if math.isinf(s) else f"{s / 1000:.0f} episodes" for s in map(reached, runs)]
    text = (
        f"return {', '.join(f'{r.final:.0f}' for r in runs)} (seeds); 325 at an evaluation after {', '.join(when)}; {cpu(runs)}"
    )
    claim = f"Swimmer-v5, {settings.steps:,} steps: {name}"
    return (
        claim,
        PUBLISHED.get(name, "no number"),
        text,
        "measured",
        {**by_seed({name: runs}), "evaluations": [r.evaluations for r in runs]},
    )


def against(runs: dict[str, list[Learned]]) -> Claim:
    ours = max((runs[V1], runs[V2]), key=lambda found: statistics.fmean(r.final for r in found))
    best = max(r.final for name in (TRPO, PPO) for r in runs[name])
    text = f"the better version of ARS {over_seeds([r.final for r in ours])}; the best run with gradients {best:.0f}"
    claim = "Table 1: on Swimmer linear policies by random search do better than networks by policy gradients"
    right = min(r.final for r in ours) > best
    return claim, "TRPO: 364 in the long run; threshold 325", text, right, {"gradients": best, "ARS": [r.final for r in ours]}


def draw(runs: dict[str, list[Learned]], path: Path) -> None:
    figure, axes = panels(1, 1, (4.8, 3.0))
    for i, (name, found) in enumerate(runs.items()):
        for j, run in enumerate(found):
            points = np.array(run.evaluations)
            axes[0, 0].plot(points[:, 0] / 1000, points[:, 1], color=f"C{i}", linewidth=1.0, label=None if j else name)
    axes[0, 0].axhline(THRESHOLD, color="0.7", linewidth=0.8)
    axes[0, 0].set(xlabel="thousands of environment steps (episodes)", ylabel="return of fresh episodes")
    save(figure, path, axes[0, 0])


if __name__ == "__main__":
    from scg.papers.cli import paper

    sys.exit(paper(["mania2018_ars", *sys.argv[1:]]))
