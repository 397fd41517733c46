"""Dong, Mnih & Tucker (2020): DisARM's variance, exactly on small joints of bits, and along the training of discrete VAEs.

Exact first: for random costs of three bits, variances of ARM, DisARM, leave-one-out and the score function are finite
sums (`joint`), and the library's estimators are held against them. Then VAEs are trained with each estimator on the same
minibatches from the same weights, seed by seed; and at weights along one of these trainings, the scatter of every
estimator's gradient is measured, all at the same weights.

A ratio of variances counts as above 1 when it lies more than `FAR` of its standard errors above: against ARM at every
checkpoint, against leave-one-out in the geometric mean.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent

from scg import Estimator, Graph
from scg.estimators import ARM, ARMS, DisARM, LeaveOneOut, ScoreFunction
from scg.papers.dong2020_disarm import joint, pictures, vae
from scg.papers.report import REFUTED, Claim, Results, Say, collect, number, with_error
from scg.papers.toy import exact

FAR = 4.0
UNDECIDED = "undecided"
"""Neither the paper's lead nor its opposite stands out of the noise of so many seeds."""
PAIR: dict[str, Estimator] = {"score": ScoreFunction(2), "leave-one-out": LeaveOneOut(2), "ARM": ARM(), "DisARM": DisARM()}
FOUR_PAIRS: dict[str, Estimator] = {"leave-one-out": LeaveOneOut(8), "ARM": ARM(4), "DisARM": DisARM(4), "ARMS": ARMS(8)}


@dataclass(frozen=True)
class Settings:
    steps: int = field(default=1000, metadata={"help": "training steps of each VAE"})
    seeds: int = field(default=4, metadata={"help": "trainings with each estimator"})
    points: int = field(default=5, metadata={"help": "checkpoints of a training, besides the start"})
    draws: int = field(default=50, metadata={"help": "pairs of gradients for a variance of the VAE"})
    cases: int = field(default=300, metadata={"help": "random joints of three bits whose variances are computed exactly"})
    images: int = field(default=4000, metadata={"help": "synthetic images to train on; an eighth as many more to test on"})
    seed: int = field(default=0, metadata={"help": "seed of everything; the others count on from it"})

    def __post_init__(self) -> None:
        if self.steps < self.points:
            raise ValueError(f"--steps {self.steps}: the curves have {self.points} points, so at least as many steps")
        for name, least in (("points", 1), ("seeds", 2), ("draws", 8), ("cases", 1), ("images", vae.BATCH)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} {getattr(self, name)}: at least {least}")


def run(settings: Settings, out: Path, say: Say = lambda what, done: None) -> Results:
    """All claims: exact ones, then the two VAEs."""
    out.mkdir(parents=True, exist_ok=True)
    trained = {name: Trained(settings, name == "nonlinear") for name in ("linear", "nonlinear")}
    jobs: list[tuple[str, Callable[[], Claim]]] = [
        ("one bit", partial(one_bit, settings)),
        ("three bits", partial(three_bits, settings)),
        ("the library's variances", partial(sampled, settings)),
    ]
    for name, study in trained.items():
        jobs += [
            (f"{name} VAE, training", partial(bounds, study, name)),
            (f"{name} VAE, variance", partial(scatters, study, name)),
        ]
        jobs += [(f"{name} VAE, leave-one-out", partial(independent, study, name))]
        jobs += [(f"{name} VAE, four pairs", partial(four_pairs, study, name))]
    results = collect("dong2020_disarm", settings, jobs, say)
    pictures.draw(trained, out / "training.png")
    say("done", 1.0)
    return results


# -- exact ---------------------------------------------------------------------------------------------------------


def one_bit(settings: Settings) -> Claim:
    """Closed forms over a grid of logits, for any cost: they scale with (f(1) − f(0))²."""
    theta = torch.linspace(-8, 8, 161, dtype=torch.float64)
    t = torch.zeros((), dtype=torch.float64)
    arm, disarm, independent = exact.arm(theta, t), exact.disarm(theta, t), exact.leave_one_out(theta, t)
    to_arm, to_independent = disarm / arm, disarm / independent
    middle = disarm[theta.abs() < 1e-12].item()
    right = bool((to_arm < 1).all() and (to_independent < 1).all()) and abs(middle) < 1e-15
    ours = (
        f"at θ = 0 variance {middle:.0f}; variance by ARM's {number(to_arm.min().item(), 2)} to {number(to_arm.max().item(), 2)}, "
        f"by leave-one-out's {number(to_independent.min().item(), 2)} to {number(to_independent.max().item(), 4)}, |θ| ≤ 8"
    )
    found = {"by_arm": to_arm.tolist(), "by_leave_one_out": to_independent.tolist(), "theta": theta.tolist()}
    return (
        "Section 3, one bit, any cost: DisARM's variance is below ARM's (and two independent samples')",
        "lower",
        ours,
        right,
        found,
    )


