"""How often the sequential test is wrong, and how often it finds what is there: counted over many small cases.

    python -m scg.testing.rates                 writes docs/rates.md

Right cases use the core's primitives; each has a biased twin whose score is multiplied by 1 + b, |b| at least the detectable
bias. The truth is the exact oracle's. In every family parameters, thresholds and prices are drawn anew.

    smooth     a sum of a sine and a square, under a Normal, an Exponential or a Bernoulli
    jumping    a step of random height at a random place, beside a slope
    rare       a step that is reached with a probability between 1e-2 and 1e-7, priced at its inverse
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import tyro
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Exponential, Normal

from scg.estimator import Branches, Estimator, Pathwise, ScoreFunction
from scg.graph import Graph
from scg.randomness import randomness
from scg.testing.oracle import exact
from scg.testing.parameters import Parameters
from scg.testing.sequential import Verdict, judge

FALSE_ALARM, DETECTABLE, MOST = 0.01, 0.2, 2**17
PER_ROW, CALL = 64, 2**16  # draws to an observation; draws at once
RUNS = 20  # of each case, on random numbers of their own


@dataclass(frozen=True)
class Tilted(Estimator):
    """The score function, its score multiplied by 1 + b: a gradient that is 1 + b times the true one."""

    b: float
    samples: int = 1

    def branch(self, distribution: Distribution) -> Branches:
        n = None if self.samples == 1 else self.samples
        value = distribution.sample(torch.Size(() if n is None else (n,)))
        log_prob = distribution.log_prob(value)
        return Branches(value, n, score=(1.0 + self.b) * (log_prob - log_prob.detach()))


@dataclass(frozen=True)
class Case:
    family: str
    graph: Graph
    theta: float
    biased: bool


def cases(family: str, count: int, biased: bool, seed: int = 0) -> Iterator[Case]:
    """`count` random cases of a family."""
    rng = random.Random(f"{family} {seed}")  # the twins of the same seed are the same but for the estimator
    for _ in range(count):
        law, theta = rng.choice(
            [
                (lambda theta: Normal(theta, 1.0), rng.uniform(-1, 1)),
                (lambda theta: Exponential(theta.exp()), rng.uniform(-0.5, 0.5)),
                (lambda theta: Bernoulli(logits=theta), rng.uniform(-1, 1)),
            ][: 3 if family == "smooth" else 2]
        )
        sign, b, samples = rng.choice([-1, 1]), rng.uniform(1.25 * DETECTABLE, 3 * DETECTABLE), rng.choice([1, 4])
        path = rng.random() < 0.3 and family == "smooth"
        cost = _cost(family, rng, law(torch.tensor(theta)))
        estimator: Estimator = Tilted(sign * b, samples) if biased else ScoreFunction(samples=samples)
        if path and not biased and law(torch.tensor(theta)).has_rsample:
            estimator = Pathwise()
        graph = Graph()
        graph.stochastic(estimator, law, name="x")
        graph.cost(cost, name="loss")
        yield Case(family, graph, theta, biased)


def _cost(family: str, rng: random.Random, law: Distribution) -> Callable[[Tensor], Tensor]:
    u, v, w = rng.uniform(0.5, 2), rng.uniform(-1, 1), rng.uniform(-1, 1)
    if family == "smooth":
        return lambda x: u * torch.sin(x + v) + 0.3 * w * x**2
    if family == "jumping":
        return lambda x: u * (x > 1 + v).to(x.dtype) + 0.3 * w * x
    p = 10 ** rng.uniform(-7, -2)
    level = float(law.icdf(torch.tensor(1 - p, dtype=torch.float64)))
    return lambda x: (x > level).to(x.dtype) / p


def draws(case: Case, generator: torch.Generator) -> Callable[[int], Tensor]:
    """Observations of `PER_ROW` draws: one parameter for each batch element gives each draw's own gradient."""

    def take(rows: int) -> Tensor:
        found, left = [], rows * PER_ROW
        with randomness(generator):
            while left > 0:
                n = min(left, CALL)
                theta = torch.full((n,), case.theta, dtype=torch.float64, requires_grad=True)
                (gradient,) = torch.autograd.grad(case.graph.surrogate(theta=theta) * n, theta)
                found.append(gradient.detach())
                left -= n
        return torch.cat(found).reshape(rows, PER_ROW, 1).mean(1)

    return take


