"""Lillicrap et al. (2016): DDPG's gradients, its target networks, and its critic's predictions against the returns.

The gradients are compared exactly on linear-quadratic regulators, the agents learn on three environments with few steps.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from scg.papers.critics import critics, draw_pairs, seen
from scg.papers.figures import panels, save
from scg.papers.learning import Learned, TrainingSettings, by_seed, clearly_more, curve, learn_all
from scg.papers.lillicrap2016_ddpg import exact
from scg.papers.report import Claim, Job, Results, Say, collect, over_seeds

PENDULUM, CART, CHEETAH = "Pendulum-v1", "InvertedPendulum-v5", "HalfCheetah-v5"
TARGETS, NONE = "target networks, τ = 0.005", "no target networks, τ = 1"
VARIANTS: dict[str, dict[str, Any]] = {TARGETS: {}, NONE: {"tau": 1.0}}


@dataclass(frozen=True)
class Settings(TrainingSettings):
    steps: int = field(default=20_000, metadata={"help": "environment steps of each run on the two pendulums"})
    cheetah: int = field(default=100_000, metadata={"help": "environment steps of each run on HalfCheetah-v5"})
    seeds: int = field(default=2, metadata={"help": "runs of each variant on Pendulum-v1"})
    cart_seeds: int = field(default=1, metadata={"help": "the same on InvertedPendulum-v5; 0 leaves it out"})
    cheetah_seeds: int = field(default=3, metadata={"help": "the same on HalfCheetah-v5; 0 leaves it out"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("cart_seeds", "cheetah_seeds"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} {getattr(self, name)}: give 0 or more")
        if min(self.steps, self.cheetah) < 12_000:
            raise ValueError(
                f"--steps {self.steps}, --cheetah {self.cheetah}: the first 10,000 are random; give 12000 or more of both"
            )


def run(settings: Settings, out: Path, say: Say = lambda what, done: None) -> Results:
    """All claims."""
    out.mkdir(parents=True, exist_ok=True)
    lab = Lab(settings)
    jobs: list[Job] = [
        ("the deterministic gradient", exact.theorem),
        ("states of the behaviour", exact.behaviour),
        ("limit of the stochastic one", exact.limit),
        ("variance", exact.variance),
        ("the critic's goal", exact.critic_goal),
        ("target networks, linear critic", partial(exact.targets, out)),
        ("no cure", exact.no_cure),
    ]
    lab.train(say)
    jobs += [(f"{env}: {name}", partial(lab.measured, env, name)) for env, found in lab.runs.items() for name in found]
    jobs += [(f"targets or none, {env}", partial(lab.against, env)) for env in (PENDULUM, CART) if env in lab.runs]
    jobs += [(f"Figure 3, {env}", partial(lab.estimates, env)) for env in lab.runs]
    jobs += [("Figure 3", partial(lab.figure_3, env)) for env in (CHEETAH,) if env in lab.runs]
    results = collect("lillicrap2016_ddpg", settings, jobs, say)
    lab.draw(out)
    say("done", 1.0)
    return results


# -- learned ---------------------------------------------------------------------------------------------------------


class Lab:
    """Every run, by environment and variant; what the critics say is seen along each."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.runs: dict[str, dict[str, list[Learned]]] = {}
        self.wanted = {PENDULUM: (TARGETS, NONE), CART: (TARGETS, NONE), CHEETAH: (TARGETS,)}

    def steps(self, env: str) -> int:
        return self.settings.cheetah if env == CHEETAH else self.settings.steps

    def seeds(self, env: str) -> int:
        return {CART: self.settings.cart_seeds, CHEETAH: self.settings.cheetah_seeds}.get(env, self.settings.seeds)

    def train(self, say: Say) -> None:
        settings = self.settings
        common: dict[str, Any] = {"agent": "ddpg", "episodes": 20, "points": 10, "look": critics}
        runs: dict[tuple[str, str, int], dict[str, Any]] = {}
        for env, names in self.wanted.items():
            for name in names:
                for seed in range(settings.seed, settings.seed + self.seeds(env)):
                    runs[env, name, seed] = {**common, "env": env, "steps": self.steps(env), "seed": seed, **VARIANTS[name]}
        for (env, name, _), learned in learn_all(runs, settings.workers, say, settings.runs, settings.executor).items():
            self.runs.setdefault(env, {}).setdefault(name, []).append(learned)

    def measured(self, env: str, name: str) -> Claim:
        runs = self.runs[env][name]
        text = (
            f"return of fresh episodes at the end {over_seeds([r.final for r in runs])}; mean training return along the run "
            f"{over_seeds([r.along for r in runs])}<br>{statistics.fmean(r.seconds for r in runs):.0f} s a run"
        )
        learned = all(r.final == r.final for r in runs)
        says = (
            "0.903 of a planner’s, in 2.5 million steps of another cheetah (Table 1, from memory)"
            if env == CHEETAH
            else "curves"
        )
        return f"{env}, {self.steps(env):,} steps: {name}", says, text, "measured" if learned else False, by_seed({name: runs})

    def against(self, env: str) -> Claim:
        """Final returns decide."""
        ours, others = self.runs[env][TARGETS], self.runs[env][NONE]
        gaps = [a.final - b.final for a, b in zip(ours, others, strict=True)]
        verdict = clearly_more([r.final for r in ours], [r.final for r in others])
        worse = {name: [c.rms for c in seen(self.runs[env][name])] for name in (TARGETS, NONE)}
        text = (
            f"{over_seeds(gaps)} in return; "
            f"error of the values: {over_seeds(worse[TARGETS])} with, {over_seeds(worse[NONE])} without"
        )
        claim = f"Section 4, Figure 2: learning without target networks is poor in many environments: {env}"
        return claim, "“very poor”, from memory", text, verdict, {"gaps": gaps, "errors": worse}

    def estimates(self, env: str) -> Claim:
        found = seen(self.runs[env][TARGETS])
        text = (
            f"bias {over_seeds([c.last['bias'] for c in found])} of a mean return {over_seeds([c.last['truth'] for c in found])}; "
            f"correlation of estimate and return {over_seeds([c.correlation for c in found])}; root mean square error over that of "
            f"the returns {over_seeds([c.rms for c in found])}"
        )
        numbers = {"critics": [c.numbers() for c in found]}
        return f"Figure 3: estimated values and returns that follow, {env}", "a plot", text, "measured", numbers

    def figure_3(self, hard: str) -> Claim:
        errors = {env: [c.rms for c in seen(found[TARGETS])] for env, found in self.runs.items()}
        pairs = min(len(errors[hard]), len(errors[PENDULUM]))
        verdict = clearly_more(errors[hard][:pairs], errors[PENDULUM][:pairs])
        text = ", ".join(f"{env} {over_seeds(values)}" for env, values in errors.items())
        claim = (
            "Figure 3: on a simple task the estimates are accurate, on a harder one worse: error over the size of the returns"
        )
        return claim, "pendulum, cartpole: on the diagonal; cheetah: not", text, verdict, errors

    def draw(self, out: Path) -> None:
        figure, axes = panels(2, len(self.runs))
        for above, below, (env, runs) in zip(axes[0], axes[1], self.runs.items(), strict=True):
            for name, found in runs.items():
                curve(above, found, name)
            above.set_title(env, fontsize=9)
            above.set_xlabel("environment steps", fontsize=8)
            draw_pairs(below, runs[TARGETS])
            below.set_xlabel("discounted return", fontsize=8)
        axes[0, 0].set_ylabel("training return", fontsize=8)
        axes[1, 0].set_ylabel("estimated value", fontsize=8)
        save(figure, out / "curves.png", axes[0, 0])


if __name__ == "__main__":
    from scg.papers.cli import paper

    sys.exit(paper(["lillicrap2016_ddpg", *sys.argv[1:]]))