def three_bits(settings: Settings) -> Claim:
    """Random logits and random tables of costs; and one case of eight bits that shows what is not guaranteed."""
    cases = [joint.variances(*case(settings.seed + i)) for i in range(settings.cases)]
    to_arm = torch.tensor([c.disarm / c.arm for c in cases])
    to_independent = torch.tensor([c.disarm / c.leave_one_out for c in cases])
    lonely = joint.variances(*one_that_counts())
    worse = lonely.disarm / lonely.leave_one_out
    ours = (
        f"variance by ARM's {number(to_arm.min().item(), 2)} to {number(to_arm.max().item(), 2)}, by leave-one-out's "
        f"{number(to_independent.min().item(), 2)} to {number(to_independent.max().item(), 2)}<br>where the cost is one fair bit, "
        f"and seven bits with θ = 2.2 have scores only: {number(worse, 2)} of leave-one-out's"
    )
    claim = (
        "Section 3, guaranteed: integrating out the augmentation lowers ARM's variance, for every cost and any number of bits"
    )
    found = {"by_arm": to_arm.tolist(), "by_leave_one_out": to_independent.tolist(), "one_that_counts": worse}
    right = bool((to_arm < 1).all()) and lonely.disarm < lonely.arm
    return claim, "never above ARM's; nothing is guaranteed against independent samples", ours, right, found


def one_that_counts() -> tuple[Tensor, Tensor]:
    """Eight bits, of which only the first, a fair one, has a cost."""
    theta = torch.tensor([0.0, *[2.2] * 7], dtype=torch.float64)
    return theta, torch.arange(2, dtype=torch.float64).reshape(2, *[1] * 7).expand(*[2] * 8)


def case(seed: int) -> tuple[Tensor, Tensor]:
    """Logits of three bits, and a cost for each of their values."""
    generator = torch.Generator().manual_seed(seed)
    theta = 1.5 * torch.randn(3, dtype=torch.float64, generator=generator)
    return theta, torch.randn(2, 2, 2, dtype=torch.float64, generator=generator)


def sampled(settings: Settings) -> Claim:
    """The estimators of the library on the first case, drawn 100,000 times at once."""
    theta, costs = case(settings.seed)
    truth, mean = asdict(joint.variances(theta, costs)), joint.gradient(theta, costs)
    lines, found, right = [], {}, True
    draws = 100_000
    for (name, estimator), exactly in zip(PAIR.items(), truth.values(), strict=False):
        g = drawn(estimator, theta, costs, draws, settings.seed)
        square = (g - mean).square().sum(-1)
        value, error = square.mean().item(), square.std().item() / draws**0.5
        bias = ((g.mean(0) - mean) / (g.std(0) / draws**0.5)).abs().max().item()
        right = right and abs(value - exactly) < FAR * error and bias < FAR
        lines.append(f"{name} {with_error(value, error)} (exact {number(exactly, 4)})")
        found[name] = {"variance": value, "error": error, "exact": exactly, "largest_z_of_mean": bias}
    claim = "the estimators of this library have these means and variances"
    return claim, "—", "<br>".join(lines), right, found


def drawn(estimator: Estimator, theta: Tensor, costs: Tensor, draws: int, seed: int) -> Tensor:
    """`[draws, D]` gradients."""
    graph = Graph()
    graph.stochastic(estimator, lambda theta: Independent(Bernoulli(logits=theta), 1), name="b")
    graph.cost(lambda b: costs[tuple(b.long().unbind(-1))], name="f")
    each = theta.expand(draws, -1).clone().requires_grad_()
    graph.surrogate(theta=each, generator=torch.Generator().manual_seed(seed)).backward()
    assert each.grad is not None
    return each.grad * draws


# -- VAEs ----------------------------------------------------------------------------------------------------------