def verdicts(case: Case, runs: int, seed: int) -> list[Verdict]:
    theta = torch.tensor(case.theta, dtype=torch.float64, requires_grad=True)
    parameters = Parameters({"theta": theta})
    truth = exact(case.graph, parameters, 1, None)
    generator = torch.Generator().manual_seed(seed)
    run = partial(
        judge, draws(case, generator), PER_ROW, truth, parameters.blocks(), false_alarm=FALSE_ALARM, detectable=DETECTABLE,
        floor=0.0, max_draws=MOST, epsilon=parameters.epsilon,
    )  # fmt: skip
    return [run().verdict for _ in range(runs)]


def interval(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper & Pearson's (1934) for k of n: the probabilities under which so many, or so few, are not too improbable."""
    tail = (1 - confidence) / 2

    def below(p: float, k: int) -> float:  # P(X ≤ k)
        if k < 0:
            return 0.0
        logs = [_log_binomial(n, i) + i * math.log(p) + (n - i) * math.log1p(-p) for i in range(k + 1)]
        return math.fsum(math.exp(x) for x in logs)

    def solve(f: Callable[[float], bool]) -> float:
        low, high = 1e-12, 1 - 1e-12
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if f(middle) else (low, middle)
        return low

    lower = 0.0 if k == 0 else solve(lambda p: 1 - below(p, k - 1) < tail)
    upper = 1.0 if k == n else solve(lambda p: below(p, k) > tail)
    return lower, upper


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


FAMILIES = ("smooth", "jumping", "rare")
Counts = dict[tuple[str, bool], list[Verdict]]


def measure(count: int, seed: int = 0) -> Iterator[Counts]:
    """Runs on right cases, and as many on biased ones, in equal parts from each family: what was found so far, round by
    round, until there are `count` of each."""
    found: Counts = {(family, biased): [] for family in FAMILIES for biased in (False, True)}
    rounds = max(1, math.ceil(count / len(FAMILIES) / RUNS))
    streams = {(f, b): cases(f, rounds, b, seed) for f, b in found}
    for i in range(rounds):
        for key, stream in streams.items():
            found[key] += verdicts(next(stream), RUNS, 7919 * seed + i)
        yield found


def text(found: Counts, seconds: float) -> str:
    """The page."""
    count = sum(len(v) for (_, biased), v in found.items() if biased)

    def share(v: list[Verdict], verdict: Verdict) -> str:
        k = v.count(verdict)
        low, high = interval(k, len(v))
        return f"{k} of {len(v):,}: {k / len(v):.2%} [{low:.2%}, {high:.2%}]"

    lines = [
        "# How often the test is wrong",
        "",
        f"Written by `python -m scg.testing.rates --cases {count}` in {seconds:.0f} s of processor time; 95 % intervals by Clopper "
        "& Pearson.",
        "",
        f"Stated error rate {FALSE_ALARM:g}, detectable bias {DETECTABLE:g} of the gradient (floor=0), at most {MOST:,} draws. Right cases use "
        f"ScoreFunction (1 or 4 samples) or Pathwise; in their biased twins the score is multiplied by 1 + b, |b| between "
        f"{1.25 * DETECTABLE:g} and {3 * DETECTABLE:g}. Each case is run {RUNS} times on other draws, and the intervals are those of independent runs. `scg/testing/rates.py` describes the families.",
        "",
        "| right cases | called biased (false alarm) | called unbiased | undecided |",
        "|---|---|---|---|",
    ]
    for biased in (False, True):
        if biased:
            lines += ["", "| biased twins | called biased (power) | called unbiased (miss) | undecided |", "|---|---|---|---|"]
        for family in FAMILIES:
            v = found[family, biased]
            lines.append(f"| {family} | " + " | ".join(share(v, w) for w in ("biased", "unbiased", "undecided")) + " |")
        total = [x for family in FAMILIES for x in found[family, biased]]
        lines.append("| all | " + " | ".join(share(total, w) for w in ("biased", "unbiased", "undecided")) + " |")
    lines += [
        "",
        "Undecided is the right answer where outcomes that all draws may have missed make up the gradient: of the rare cases, those "
        f"whose event is less probable than about 10 / {MOST:,}, and most of those for which {MOST:,} draws do not give an interval "
        "of the detectable size.",
    ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Options:
    """Count the errors of the sequential test."""

    out: Path = Path("docs")
    """folder of rates.md"""
    cases: int = 2000
    """right cases, and as many biased ones"""
    seed: int = 0
    """of cases and draws"""


def main(argv: list[str] | None = None) -> int:
    wish = tyro.cli(Options, prog="python -m scg.testing.rates", args=argv)
    torch.set_num_threads(1)
    start = time.process_time()
    wish.out.mkdir(parents=True, exist_ok=True)
    for found in measure(wish.cases, wish.seed):  # the page is whole after every round
        page = text(found, time.process_time() - start)
        (wish.out / "rates.md").write_text(page, encoding="utf-8")
    print(page)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
