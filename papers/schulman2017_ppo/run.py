"""Schulman et al. (2017): what holds the policy near, a clip, a penalty on the KL, or nothing.

The surrogates are compared exactly on a tabular process, the agents on MuJoCo with few steps and seeds.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from scg.agents.environments import envs
from scg.agents.ppo import PPO
from scg.agents.training.evaluation import evaluate
from scg.estimators import Clipped
from scg.papers.figures import panels, save
from scg.papers.learning import CONTRARY, Learned, TrainingSettings, by_seed, clearly_more, cpu, curve, learn_all
from scg.papers.report import Claim, Job, Results, Say, collect, number, over_seeds, with_error
from scg.testing.tabular import Process, divergence, gradient, policy_gradient

EPSILON = 0.2
ENVIRONMENTS = ("Hopper-v5", "HalfCheetah-v5")
NEITHER, CLIP, ADAPTIVE, FIXED = "no clipping or penalty", "clipping, ε = 0.2", "adaptive KL, target 0.01", "fixed KL, β = 1"
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    NEITHER: ("ppo", {"clip": 0.0}),
    CLIP: ("ppo", {"clip": EPSILON}),
    ADAPTIVE: ("ppo", {"clip": 0.0, "kl_penalty": 1.0, "kl_target": 0.01}),
    FIXED: ("trpo-dual", {"kl_penalty": 1.0, "dual_rate": 0.0}),  # a multiplier that never moves
}
TABLE_1 = {NEITHER: -0.39, CLIP: 0.82, ADAPTIVE: 0.74, FIXED: 0.71}


@dataclass(frozen=True)
class Settings(TrainingSettings):
    steps: int = field(default=40_000, metadata={"help": "environment steps of each run"})
    seeds: int = field(default=3, metadata={"help": "runs of each variant on each environment"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 8192:
            raise ValueError(f"--steps {self.steps}: HalfCheetah-v5's first episodes end after 8,000 steps; give 8192 or more")


def run(settings: Settings, out: Path, say: Say = lambda what, done: None) -> Results:
    """All claims."""
    out.mkdir(parents=True, exist_ok=True)
    lab = Lab(settings)
    jobs: list[Job] = [("the surrogates", partial(surrogates, out)), ("first step", first_step)]
    lab.train(say)
    jobs += [(f"{env}: {name}", partial(lab.measured, env, name)) for env in ENVIRONMENTS for name in VARIANTS]
    claims: list[Job] = [
        ("Table 1", partial(table_1, lab)),
        ("clip or nothing", partial(against, lab, CLIP, NEITHER)),
        ("penalty or nothing", partial(against, lab, ADAPTIVE, NEITHER)),
        ("clip or adaptive", partial(against, lab, CLIP, ADAPTIVE)),
        ("clip or fixed", partial(against, lab, CLIP, FIXED)),
    ]
    results = collect("schulman2017_ppo", settings, [*jobs, *claims], say)
    results.sections["returns"] = lab.table()
    draw(lab, out / "curves.png")
    say("done", 1.0)
    return results


# -- exact -----------------------------------------------------------------------------------------------------------


def case() -> tuple[Process, Tensor]:
    return Process.random(2, 4, 3, gamma=0.9), torch.randn(4, 3, generator=Generator().manual_seed(2), dtype=torch.float64)


def objectives(process: Process, old: Tensor, new: Tensor) -> dict[str, Tensor]:
    """E[r A], E[min(r A, clip(r) A)], E[KL]: exact means over the states and actions of the old policy."""
    visits = (1 - process.gamma) * process.visits(old)
    ratio, cost = new / old, -process.advantage(old)
    clipped = -Clipped(EPSILON).combine(ratio, cost)
    mass = visits.unsqueeze(-1) * old
    return {
        "conservative": -(mass * ratio * cost).sum(),
        "clipped": (mass * clipped).sum(),
        "KL": visits @ divergence(old, new),
    }


def surrogates(out: Path) -> Claim:
    """Along the direction of the gradient, and at random policies: L^CLIP nowhere above L^CPI."""
    process, theta = case()
    old = theta.softmax(-1)
    direction = policy_gradient(process, lambda t: t.softmax(-1), theta)
    lengths = torch.linspace(0, 3, 61, dtype=torch.float64)
    along = [objectives(process, old, (theta + h * direction).softmax(-1)) for h in lengths]
    lines = {name: [float(point[name]) for point in along] for name in along[0]}
    g = Generator().manual_seed(0)
    gaps = []
    for _ in range(1000):
        found = objectives(process, old, (theta + torch.randn(4, 3, generator=g, dtype=torch.float64)).softmax(-1))
        gaps.append(float(found["conservative"] - found["clipped"]))
    peak = max(range(61), key=lines["clipped"].__getitem__)
    figure, axes = panels(1, 1, (4.4, 2.8))
    for name, values in lines.items():
        axes[0, 0].plot(
            lengths, values, label={"conservative": "E[r A]", "clipped": "E[min(r A, clip(r) A)]"}.get(name, "E[KL]")
        )
    axes[0, 0].set_xlabel("step along the gradient", fontsize=8)
    save(figure, out / "surrogates.png", axes[0, 0])
    inside = 0 < peak < 60
    below = min(min(gaps), *(a - b for a, b in zip(lines["conservative"], lines["clipped"], strict=True)))
    text = (
        f"least L^CPI − L^CLIP over 61 points and 1,000 random policies: {below:.0e}; along the gradient L^CLIP is greatest at "
        f"E[KL] = {lines['KL'][peak]:.3f}"
        + (", L^CPI grows on" if lines["conservative"][-1] > lines["conservative"][peak] else "")
    )
    claim = "Section 3, Figure 2: L^CLIP is a lower bound of L^CPI, and penalises an update that is too large"
    right = below >= -1e-12 and inside and lines["conservative"][-1] > lines["conservative"][peak]
    return claim, "greatest at a KL of about 0.02 (Hopper-v1)", text, right, {**lines, "least gap": below}


def first_step() -> Claim:
    """At r = 1 all objectives have the policy gradient."""
    process, theta = case()
    old = theta.softmax(-1)
    exact = (1 - process.gamma) * policy_gradient(process, lambda t: t.softmax(-1), theta)
    gaps = {}
    for name in ("conservative", "clipped"):
        found = gradient(lambda t, name=name: objectives(process, old, t.softmax(-1))[name], theta)  # type: ignore[misc]
        gaps[name] = float((found - exact).abs().max())
    gaps["KL"] = float(gradient(lambda t: objectives(process, old, t.softmax(-1))["KL"], theta).abs().max())
    text = "gap to the policy gradient: " + ", ".join(f"{name} {gap:.0e}" for name, gap in gaps.items() if name != "KL")
    text += f"; gradient of the KL {gaps['KL']:.0e}"
    claim = "Section 3: L^CLIP = L^CPI to first order at the old policy, where the penalty's gradient is 0"
    return claim, "equal", text, max(gaps.values()) < 1e-12, gaps


# -- learned ---------------------------------------------------------------------------------------------------------


class Lab:
    """Every run, and scores as in Table 1: 0 is a fresh policy's return, 1 the best run's, on each environment."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.runs: dict[str, dict[str, list[Learned]]] = {env: {} for env in ENVIRONMENTS}
        self.fresh: dict[str, float] = {}

    def train(self, say: Say) -> None:
        settings = self.settings
        seeds = range(settings.seed, settings.seed + settings.seeds)
        wanted: dict[tuple[str, str, int], dict[str, Any]] = {}
        for env in ENVIRONMENTS:
            for name, (agent, options) in VARIANTS.items():
                for seed in seeds:
                    wanted[env, name, seed] = {"agent": agent, "env": env, "steps": settings.steps, "seed": seed, **options}
            self.fresh[env] = statistics.fmean(untrained(env, seed) for seed in seeds)
        for (env, name, _), learned in learn_all(wanted, settings.workers, say, settings.runs, settings.executor).items():
            self.runs[env].setdefault(name, []).append(learned)

    def measured(self, env: str, name: str) -> Claim:
        runs = self.runs[env][name]
        kl = [k for r in runs for k in r.kl]
        text = (
            f"training return at the end {over_seeds([r.last for r in runs])}; fresh episodes, most probable actions "
            f"{over_seeds([r.final for r in runs])}<br>KL of an update: median {statistics.median(kl):.4f}, largest {max(kl):.3f}; {cpu(runs)}"
        )
        learned = all(r.last == r.last for r in runs)
        numbers = {
            **by_seed({name: runs}),
            "kl": {"median": statistics.median(kl), "largest": max(kl)},
            "fresh": self.fresh[env],
        }
        return f"{env}, {self.settings.steps:,} steps: {name}", "curves", text, "measured" if learned else False, numbers

    def scores(self, name: str) -> list[float]:
        """Of every run, by environment and seed."""
        found = []
        for env, runs in self.runs.items():
            best = max(r.last for of in runs.values() for r in of)
            found += [(r.last - self.fresh[env]) / (best - self.fresh[env]) for r in runs[name]]
        return found

    def table(self) -> str:
        lines = ["| | " + " | ".join(ENVIRONMENTS) + " | score | Table 1 |", "|---" * (len(ENVIRONMENTS) + 3) + "|"]
        for name in VARIANTS:
            cells = [over_seeds([r.last for r in self.runs[env][name]]) for env in ENVIRONMENTS]
            lines.append(f"| {name} | {' | '.join(cells)} | {over_seeds(self.scores(name))} | {number(TABLE_1[name], 2)} |")
        fresh = [number(self.fresh[env], 0) for env in ENVIRONMENTS]
        return "\n".join([*lines, f"| a fresh policy | {' | '.join(fresh)} | 0 | 0 |"])


