"""Szita & Lőrincz (2006): cross-entropy search of Tetris players, whose distribution shrinks too soon unless noise keeps it open.

The order of the three kinds of noise on the small board; on the large one, how far a budget of placements gets.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from torch import Generator

from scg.agents.environments import envs
from scg.agents.environments.tetris import games
from scg.agents.experience.rollout import Rollout
from scg.papers.figures import panels, save
from scg.papers.learning import clearly_more
from scg.papers.report import Claim, Job, Results, Say, collect, number, over_seeds
from scg.papers.szita2006_tetris.games import VARIANCE, Course, Noise, config, course

PUBLISHED: dict[Noise, int] = {"none": 21_252, "constant": 72_705, "decreasing": 348_895}
NAMES: dict[Noise, str] = {"none": "no noise", "constant": "constant noise", "decreasing": "decreasing noise"}
SMALL, LARGE = 10, 20


@dataclass(frozen=True)
class Settings:
    seeds: int = field(default=6, metadata={"help": "runs with each noise on 10 × 10"})
    seed: int = field(default=0, metadata={"help": "seed of the first run; the others count on from it"})
    generations: int = field(default=60, metadata={"help": "generations of each run on 10 × 10"})
    judged: int = field(default=50, metadata={"help": "games that judge a mean on 10 × 10, every tenth generation"})
    placements: int = field(
        default=12_000_000, metadata={"help": "budget of each run on 10 × 20: members' placements; 0 leaves them out"}
    )

    def __post_init__(self) -> None:
        if self.seeds < 2:
            raise ValueError(f"--seeds {self.seeds}: a standard error needs 2 seeds or more")
        for name, least in (("generations", 1), ("judged", 2), ("placements", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} {getattr(self, name)}: give at least {least}")


def run(settings: Settings, out: Path, say: Say = lambda what, done: None) -> Results:
    """All claims."""
    out.mkdir(parents=True, exist_ok=True)
    small: dict[Noise, list[Course]] = {}
    for i, noise in enumerate(VARIANCE):
        say(f"10 × 10, {NAMES[noise]}", i / 5)
        seeds = range(settings.seed, settings.seed + settings.seeds)
        small[noise] = [course(noise, SMALL, seed, settings.generations, 10, settings.judged) for seed in seeds]
    large: dict[Noise, Course] = {}
    for noise in VARIANCE if settings.placements else ():
        say(f"10 × 20, {NAMES[noise]}", 0.6)
        large[noise] = course(noise, LARGE, settings.seed, 80, 5, 30, settings.placements)
    jobs: list[Job] = [
        ("placements per second", rates),
        *((f"10 × 10, {NAMES[noise]}", partial(measured, noise, small[noise], settings)) for noise in VARIANCE),
        ("constant or none", partial(order, small, "constant", "none")),
        ("decreasing or constant", partial(order, small, "decreasing", "constant")),
        ("the distribution shrinks", partial(shrinks, small)),
        *((f"10 × 20, {NAMES[noise]}", partial(distance, noise, found, settings)) for noise, found in large.items()),
    ]
    results = collect("szita2006_tetris", settings, jobs, say)
    draw(small, large, out / "lines.png")
    say("done", 1.0)
    return results


def rates() -> Claim:
    """Processor time of the compiled games, and of the same generation through the vector environment."""
    search = config("decreasing")
    with envs.make("Tetris-v0", search.population) as vector:
        agent = search.build(vector.obs_space, vector.action_space, Generator().manual_seed(0))
        rollout = Rollout(vector, list(range(search.population)), Generator().manual_seed(0))
        agent.collect(rollout, 1)
        began = time.process_time()
        steps = agent.collect(rollout, 1).steps
        vectors = steps / (time.process_time() - began)
    theta = np.zeros((40, 22))
    theta[:, 10:19], theta[:, 20] = -1.0, -6.0  # by hand: even heights, no holes
    games(theta[:1], [0], LARGE, 10)
    began = time.process_time()
    found = games(theta, range(40), LARGE, 100_000)
    compiled = int(found[:, 1].sum()) / (time.process_time() - began)
    text = f"placements a second of processor time: whole games {compiled:,.0f}, through the vector environment {vectors:,.0f}"
    return "Speed of the environment, 10 × 20", "no number", text, "measured", {"compiled": compiled, "vector": vectors}


def numbers(found: list[Course]) -> dict[str, list]:
    return {"points": [c.points for c in found], "theta": [np.round(c.theta, 4).tolist() for c in found]}


def measured(noise: Noise, found: list[Course], settings: Settings) -> Claim:
    text = (
        f"mean lines of the last mean {over_seeds([c.final for c in found])}, of the best judged {over_seeds([c.best for c in found])}; "
        f"{statistics.fmean(c.points[-1][1] for c in found) / 1e6:.1f} M placements a run"
    )
    claim = f"10 × 10, {settings.generations} generations: {NAMES[noise]}"
    return claim, "not played", text, "measured", numbers(found)


def order(small: dict[Noise, list[Course]], more: Noise, less: Noise) -> Claim:
    """Final lines decide, paired by seed."""
    ones, others = ([c.final for c in small[noise]] for noise in (more, less))
    gaps = [a - b for a, b in zip(ones, others, strict=True)]
    text = f"10 × 10: {over_seeds(gaps)} lines more, {sum(g > 0 for g in gaps)} of {len(gaps)} pairs"
    claim = f"Table 1: {NAMES[more]} plays better than {NAMES[less]}"
    paper = f"10 × 20: {PUBLISHED[more]:,} and {PUBLISHED[less]:,} lines"
    return claim, paper, text, clearly_more(ones, others), {"gaps": gaps}


def shrinks(small: dict[Noise, list[Course]]) -> Claim:
    """The scale of the parameters, 10 at first, when half of the generations are done."""
    scales = {noise: [c.points[len(c.points) // 2 - 1][4] for c in found] for noise, found in small.items()}
    text = "mean standard deviation of a parameter, of 10 at first, half way: " + ", ".join(
        f"{NAMES[noise]} {over_seeds(values)}" for noise, values in scales.items()
    )
    claim = (
        "Section 2.2: without noise the distribution concentrates too fast to a single point, before the good players are found"
    )
    right = statistics.fmean(scales["none"]) < 0.1 * statistics.fmean(scales["constant"])
    return claim, "too fast", text, right, {str(k): v for k, v in scales.items()}


def distance(noise: Noise, found: Course, settings: Settings) -> Claim:
    generation, _, lines, error, _ = max(found.points, key=lambda point: point[2])
    last = found.points[-1]
    text = (
        f"{number(last[2], 0)} ± {last[3]:.0f} lines (30 games of one run) after {last[0]} generations and {last[1] / 1e6:.0f} M placements: "
        f"{100 * last[2] / PUBLISHED[noise]:.2g} % of the paper’s; best {number(lines, 0)} ± {error:.0f}, after {generation}"
    )
    claim = f"Table 1, 10 × 20, {settings.placements:,} placements or 80 generations: {NAMES[noise]}"
    return claim, f"{PUBLISHED[noise]:,} lines", text, "measured", numbers([found])


def draw(small: dict[Noise, list[Course]], large: dict[Noise, Course], path: Path) -> None:
    figure, axes = panels(1, 3, (3.6, 2.8))
    for noise, found in small.items():
        points = np.array([c.points for c in found])  # [seeds, points, 5]
        for axis, column in zip(axes[0, :2], (2, 4), strict=True):
            values = points[..., column]
            (line,) = axis.plot(points[0, :, 0], values.mean(0), label=NAMES[noise], linewidth=1.2)
            axis.fill_between(points[0, :, 0], values.min(0), values.max(0), color=line.get_color(), alpha=0.15, linewidth=0)
    axes[0, 0].set(xlabel="generation", ylabel="lines, 10 × 10", yscale="log")
    axes[0, 1].set(xlabel="generation", ylabel="mean scale, 10 × 10", yscale="log")
    for run_ in large.values():
        one = np.array(run_.points)
        axes[0, 2].errorbar(one[:, 1], one[:, 2], one[:, 3], linewidth=1.2)
    axes[0, 2].set(xlabel="placements of the members", ylabel="lines, 10 × 20", yscale="log")
    save(figure, path, axes[0, 0])


if __name__ == "__main__":
    from scg.papers.cli import paper

    sys.exit(paper(["szita2006_tetris", *sys.argv[1:]]))
