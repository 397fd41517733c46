"""Salimans et al. (2017): evolution strategies, the gradient of a smoothed return, its variance, and its speed-up on many workers.

Variances are held against closed forms, through the agent's own graph; the speed-up is measured on two processes and modelled beyond.
"""

from __future__ import annotations

import math
import statistics
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from scg.agents.search.distributions import DiagonalGaussian
from scg.agents.search.perturbations import Perturbations
from scg.agents.search.specification import search_graph, surrogate
from scg.papers.figures import panels
from scg.papers.learning import Learned, TrainingSettings, by_seed, cpu, learn_all
from scg.papers.report import Claim, Estimate, Job, Results, Say, collect, number, over_seeds
from scg.papers.salimans2017_es import variances, workers
from scg.papers.salimans2017_es.variances import Quadratic

MEMBERS, DIM = 20, 6
CASES = [(mirrored, common) for mirrored in (False, True) for common in (False, True)]
HORIZONS = (10, 100, 1000)
WORKERS = (1, 2, 4, 8, 18, 64, 180, 360, 720, 1440)
POPULATION = 1440 * 4
ENVIRONMENTS = ("CartPole-v1", "HalfCheetah-v5")
FAR = 4.5  # standard errors: of the estimates here, one in 15,000 would be farther off by chance