class Trained:
    """One kind of VAE: the trainings, done when they are first asked for, and what is measured along one of them."""

    def __init__(self, settings: Settings, nonlinear: bool) -> None:
        self.settings, self.nonlinear = settings, nonlinear
        self.data, self.test = vae.images(settings.images, settings.seed), vae.images(settings.images // 8, settings.seed + 1)
        self.curves: dict[str, list[vae.Curve]] = {}
        self.scatters: dict[str, list[vae.Scatter]] = {}

    def model(self, seed: int) -> vae.Model:
        return vae.Model(self.nonlinear, self.data.mean(0), seed)

    def train(self) -> None:
        """Every estimator with every seed. The weights of DisARM's first training are kept."""
        s = self.settings
        for name, estimator in PAIR.items():
            self.curves[name] = [
                vae.train(
                    self.model(seed), estimator, self.data, self.test, s.steps, s.points, seed, name == "DisARM" and k == 0
                )
                for k, seed in enumerate(range(s.seed, s.seed + s.seeds))
            ]

    def along(self, estimators: dict[str, Estimator]) -> dict[str, list[vae.Scatter]]:
        """The scatter of each at the kept weights."""
        model, x = self.model(self.settings.seed), self.data[: vae.BATCH]
        found: dict[str, list[vae.Scatter]] = {name: [] for name in estimators}
        for i, weights in enumerate(self.curves["DisARM"][0].weights):
            model.load_state_dict(weights)
            for name, estimator in estimators.items():
                found[name].append(vae.scatter(model, estimator, x, self.settings.draws, self.settings.seed + i))
        return found


def bounds(study: Trained, name: str) -> Claim:
    """The test ELBO at the end, as differences to DisARM's with the same seed."""
    study.train()
    last = {key: torch.tensor([curve.elbo[-1] for curve in curves]) for key, curves in study.curves.items()}
    lines, leads = [f"DisARM {with_error(*mean(last['DisARM']))}"], {}
    for key in ("leave-one-out", "ARM", "score"):
        leads[key] = mean(last["DisARM"] - last[key])
        lines.append(f"ahead of {key} by {with_error(*leads[key])}")
    significant = {key: lead / error for key, (lead, error) in leads.items()}
    right: bool | str = all(z > 2 for z in significant.values())
    if not right:
        right = REFUTED if any(z < -FAR for z in significant.values()) else UNDECIDED
    claim = f"Section 5, {name} VAE: DisARM reaches a better bound than ARM and REINFORCE LOO, two evaluations each"
    found = {
        "elbo": {key: value.tolist() for key, value in last.items()},
        "curves": {key: {"steps": c[0].steps, "elbo": [one.elbo for one in c]} for key, c in study.curves.items()},
        "leads": leads,
    }
    return claim, "better, consistently", "<br>".join(lines), right, found


def scatters(study: Trained, name: str) -> Claim:
    """Against ARM, which is guaranteed: at every checkpoint."""
    study.scatters = along = study.along(PAIR)
    against = {key: ratios(along[key], along["DisARM"]) for key in ("ARM", "score")}
    lines = [f"{key} by DisARM: {spelt(rows)}" for key, rows in against.items()]
    right = all(r - FAR * e > 1 for rows in against.values() for r, e in rows)
    claim = f"Section 5, {name} VAE: along training DisARM's gradient has less variance than ARM's"
    found = {"variances": {k: [asdict(s) for s in rows] for k, rows in along.items()}, "ratios": against}
    return claim, "less, at every point", "<br>".join(lines), right, found


def independent(study: Trained, name: str) -> Claim:
    """Against leave-one-out, which is not guaranteed: the geometric mean along training."""
    rows = ratios(study.scatters["leave-one-out"], study.scatters["DisARM"])
    logs = [(math.log(r), e / r) for r, e in rows]
    average, error = sum(x for x, _ in logs) / len(logs), math.hypot(*[e for _, e in logs]) / len(logs)
    below = [study.curves["DisARM"][0].steps[i] for i, (x, e) in enumerate(logs) if x < -FAR * e]
    right: bool | str = average > FAR * error
    if average < -FAR * error:
        right = REFUTED
    ours = f"REINFORCE LOO by DisARM: {spelt(rows)}; geometric mean {with_error(math.exp(average), math.exp(average) * error)}"
    ours += f"; below 1 at step {', '.join(map(str, below))}" if below else ""
    claim = f"Section 5, {name} VAE: and less variance than REINFORCE LOO's, on the average along training"
    return claim, "less, consistently", ours, right, {"ratios": rows, "geometric_mean": math.exp(average), "below": below}


def four_pairs(study: Trained, name: str) -> Claim:
    """Eight evaluations: four independent pairs, against eight samples that share a baseline."""
    along = study.along(FOUR_PAIRS)
    against = {key: ratios(along[key], along["DisARM"]) for key in ("ARM", "leave-one-out", "ARMS")}
    lines = [f"{key} by DisARM: {spelt(rows)}" for key, rows in against.items()]
    right = all(r - FAR * e > 1 for r, e in against["ARM"])
    claim = f"not in the paper, {name} VAE, eight evaluations: four pairs of DisARM have less variance than four of ARM"
    found = {"variances": {k: [asdict(s) for s in rows] for k, rows in along.items()}, "ratios": against}
    return claim, "—", "<br>".join(lines), right, found


def ratios(above: list[vae.Scatter], below: list[vae.Scatter]) -> list[tuple[float, float]]:
    """Quotients with standard errors, from independent draws."""
    found = []
    for a, b in zip(above, below, strict=True):
        quotient = a.variance / b.variance
        found.append((quotient, quotient * math.hypot(a.error / a.variance, b.error / b.variance)))
    return found


def spelt(rows: list[tuple[float, float]]) -> str:
    first, last = with_error(*rows[0]), with_error(*rows[-1])
    least, most = (number(f(r for r, _ in rows), 2) for f in (min, max))
    return f"{first} at first, {last} at last, {least} to {most} along {len(rows)} points"


def mean(values: Tensor) -> tuple[float, float]:
    return values.mean().item(), values.std().item() / len(values) ** 0.5


if __name__ == "__main__":
    from scg.papers.cli import paper

    sys.exit(paper(["dong2020_disarm", *sys.argv[1:]]))
