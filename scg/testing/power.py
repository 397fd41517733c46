"""What the sequential test can see: draws needed against bias, measured.

    python -m scg.testing.power                 writes docs/power.md and docs/power.png

An estimator whose score is multiplied by 1 + b has the relative bias b exactly. For a ladder of b, with several seeds
each: how many draws until the verdict, and which one it was. The expected number follows from the normal approximation,

    n ≈ (4 σ / (b |g|))²       σ/|g| one draw's noise relative to the gradient; 4 is about the quantile of a look's level
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor
from torch.distributions import Bernoulli, Distribution

from scg.estimator import Branches, Estimator
from scg.graph import Graph
from scg.testing.monte_carlo import of_graph
from scg.testing.oracle import exact
from scg.testing.parameters import Parameters
from scg.testing.sequential import Outcome
from scg.testing.unbiased import DETECTABLE, FALSE_ALARM, run

BIASES = (0.0, 0.0125, 0.025, 0.0375, 0.05, 0.0625, 0.075, 0.1, 0.15, 0.2, 0.4)
OFFSET = 4.0  # a constant cost: no part of the gradient, all of the noise


@dataclass(frozen=True)
class Tilted(Estimator):
    """The score function, its score multiplied by 1 + b: a gradient that is 1 + b times the true one."""

    b: float

    def branch(self, distribution: Distribution) -> Branches:
        value = distribution.sample()
        log_prob = distribution.log_prob(value)
        return Branches(value, score=(1.0 + self.b) * (log_prob - log_prob.detach()))


@dataclass(frozen=True)
class Trial:
    bias: float
    verdicts: tuple[str, ...]
    draws: tuple[int, ...]

    def share(self, verdict: str) -> float:
        return self.verdicts.count(verdict) / len(self.verdicts)


def toy(b: float, baseline: float | None) -> Graph:
    graph = Graph()

    def z(theta: Tensor) -> Distribution:
        return Bernoulli(logits=theta)

    def loss(z: Tensor) -> Tensor:
        return OFFSET + (z - 0.25) ** 2

    graph.stochastic(Tilted(b), z, baseline=baseline)
    graph.cost(loss)
    return graph


def trials(baseline: float | None, seeds: int) -> tuple[list[Trial], float]:
    """One trial per bias, and one draw's standard deviation relative to the gradient."""
    parameters = Parameters({"theta": torch.tensor(0.3, dtype=torch.float64, requires_grad=True)})
    found, noise = [], math.nan
    for b in BIASES:
        graph = toy(b, baseline)
        truth = exact(graph, parameters, 1, None)
        outcomes: list[Outcome] = []
        draws = of_graph(graph, parameters, 1, torch.Generator().manual_seed(0), None, None, True)
        for _ in range(seeds):
            outcomes.append(run(draws, truth, parameters, 1))
        found.append(Trial(b, tuple(o.verdict for o in outcomes), tuple(o.draws for o in outcomes)))
        if b == 0.0:
            noise = float(outcomes[0].spread / truth.exact.abs())
    return found, noise


def text(results: dict[str, tuple[list[Trial], float]], seeds: int) -> str:
    """The page."""
    lines = [
        "# What the test can see",
        "",
        "Written by `python -m scg.testing.power`.",
        "",
        "![draws against bias](power.png)",
        "",
        f"`check_unbiased` with its defaults: error rate {FALSE_ALARM:g}, detectable bias {DETECTABLE:g} of the gradient's largest "
        f"entry. The score of a Bernoulli sample is multiplied by 1 + b, so the relative bias is b exactly; {seeds} runs for each b. "
        f"Its cost has a constant part of {OFFSET:g}, which makes noise and no gradient; a baseline of 3 takes most of it away.",
        "",
        "* Left of the detectable bias either answer is right: a bias of half the size is found if chance favours it before the "
        "interval has shrunk into the allowed band.",
        "* From the detectable bias on, *unbiased* is wrong, and its probability is at most the error rate.",
        "* The first look is at 131,072 draws where draws are vectorised, which takes less than a tenth of a second here, so all "
        "gross errors cost the same.",
        "* Draws grow with the square of noise over bias: a baseline, a control variate or more samples buy power as they buy "
        "training speed. Where draws cannot be vectorised the first look is at 512.",
        "* How often it errs over many cases, jumping and rare ones too: [rates.md](rates.md).",
    ]
    for name, (found, noise) in results.items():
        lines += [
            "",
            f"## {name}: one draw's noise is {noise:.1f} times the gradient",
            "",
            "| relative bias | biased | unbiased | undecided | draws, median | draws, most |",
            "|---|---|---|---|---|---|",
        ]
        for t in found:
            shares = " | ".join(f"{t.share(v):.0%}" for v in ("biased", "unbiased", "undecided"))
            lines.append(f"| {t.bias:g} | {shares} | {statistics.median(t.draws):,.0f} | {max(t.draws):,} |")
    return "\n".join(lines) + "\n"


def picture(results: dict[str, tuple[list[Trial], float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (name, (found, noise)), colour in zip(results.items(), ("#3465a4", "#cc5500"), strict=True):
        seen = [t for t in found if t.share("biased") > 0.5]
        needed = [[n for n, v in zip(t.draws, t.verdicts, strict=True) if v == "biased"] for t in seen]
        biases = [t.bias for t in seen]
        left.plot(biases, [statistics.median(n) for n in needed], "o-", color=colour, label=name)
        left.fill_between(biases, [min(n) for n in needed], [max(n) for n in needed], color=colour, alpha=0.2, linewidth=0)
        left.plot(biases, [(4.0 * noise / b) ** 2 for b in biases], ":", color=colour)
        for verdict, style in (("biased", "-"), ("unbiased", "--")):
            right.plot(
                [t.bias for t in found], [t.share(verdict) for t in found], style, color=colour, label=f"{verdict}, {name}"
            )
    left.set(xscale="log", yscale="log", xlabel="relative bias", ylabel="draws until it is found")
    ticks = [0.025, 0.05, 0.1, 0.2, 0.4]
    left.set_xticks(ticks, [f"{t:g}" for t in ticks]), left.set_xticks([], minor=True)
    left.set_title("median, range; dotted: (4 · noise / bias)²", fontsize=10)
    right.axvline(DETECTABLE, color="black", linewidth=0.8)
    right.set(xlabel="relative bias", ylabel="share of runs", xlim=(0, 0.21), ylim=(-0.02, 1.02))
    right.set_title(f"verdicts; the line is the detectable bias, {DETECTABLE:g}", fontsize=10)
    left.legend(frameon=False), right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


@dataclass(frozen=True)
class Options:
    """Measure the power of check_unbiased."""

    out: Path = Path("docs")
    """folder of power.md and power.png"""
    seeds: int = 40
    """runs for each bias"""


def main(argv: list[str] | None = None) -> int:
    wish = tyro.cli(Options, prog="python -m scg.testing.power", args=argv)
    torch.set_num_threads(1)
    results = {name: trials(b, wish.seeds) for name, b in (("score function", None), ("with a baseline", 3.0))}
    wish.out.mkdir(parents=True, exist_ok=True)
    (wish.out / "power.md").write_text(text(results, wish.seeds), encoding="utf-8")
    picture(results, wish.out / "power.png")
    print(wish.out / "power.md", wish.out / "power.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
