"""Schulman et al. (2016): what γ and λ do to the bias and the variance of a policy gradient, and to learning."""

from __future__ import annotations

import itertools
import statistics
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from scg.papers.figures import panels
from scg.papers.learning import CONTRARY, Learned, TrainingSettings, clearly_more, learn_all
from scg.papers.report import Claim, Job, Results, Say, collect, number, over_seeds, with_error
from scg.papers.schulman2016_gae.exact import EXACT, WRONG, Exact, Moments

RIGHT, BIASED = 1e-10, 1e-6  # what counts as equal, and what as a bias
GAMMAS, LAMBDAS = (0.5, 0.8, 0.9, 0.97, 1.0), (0.0, 0.3, 0.6, 0.8, 0.9, 0.97, 1.0)
LEARNED_GAMMAS, LEARNED_LAMBDAS = (0.9, 0.97, 0.99, 1.0), (0.0, 0.8, 0.95, 1.0)
BATCHES = (10, 100, 1000, 10_000)
ENVIRONMENT = "CartPole-v1"


@dataclass(frozen=True)
class Settings(TrainingSettings):
    steps: int = field(default=12_000, metadata={"help": "environment steps of each run on CartPole-v1"})
    seeds: int = field(default=3, metadata={"help": "runs of each (γ, λ)"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1024:
            raise ValueError(f"--steps {self.steps}: an update takes 1,024 steps; give that or more")


Cells = dict[tuple[float, float], Moments]


def run(settings: Settings, out: Path, say: Say = lambda what, done: None) -> Results:
    """All claims."""
    out.mkdir(parents=True, exist_ok=True)
    exact = Exact()
    cells: dict[str, Cells] = {
        kind: {cell: exact.moments(*cell, kind) for cell in itertools.product(GAMMAS, LAMBDAS)} for kind in (EXACT, WRONG)
    }
    lab = Lab(settings)
    jobs: list[Job] = [
        ("mixture of n steps", partial(mixture, exact)),
        ("γ-just", partial(just, exact, cells)),
        ("bias of γ", partial(discounting, cells[EXACT])),
        ("bias of λ", partial(mixing, cells[WRONG])),
        ("compromise", partial(compromise, cells[WRONG])),
    ]
    lab.train(say)
    jobs += [(f"γ = {g:g}", partial(lab.measured, g)) for g in LEARNED_GAMMAS]
    jobs += [("best cell", lab.best), ("λ = 0", partial(lab.extreme, 0.0)), ("λ = 1", partial(lab.extreme, 1.0))]
    results = collect("schulman2016_gae", settings, jobs, say)
    results.sections["moments"] = table(cells[WRONG])
    results.sections["learned"] = lab.table()
    draw(cells[WRONG], lab, out / "grid.png")
    say("done", 1.0)
    return results


# -- exact -----------------------------------------------------------------------------------------------------------


def mixture(exact: Exact) -> Claim:
    gaps = [exact.mixture_gap(gamma, lam) for gamma, lam in itertools.product((0.5, 0.9, 1.0), (0.0, 0.6, 1.0))]
    text = f"largest gap over {exact.paths.p.numel():,} episodes and {len(gaps)} pairs (γ, λ): {max(gaps):.0e}"
    claim = "Equation 16: GAE(γ, λ) is the mixture (1 − λ) Σ λⁿ⁻¹ Â^(n) of n-step advantages, Σ (γλ)^l δ_{t+l}"
    return claim, "equal", text, max(gaps) < RIGHT, {"gaps": gaps}


def just(exact: Exact, cells: dict[str, Cells]) -> Claim:
    """Against occupancies and action values."""
    found = {}
    for kind, of in cells.items():
        for (gamma, lam), m in of.items():
            found[kind, gamma, lam] = float((m.mean - exact.discounted(gamma)).norm()) / exact.size
    right = max(gap for (kind, _, lam), gap in found.items() if kind == EXACT or lam == 1.0)
    wrong = [gap for (kind, _, lam), gap in found.items() if kind == WRONG and lam < 1.0]
    text = (
        f"largest gap to g^γ: {right:.0e} with the exact critic at every λ, and with a wrong one at λ = 1; with the wrong one at "
        f"λ < 1 from {min(wrong):.0e} to {max(wrong):.2f} of ‖g‖"
    )
    claim = "Section 3: GAE(γ, 1) is γ-just whatever the critic; GAE(γ, λ < 1) if the critic is V^γ, and else biased"
    return claim, "yes", text, right < RIGHT and min(wrong) > BIASED, {"just": right, "wrong": wrong}


def discounting(cells: Cells) -> Claim:
    """With the exact critic, so that nothing but γ biases."""
    lines = [(gamma, cells[gamma, 1.0].bias, cells[gamma, 1.0].variance) for gamma in GAMMAS]
    text = "λ = 1: " + "<br>".join(f"γ = {g:g}: bias {b:.3f} of ‖g‖, variance {v:.2f} of ‖g‖²" for g, b, v in lines)
    biases, variances = [b for _, b, _ in lines], [v for _, _, v in lines]
    right = falls(biases) and falls(variances[::-1]) and biases[-1] < RIGHT
    claim = "Section 2: γ < 1 lowers the variance at the price of a bias, even with an exact critic"
    return claim, "bias for variance", text, right, {"cells": lines}


def mixing(cells: Cells) -> Claim:
    """With the wrong critic, at γ = 1."""
    lines = [(lam, cells[1.0, lam].bias, cells[1.0, lam].variance) for lam in LAMBDAS]
    text = "γ = 1: " + "<br>".join(f"λ = {x:g}: bias {b:.3f} of ‖g‖, variance {v:.2f} of ‖g‖²" for x, b, v in lines)
    variances = [v for _, _, v in lines]
    right = falls([b for _, b, _ in lines]) and max(variances) == variances[-1] > 1.5 * min(variances)
    claim = "Section 3: λ < 1 lowers the variance at the price of a bias, where the critic is not exact"
    return claim, "bias for variance", text, right, {"cells": lines}


def compromise(cells: Cells) -> Claim:
    best = {n: min(cells, key=lambda cell: cells[cell].error(n)) for n in BATCHES}
    lines = []
    for n, (gamma, lam) in best.items():
        least, corners = cells[gamma, lam].error(n), [cells[1.0, x].error(n) for x in (0.0, 1.0)]
        lines.append(
            f"{n:,} episodes: γ = {gamma:g}, λ = {lam:g}, squared error {least:.3g} of ‖g‖² (γ = 1 with λ = 0 {corners[0]:.3g}, "
            f"λ = 1 {corners[1]:.3g})"
        )
    inside = any(0 < lam < 1 for _, lam in best.values())
    gammas = [gamma for gamma, _ in best.values()]
    right = inside and gammas == sorted(gammas)
    claim = "The compromise: the least squared error is at an intermediate (γ, λ), nearer to 1 the more data there are"
    return claim, "intermediate", "<br>".join(lines), right, {str(n): cell for n, cell in best.items()}


def falls(values: list[float]) -> bool:
    return all(a > b for a, b in itertools.pairwise(values))


def table(cells: Cells) -> str:
    lines = ["| bias / variance | " + " | ".join(f"λ = {x:g}" for x in LAMBDAS) + " |", "|---" * (len(LAMBDAS) + 1) + "|"]
    for gamma in GAMMAS:
        of = [cells[gamma, lam] for lam in LAMBDAS]
        lines.append(f"| γ = {gamma:g} | " + " | ".join(f"{m.bias:.3f} / {m.variance:.2f}" for m in of) + " |")
    return "\n".join(lines)


# -- learned ---------------------------------------------------------------------------------------------------------


class Lab:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.runs: dict[tuple[float, float], list[Learned]] = {}

    def train(self, say: Say) -> None:
        settings = self.settings
        wanted: dict[tuple[float, float, int], dict[str, Any]] = {}
        for gamma, lam in itertools.product(LEARNED_GAMMAS, LEARNED_LAMBDAS):
            for seed in range(settings.seed, settings.seed + settings.seeds):
                run = {"agent": "trpo", "env": ENVIRONMENT, "steps": settings.steps, "seed": seed, "gamma": gamma, "lam": lam}
                wanted[gamma, lam, seed] = {**run, "episodes": 1}  # what counts here is the return along the run
        for (gamma, lam, _), learned in learn_all(wanted, settings.workers, say, settings.runs, settings.executor).items():
            self.runs.setdefault((gamma, lam), []).append(learned)

    def measured(self, gamma: float) -> Claim:
        numbers = {f"λ = {lam:g}": [run.numbers() for run in self.runs[gamma, lam]] for lam in LEARNED_LAMBDAS}
        text = "<br>".join(f"λ = {lam:g}: {over_seeds(self.along(gamma, lam))}" for lam in LEARNED_LAMBDAS)
        return f"{ENVIRONMENT}, γ = {gamma:g}: mean training return along the run", "curves", text, "measured", numbers

    def along(self, gamma: float, lam: float) -> list[float]:
        return [run.along for run in self.runs[gamma, lam]]

    def best(self) -> Claim:
        means = {cell: statistics.fmean(self.along(*cell)) for cell in self.runs}
        gamma, lam = max(means, key=means.__getitem__)
        text = f"γ = {gamma:g}, λ = {lam:g}: {over_seeds(self.along(gamma, lam))}; worst {min(means.values()):.1f}"
        claim = "Section 6, cart-pole: the best values of γ and λ are intermediate ones"
        return claim, "intermediate", text, (0 < lam < 1 and gamma < 1) or CONTRARY, {"best": [gamma, lam]}

    def extreme(self, lam: float) -> Claim:
        """The better of the intermediate λ, at each γ and seed, beside an extreme one."""
        middle = max(LEARNED_LAMBDAS[1:-1], key=lambda x: sum(sum(self.along(g, x)) for g in LEARNED_GAMMAS))
        ones, others = ([a for g in LEARNED_GAMMAS for a in self.along(g, x)] for x in (middle, lam))
        gaps = [a - b for a, b in zip(ones, others, strict=True)]
        error = statistics.stdev(gaps) / len(gaps) ** 0.5
        text = f"return along the run higher by {with_error(statistics.fmean(gaps), error)}, over {len(gaps)} pairs of runs"
        verdict = clearly_more(ones, others)
        claim = f"Section 6: λ = {middle:g} learns faster than λ = {lam:g}"
        return claim, "faster", text, verdict, {"gaps": gaps}

    def table(self) -> str:
        lines = ["| | " + " | ".join(f"λ = {x:g}" for x in LEARNED_LAMBDAS) + " |", "|---" * (len(LEARNED_LAMBDAS) + 1) + "|"]
        for gamma in LEARNED_GAMMAS:
            lines.append(f"| γ = {gamma:g} | " + " | ".join(over_seeds(self.along(gamma, x)) for x in LEARNED_LAMBDAS) + " |")
        return "\n".join(lines)


def draw(cells: Cells, lab: Lab, path: Path) -> None:
    figure, axes = panels(1, 3, (3.8, 2.8))
    grids = [
        ("bias, share of ‖g‖", torch.tensor([[cells[g, x].bias for x in LAMBDAS] for g in GAMMAS]), GAMMAS, LAMBDAS),
        ("variance, of ‖g‖²", torch.tensor([[cells[g, x].variance for x in LAMBDAS] for g in GAMMAS]), GAMMAS, LAMBDAS),
        (
            f"{ENVIRONMENT}: return along the run",
            torch.tensor([[statistics.fmean(lab.along(g, x)) for x in LEARNED_LAMBDAS] for g in LEARNED_GAMMAS]),
            LEARNED_GAMMAS,
            LEARNED_LAMBDAS,
        ),
    ]
    for axis, (title, values, gammas, lambdas) in zip(axes[0], grids, strict=True):
        shown = axis.imshow(values, aspect="auto", cmap="viridis", origin="lower")
        axis.set_xticks(range(len(lambdas)), [number(x, 2) for x in lambdas])
        axis.set_yticks(range(len(gammas)), [number(g, 2) for g in gammas])
        axis.set(xlabel="λ", ylabel="γ")
        axis.set_title(title, fontsize=9)
        figure.colorbar(shown, ax=axis)
    figure.savefig(path, dpi=130, facecolor="white")


if __name__ == "__main__":
    from scg.papers.cli import paper

    sys.exit(paper(["schulman2016_gae", *sys.argv[1:]]))