@dataclass(frozen=True)
class Settings(TrainingSettings):
    draws: int = field(default=4000, metadata={"help": "gradients for each variance"})
    members: int = field(default=64, metadata={"help": "members of the generations that are timed"})
    rounds: int = field(default=5, metadata={"help": "alternations of one and two processes; 0 leaves them out"})
    seeds: int = field(default=3, metadata={"help": "runs on InvertedPendulum-v5"})
    steps: int = field(default=200_000, metadata={"help": "their environment steps; 0 leaves the runs out"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("draws", 100), ("members", 4), ("rounds", 0), ("steps", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} {getattr(self, name)}: give at least {least}")


def run(settings: Settings, out: Path, say: Say = lambda what, done: None) -> Results:
    """All claims."""
    out.mkdir(parents=True, exist_ok=True)
    jobs: list[Job] = [
        ("a smoothed step", partial(smoothed, settings)),
        ("mirrored sampling", partial(mirrored, settings)),
        ("common random numbers", partial(common, settings)),
        ("horizon", horizons),
        ("what is sent", sent),
    ]
    curves: dict[str, dict[int, float]] = {}
    jobs += [(f"speed-up, {env}", partial(speed_up, env, settings, curves)) for env in ENVIRONMENTS]
    runs: list[Learned] = []
    if settings.steps:
        wanted = {
            seed: {"agent": "es", "env": "InvertedPendulum-v5", "steps": settings.steps, "seed": seed, "episodes": 20}
            for seed in range(settings.seed, settings.seed + settings.seeds)
        }
        runs = list(learn_all(wanted, settings.workers, say, settings.runs).values())
        jobs.append(("InvertedPendulum-v5", partial(learned, runs, settings)))
    results = collect("salimans2017_es", settings, jobs, say)
    draw(curves, out / "speedup.png")
    say("done", 1.0)
    return results


# -- the estimator ---------------------------------------------------------------------------------------------------


def smoothed(settings: Settings) -> Claim:
    """U(x) = 1 for x > 0, else 0: ∇ E[U(θ + σε)] = φ(θ/σ)/σ."""
    lines, worst, numbers = [], 0.0, {}
    for theta in (-0.5, 0.2):
        sigma, count = 0.4, settings.draws * 10
        distribution = DiagonalGaussian(torch.tensor([theta], dtype=torch.float64), sigma, learn_scale=False)
        graph, unit = search_graph(distribution, "returns"), Perturbations(settings.seed, 1)
        noise = unit.rows(0, range(count))
        returns = (distribution.members(noise)[:, 0] > 0).double()
        surrogate(graph, "returns", distribution.members(noise), returns, returns).backward()
        assert distribution.mean.grad is not None
        each = (returns[:, None] * noise / sigma).numpy()
        exact = math.exp(-((theta / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi))
        found = Estimate(float(-distribution.mean.grad[0]), float(each.std() / count**0.5), count, exact)
        worst = max(worst, found.z)
        lines.append(f"θ = {theta:g}: {found}, exact {exact:.4f}")
        numbers[str(theta)] = {"mean": found.mean, "error": found.error, "exact": exact}
    text = f"return 1 for x > 0, else 0, σ = 0.4: {'; '.join(lines)}; at most {worst:.1f} standard errors off. Its own gradient is 0"
    claim = (
        "Section 2: the estimate is the gradient of the return smoothed by the noise, which exists where the return’s does not"
    )
    return claim, "equal", text, worst < FAR, numbers


def squares(problem: Quadratic, mirrored: bool, common: bool, settings: Settings) -> Estimate:
    """The trace of the covariance: mean squared distance from the exact gradient, mean ± error over the draws."""
    found = problem.estimates(mirrored, common, MEMBERS, settings.draws, settings.seed)
    each = np.square(found - problem.slope.numpy()).sum(-1)
    exact = problem.variance(mirrored, common, MEMBERS)
    return Estimate(float(each.mean()), float(each.std(ddof=1) / len(each) ** 0.5), len(each), exact)


def mirrored(settings: Settings) -> Claim:
    problem = Quadratic.random(DIM, 0.0)
    plain, pairs = (squares(problem, kind, False, settings) for kind in (False, True))
    text = (
        f"quadratic return, d = {DIM}, {MEMBERS} members: without {plain}, in closed form {plain.exact:.4f}; mirrored {pairs}, "
        f"in closed form {pairs.exact:.4f}: {plain.exact / pairs.exact:.1f} times less at the same number of episodes"
    )
    claim = (
        "Section 2.1: mirrored sampling reduces the variance: a pair cancels the even part of the return, constants included"
    )
    numbers = {
        name: {"mean": e.mean, "error": e.error, "exact": e.exact} for name, e in (("plain", plain), ("mirrored", pairs))
    }
    return claim, "no number", text, max(plain.z, pairs.z) < FAR and pairs.exact < plain.exact, numbers


def common(settings: Settings) -> Claim:
    """The return's noise 1, about the size of F's own spread."""
    problem, quiet = Quadratic.random(DIM, 1.0), Quadratic.random(DIM, 0.0)
    found = {case: squares(problem, *case, settings) for case in CASES}
    names = {c: f"{'mirrored' if c[0] else 'plain'}, {'common' if c[1] else 'fresh'}" for c in CASES}
    text = "; ".join(f"{names[case]}: {e} ({e.exact:.4f})" for case, e in found.items())
    free = quiet.variance(True, True, MEMBERS)
    text = f"noise of variance 1 added to every return; measured, and in closed form: {text}. Without noise mirrored has {free:.4f}"
    claim = (
        "Common random numbers (Ng & Jordan 2000; the lecture notes: “equally applicable to evolutionary methods”): they take out "
        "the noise of returns in mirrored pairs, and in plain sampling nothing"
    )
    right = max(e.z for e in found.values()) < FAR and found[True, True].exact == free
    numbers = {names[c]: {"mean": e.mean, "error": e.error, "exact": e.exact} for c, e in found.items()}
    return claim, "no number", text, right, numbers


def horizons() -> Claim:
    found = {steps: variances.horizon(steps, 0.0, 0.5) for steps in HORIZONS}
    text = "; ".join(
        f"{name}: {', '.join(f'{found[steps][name]:.4g}' for steps in HORIZONS)}" for name in next(iter(found.values()))
    )
    # In closed form (1 + s²) T + 14 + …: proportional where T is large.
    before, last = (found[steps]["policy gradient"] for steps in HORIZONS[-2:])
    grows = 0.85 < last / before / (HORIZONS[-1] / HORIZONS[-2]) < 1.05
    constant = len({found[steps]["ES"] for steps in HORIZONS}) == 1
    text = (
        f"variance of an episode’s gradient at T = {', '.join(map(str, HORIZONS))}, by quadrature: {text}. With a baseline what is left "
        "grows by the noise of the return times T"
    )
    claim = (
        "Section 3.1: the policy gradient’s variance grows in proportion to the number of steps T, ES’s does not depend on it"
    )
    return claim, "∝ T; constant", text, grows and constant, {str(k): v for k, v in found.items()}


def sent() -> Claim:
    """Bytes that a worker sends for a generation."""
    from scg.agents.environments import envs
    from scg.agents.es import ES

    lines, numbers = [], {}
    for hidden in ((), (64, 64)):
        with envs.make("HalfCheetah-v5", 1) as vector:
            search = ES(hidden=hidden).search(vector.obs_space, vector.action_space, Generator().manual_seed(0))
        dim = len(search.start)
        name = "linear" if not hidden else "64 × 64"
        lines.append(
            f"{name} policy of HalfCheetah-v5, {dim:,} parameters: 8 bytes a member for its return; a gradient has {4 * dim:,}"
        )
        numbers[name] = dim
    claim = "Section 2.1: workers that share random seeds send one scalar an episode, and know everybody’s perturbations"
    same = remade()
    return (
        claim,
        "scalars",
        "; ".join(lines) + "; perturbations made again from (seed, generation, member): the same bits",
        same,
        numbers,
    )


def remade() -> bool:
    """One member alone, or all of them, by another object: the same perturbation."""

    def made(which: range) -> Tensor:
        return Perturbations(7, 50, mirrored=True).rows(3, which)

    return all(torch.equal(made(range(m, m + 1))[0], made(range(20))[m]) for m in range(20))


# -- workers ---------------------------------------------------------------------------------------------------------


def speed_up(env: str, settings: Settings, curves: dict[str, dict[int, float]]) -> Claim:
    times, update = workers.costs(env, settings.members)
    ratios, same = workers.measured(env, settings.members, settings.rounds) if settings.rounds else ([], True)
    large = workers.enlarged(times, POPULATION)
    modelled = {count: workers.model(large, update * POPULATION / settings.members, count) for count in WORKERS}
    scalar = {count: workers.model(large, 0.0, count) for count in WORKERS}
    curves[f"{env}, as built"], curves[f"{env}, update on all workers"] = modelled, scalar
    expected = workers.model(times, 0.0, 2)
    seen = (
        f"median {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} alternations), returns the "
        f"same bits: {'yes' if same else 'no'}"
        if ratios
        else "not measured"
    )
    text = (
        f"two processes over one, a generation of {settings.members}: {seen}; by the model {expected:.2f}; "
        f"processor time of an episode {1000 * statistics.fmean(times):.1f} ms (spread {1000 * statistics.pstdev(times):.1f}), of the "
        f"update {1000 * update:.1f} ms<br>by the model, {POPULATION:,} members: "
        + ", ".join(f"{modelled[w]:.3g} ({scalar[w]:.3g}) on {w:,}" for w in (18, 180, 1440))
    )
    claim = f"Section 4, Figure 1: nearly linear speed-up with workers, {env} (in brackets: the update shared out too)"
    paper = "18 to 1,440 cores, 80 times as many: 657 to 10 minutes, 66 times as fast (from memory)"
    numbers = {
        "ratios": ratios,
        "episode": [round(t, 6) for t in times],
        "update": update,
        "model": {str(k): v for k, v in modelled.items()},
        "model, update shared": {str(k): v for k, v in scalar.items()},
    }
    return claim, paper, text, "measured" if same else False, numbers


def learned(runs: list[Learned], settings: Settings) -> Claim:
    text = f"{over_seeds([r.final for r in runs])} (20 fresh episodes), {cpu(runs)}; mean along the run {over_seeds([r.along for r in runs])}"
    claim = f"A linear policy learns InvertedPendulum-v5 in {settings.steps:,} steps, to 950 or more"
    return claim, "not among the paper’s", text, min(r.final for r in runs) >= 950, by_seed({"es": runs})


def draw(curves: dict[str, dict[int, float]], path: Path) -> None:
    figure, axes = panels(1, 1, (4.8, 3.4))
    axis = axes[0, 0]
    axis.plot(WORKERS, WORKERS, color="0.7", linewidth=1.0, label="linear")
    for name, found in curves.items():
        axis.plot(list(found), list(found.values()), "o-", markersize=3, linewidth=1.2, label=name)
    axis.set(xscale="log", yscale="log", xlabel="workers", ylabel=f"speed-up by the model, {number(POPULATION, 0)} members")
    axis.legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=130, facecolor="white")


if __name__ == "__main__":
    from scg.papers.cli import paper

    sys.exit(paper(["salimans2017_es", *sys.argv[1:]]))
