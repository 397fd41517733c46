"""Ng & Jordan (2000): fixed random numbers make a policy's value a function: search on scenarios, gradients by differences, a helicopter.

The gridworld's values are exact; gradients are held against quadrature; the helicopter is this project's own.
"""

from __future__ import annotations

import math
import statistics
import sys
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from scg.papers.learning import Learned, TrainingSettings, clearly_more, learn_all
from scg.papers.ng2000_pegasus import gradients, gridworld, hover
from scg.papers.ng2000_pegasus.gridworld import PLAIN, POLICIES, SCRAMBLED, WORST
from scg.papers.report import Claim, Estimate, Job, Results, Row, Say, collect, number, over_seeds, updated

SCENARIOS = (1, 3, 10)
THETA = 0.5
STEPS_H = (0.02, 0.01, 0.005)
OWN_H = 0.02  # the helicopter's agent's
CONFIDENT = 0.05  # δ of the bound
GRID_STEPS = (0.1, 0.01, 0.001)
VARIANCE = "The helicopter’s finite-difference gradient, two winds a member: fresh winds for every member, or the same for all"


@dataclass(frozen=True)
class Settings(TrainingSettings):
    trials: int = field(default=4, metadata={"help": "sets of scenarios that the gridworld's policies are judged on"})
    gradients: int = field(default=12, metadata={"help": "gradients of the helicopter for each variance"})
    steps: int = field(default=1_200_000, metadata={"help": "environment steps of each helicopter run; 0 leaves the runs out"})
    helicopter_seeds: int = field(default=1, metadata={"help": "runs of each method; one pair decides nothing"})
    only: str = field(
        default="",
        metadata={
            "help": "methods of the helicopter (separated by semicolons) to train again; the controllers of the others, and the other rows, are "
            "those of the results in --out; all of them fly again",
            "told": False,
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [name for name in self.chosen if name not in hover.METHODS]:
            raise ValueError(f"--only {self.only}: there is no method {unknown[0]!r}, but {'; '.join(hover.METHODS)}")
        for name, least in (("trials", 2), ("gradients", 2), ("steps", 0), ("helicopter_seeds", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} {getattr(self, name)}: give at least {least}")

    @property
    def chosen(self) -> list[str]:
        """The methods to train."""
        return [name.strip() for name in self.only.split(";")] if self.only else list(hover.METHODS)


def run(settings: Settings, out: Path, say: Say = lambda what, done: None) -> Results:
    """All claims."""
    out.mkdir(parents=True, exist_ok=True)
    grid, ratios = Gridworld(settings), dict[float, dict[str, float]]()
    jobs: list[Job] = [
        ("the same process", same_process),
        ("uniform convergence", grid.uniform),
        ("the policy that is found", partial(grid.found, PLAIN, "plain")),
        ("a model that is not simple", partial(grid.found, SCRAMBLED, "scrambled")),
        ("variance, exactly", partial(exact_variance, settings)),
        ("variance, helicopter", partial(helicopter_variance, settings, ratios)),
    ]
    before: dict[str, Row] = {}
    if settings.only:
        jobs, before = [], {row.claim: row for row in updated(out, [])}
        ratios.update({float(h): found for h, found in before[VARIANCE].numbers.items()})
    runs = trained(settings, say, before) if settings.steps else {}
    jobs += [(name, partial(flown, name, found, settings)) for name, found in runs.items()]
    if runs:
        jobs += [("three methods hover", partial(three, runs)), ("fresh or fixed", partial(fresh_or_fixed, runs))]
    results = collect("ng2000_pegasus", settings, jobs, say)
    if settings.only:
        results.rows = updated(out, results.rows)
    hover.draw(runs, ratios, out / "hover.png")
    say("done", 1.0)
    return results


# -- the gridworld ---------------------------------------------------------------------------------------------------


def same_process() -> Claim:
    exact = gridworld.transition()
    gaps = {
        name: float(abs(gridworld.law(shift) - exact).max()) for name, shift in (("plain", PLAIN), ("scrambled", SCRAMBLED))
    }
    text = f"largest gap of a transition probability: plain {gaps['plain']:.0e}, scrambled {gaps['scrambled']:.0e}"
    claim = "Section 3: a deterministic process whose state holds its random numbers has the law of the process, whichever model g makes it"
    return claim, "equal", text, max(gaps.values()) < 1e-12, gaps


class Gridworld:
    """The values of all policies, and what scenarios make of them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.exact: np.ndarray = np.zeros(0)
        self.judged: dict[tuple[int, bool], list[np.ndarray]] = {}

    def values(self) -> np.ndarray:
        if not len(self.exact):
            self.exact = gridworld.exact()
        return self.exact

    def trials(self, count: int, shift: np.ndarray) -> list[np.ndarray]:
        seeds, key = range(self.settings.seed, self.settings.seed + self.settings.trials), (count, shift is PLAIN)
        if key not in self.judged:
            self.judged[key] = [gridworld.on_scenarios(count, seed, shift) for seed in seeds]
        return self.judged[key]

    def uniform(self) -> Claim:
        """Theorem 1: with probability 1 − δ, sup |V̂ − V| ≤ range · √(log(2 |Π| / δ) / 2m)."""
        exact = self.values()
        bound = {m: WORST * math.sqrt(math.log(2 * POLICIES / CONFIDENT) / (2 * m)) for m in SCENARIOS}
        errors = {m: [float(abs(v - exact).max()) for v in self.trials(m, PLAIN)] for m in SCENARIOS}
        means = {m: statistics.fmean(found) for m, found in errors.items()}
        slope = float(np.polyfit(np.log(SCENARIOS), np.log(list(means.values())), 1)[0])
        kept = all(max(errors[m]) <= bound[m] for m in SCENARIOS)
        text = (
            "greatest error of any policy’s value, mean over the trials, and the bound for a finite Π (δ = 0.05): "
            + ", ".join(f"m = {m}: {means[m]:.1f} ({bound[m]:.0f})" for m in SCENARIOS)
            + f"; falls as m^{number(slope, 2)}"
        )
        claim = f"Theorem 1: V̂ on m scenarios converges to V uniformly over the policies, all {POLICIES:,} of them on the same scenarios"
        numbers = {
            "errors": {str(m): e for m, e in errors.items()},
            "bound": {str(m): b for m, b in bound.items()},
            "slope": slope,
        }
        return claim, "m = poly(log |Π|, 1/ε, log 1/δ, 1/(1 − γ))", text, kept and slope < -0.3, numbers

    def found(self, shift: np.ndarray, name: str) -> Claim:
        """The value of the policy that is best on the scenarios."""
        exact = self.values()
        values = {m: [float(exact[v.argmax()]) for v in self.trials(m, shift)] for m in SCENARIOS}
        text = ", ".join(f"m = {m}: {over_seeds(found)}" for m, found in values.items())
        text = (
            f"true value of the best policy on m scenarios, {name} model: {text}; best of all {number(float(exact.max()), 2)}"
        )
        claim = f"Figure 1: the policy that is best on few scenarios is nearly the best, {name} model"
        ours = statistics.fmean(values[SCENARIOS[-1]])
        right: bool | str = ours > exact.max() - 1.0
        paper = "near the best with few scenarios" if name == "plain" else "a complex g needs more, from memory"
        return claim, paper, text, right if name == "plain" else "measured", {str(m): found for m, found in values.items()}


# -- gradients -------------------------------------------------------------------------------------------------------


def exact_variance(settings: Settings) -> Claim:
    """By quadrature, and drawn."""
    draws, worst, lines, numbers = 20_000, 0.0, [], dict[str, Any]()
    ratios = []
    for i, h in enumerate(GRID_STEPS):
        known, found = gradients.exact(THETA, h), gradients.drawn(THETA, h, draws, settings.seed + i)
        estimates = {}
        for kind, sample in found.items():
            squares = np.square(sample - known["mean"])
            estimates[kind] = Estimate(float(squares.mean()), float(squares.std() / draws**0.5), draws, known[kind])
            worst = max(worst, estimates[kind].z)
        ratios.append(known["fresh"] / known["fixed"])
        lines.append(f"h = {h:g}: {known['fresh']:.4g} fresh, {known['fixed']:.4g} fixed")
        numbers[str(h)] = {**known, **{f"{kind} drawn": e.mean for kind, e in estimates.items()}}
    growth = [b / a for a, b in pairwise(ratios)]
    text = (
        "variance of (U(θ + h) − U(θ − h)) / 2h, "
        + "; ".join(lines)
        + f"; a tenth of h makes the ratio {growth[-1]:.1f} times larger; drawn, {draws:,} each: at most {worst:.1f} standard errors off"
    )
    claim = "Section 4: on fixed scenarios U is a function of θ that can be differentiated; with fresh noise the difference’s variance grows as 1/h²"
    return claim, "no number", text, worst < 4.5 and all(70 < g < 101 for g in growth), numbers


def helicopter_variance(settings: Settings, ratios: dict[float, dict[str, float]]) -> Claim:
    for h in STEPS_H:
        found = {kind: gradients.helicopter(kind, h, settings.gradients, settings.seed) for kind in ("fresh", "common")}
        ratios[h] = {kind: gradients.total_variance(g) for kind, g in found.items()}
    each = {h: v["fresh"] / v["common"] for h, v in ratios.items()}
    text = f"sum of the variances of the 12 entries, fresh over fixed wind, {settings.gradients} gradients each: " + ", ".join(
        f"h = {h:g}: {r:,.3g}" for h, r in each.items()
    )
    numbers = {str(h): {**v, "ratio": each[h]} for h, v in ratios.items()}
    return VARIANCE, "“can dominate” (the notes)", text, min(each.values()) > 1 and each[STEPS_H[-1]] > each[OWN_H], numbers


# -- the helicopter --------------------------------------------------------------------------------------------------


def trained(settings: Settings, say: Say, before: dict[str, Row]) -> dict[str, list[Learned]]:
    """The runs of every method: trained, or as they were before."""
    common: dict[str, Any] = {"env": "Helicopter-v0", "steps": settings.steps, "episodes": 20, "points": 10, "look": hover.look}
    seeds = range(settings.seed, settings.seed + settings.helicopter_seeds)
    wanted = {(name, seed): {**common, **hover.METHODS[name], "seed": seed} for name in settings.chosen for seed in seeds}
    found = learn_all(wanted, settings.workers, say, settings.runs)
    return {
        name: [found[name, seed] for seed in seeds] if name in settings.chosen else flown_before(before[title(name, settings)])
        for name in hover.METHODS
    }


def title(name: str, settings: Settings) -> str:
    return f"Helicopter-v0, {settings.steps:,} steps: {name}"


def flown_before(row: Row) -> list[Learned]:
    """The runs of a row; their controllers fly again."""
    return [
        Learned([], [], [], run["final"], run["seconds"], run["evaluations"], hover.flown(np.array(run["theta"])))
        for run in row.numbers["runs"]
    ]


def counts(run: Learned) -> tuple[int, int]:
    return hover.Flights(run.seen["held"], run.seen["settled"]).counts


def flown(name: str, runs: list[Learned], settings: Settings) -> Claim:
    held, settled = zip(*(counts(run) for run in runs), strict=True)
    worst = max(max(run.seen["held"]) for run in runs)
    text = (
        f"cost of a minute {over_seeds([-run.final for run in runs])}; of 20 winds not met before, within half a metre for 60 s: "
        f"{', '.join(map(str, held))} (seeds; farthest {worst:.2f} m); from up to a metre away, from second 5 on: {', '.join(map(str, settled))}"
        f"<br>{statistics.fmean(run.seconds for run in runs):.0f} s a run"
    )
    numbers = {
        "runs": [{"final": run.final, "seconds": run.seconds, **run.seen, "evaluations": run.evaluations} for run in runs]
    }
    return title(name, settings), "hovers (Ng et al. 2004)", text, "measured", numbers


def three(runs: dict[str, list[Learned]]) -> Claim:
    """At least one run of each, and every one."""
    every = [name for name, found in runs.items() if all(counts(run)[0] == 20 for run in found)]
    some = [name for name, found in runs.items() if any(counts(run)[0] == 20 for run in found)]
    hand = hover.by_hand().counts
    text = (
        f"20 of 20 in every run: {', '.join(every) or 'none'}; in some run: {', '.join(some) or 'none'}; "
        f"the controller by hand that all start from: {hand[0]}, and {hand[1]} from a metre away"
    )
    claim = "Hovers within half a metre for 60 s in 20 winds of 20, by three methods or more"
    return claim, "no number", text, len(every) >= 3, {"every seed": every, "some seed": some, "by hand": hand}


def fresh_or_fixed(runs: dict[str, list[Learned]]) -> Claim:
    final = {name: [-run.final for run in runs[name]] for name in (hover.FRESH, hover.COMMON, hover.FIXED)}
    text = ", ".join(f"{name.partition(', ')[2]} {over_seeds(costs)}" for name, costs in final.items())
    verdict = clearly_more(final[hover.FRESH], final[hover.FIXED])
    claim = "Finite differences learn faster with fixed winds than with fresh ones: cost of a minute in winds not met before, at the end"
    return claim, "“more readily comparable” (the notes)", text, verdict, final


if __name__ == "__main__":
    from scg.papers.cli import paper

    sys.exit(paper(["ng2000_pegasus", *sys.argv[1:]]))