def untrained(env: str, seed: int) -> float:
    """Return of the initial policy, whose actions are sampled."""
    with envs.make(env, 1) as vector:
        agent = PPO().build(vector.obs_space, vector.action_space, Generator().manual_seed(seed))
    return evaluate(agent.policy, env, 10, seed, 0, "sample").mean


def table_1(lab: Lab) -> Claim:
    scores = {name: lab.scores(name) for name in VARIANTS}
    text = "<br>".join(f"{name}: {over_seeds(values)}" for name, values in scores.items())
    paper = "<br>".join(f"{name}: {number(value, 2)}" for name, value in TABLE_1.items())
    claim = "Table 1: scores, 0 a fresh policy and 1 the best run, over environments and seeds; all three beat neither"
    best = max(scores, key=lambda name: statistics.fmean(scores[name]))
    right = statistics.fmean(scores[NEITHER]) < min(statistics.fmean(scores[name]) for name in (CLIP, ADAPTIVE, FIXED))
    return claim, paper, text, right or CONTRARY, {"scores": scores, "best": best}


def against(lab: Lab, one: str, other: str) -> Claim:
    pairs = list(zip(lab.scores(one), lab.scores(other), strict=True))
    gaps = [a - b for a, b in pairs]
    error = statistics.stdev(gaps) / len(gaps) ** 0.5
    verdict = clearly_more(*zip(*pairs, strict=True))
    text = f"{with_error(statistics.fmean(gaps), error)} in score, over {len(gaps)} pairs of runs"
    gap = TABLE_1[one] - TABLE_1[other]
    claim = f"Table 1: {one} scores more than {other}"
    return (
        claim,
        f"by {number(gap, 2)}",
        text,
        verdict,
        {"gaps": gaps, "error": error},
    )


def draw(lab: Lab, path: Path) -> None:
    figure, axes = panels(1, len(ENVIRONMENTS))
    for axis, (env, runs) in zip(axes[0], lab.runs.items(), strict=True):
        for name, found in runs.items():
            curve(axis, found, name)
        axis.set_title(env, fontsize=9)
        axis.set_xlabel("environment steps", fontsize=8)
    save(figure, path, axes[0, 0])


if __name__ == "__main__":
    from scg.papers.cli import paper

    sys.exit(paper(["schulman2017_ppo", *sys.argv[1:]]))
