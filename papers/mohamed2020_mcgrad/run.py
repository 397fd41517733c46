"""Mohamed et al. (2020): variance of score-function, pathwise and measure-valued gradients, in closed form and measured.

Every measured mean and variance is held against its closed form; one that is more than `FAR` standard errors off fails.
Over the run's thousand comparisons that happens by chance once in a thousand runs, as far as the means are normal; an
error of 7 standard errors would be found with probability 0.98. The rows say how large a standard error is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor
from torch.distributions import Bernoulli, Normal

from scg import Estimator, Graph
from scg.estimators import ARM, DisARM, LeaveOneOut, MeasureValued, Pathwise, ScoreFunction
from scg.papers.mohamed2020_mcgrad.closed_forms import ESTIMATORS, FAMILIES, Array, Family, spaced
from scg.papers.mohamed2020_mcgrad.pictures import draw_bits, draw_families
from scg.papers.report import Claim, Job, Results, Say, collect, number
from scg.papers.toy import exact

FAR = 5.0
BASELINED = "score function, b = E[f]"
CHUNK = 20_000
K = {name: spaced(name, 13) for name in FAMILIES}
COST: dict[str, Callable[..., Tensor]] = {
    "(x − k)²": lambda x, k: (x - k) ** 2,
    "exp(−kx²)": lambda x, k: torch.exp(-k * x**2),
    "cos(kx)": lambda x, k: torch.cos(k * x),
}
OURS: dict[str, Estimator] = {
    "score function": ScoreFunction(),
    BASELINED: ScoreFunction(),
    "pathwise": Pathwise(),
    "measure-valued, independent": MeasureValued(coupled=False),
    "measure-valued, coupled": MeasureValued(),
}
SYMBOL = {"mu": "μ", "sigma": "σ"}
LOGITS, TARGETS = torch.linspace(-3, 3, 13, dtype=torch.float64), (0.45, 0.499)
BITS: dict[str, tuple[Estimator, Callable[[Tensor, Tensor], Tensor]]] = {
    "score function": (ScoreFunction(), exact.score_function),
    "leave-one-out, 2": (LeaveOneOut(2), exact.leave_one_out),
    "leave-one-out, 4": (LeaveOneOut(4), partial(exact.leave_one_out, n=4)),
    "ARM": (ARM(), exact.arm),
    "DisARM": (DisARM(), exact.disarm),
}


@dataclass(frozen=True)
class Settings:
    draws: int = field(default=200_000, metadata={"help": "independent draws of each estimator at each k"})
    seed: int = field(default=0, metadata={"help": "seed of all draws"})

    def __post_init__(self) -> None:
        if self.draws < 1000:
            raise ValueError(f"--draws {self.draws}: the standard error of a variance needs at least 1000 draws")


def run(settings: Settings, out: Path, say: Say = lambda what, done: None) -> Results:
    """All claims, in the order of the survey, then the toy of one bit."""
    out.mkdir(parents=True, exist_ok=True)
    lab = Lab(settings)
    jobs: list[Job] = [(name, partial(family, lab, name)) for name in FAMILIES]
    jobs += [("quadratic", partial(quadratic, lab)), ("pathwise loses", partial(pathwise_loses, lab))]
    jobs += [("coupling", coupling), ("variance as parameter", partial(squared_scale, lab))]
    jobs += [("one bit", partial(one_bit, lab))]
    results = collect("mohamed2020_mcgrad", settings, jobs, say)
    say("pictures", len(jobs) / (len(jobs) + 1))
    draw_families(lab.families, K, out / "gaussian.png")
    draw_bits(LOGITS, TARGETS, lab.bits, {name: closed for name, (_, closed) in BITS.items()}, out / "bernoulli.png")
    say("done", 1.0)
    return results


@dataclass(frozen=True)
class Measured:
    """Mean and variance of one gradient estimate, with standard errors: arrays over k."""

    mean: Array
    mean_error: Array
    variance: Array
    variance_error: Array

    def far(self, gradient: Array, variance: Array) -> tuple[float, float]:
        """How many standard errors mean and variance lie off at most."""
        return _far(self.mean, gradient, self.mean_error), _far(self.variance, variance, self.variance_error)


def _far(ours: Array, closed: Array, error: Array) -> float:
    gap = np.abs(ours - closed)
    rounding = gap <= 1e-12 * np.maximum(1.0, np.abs(closed))
    return float(np.where(rounding, 0.0, gap / np.maximum(error, 1e-300)).max())


class Lab:
    """Draws gradients; keeps what the pictures show."""

    def __init__(self, settings: Settings) -> None:
        self.draws = settings.draws
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.families: dict[str, dict[tuple[str, str], Measured]] = {}
        self.bits: dict[tuple[str, float], Measured] = {}

    def measure(
        self, graph: Graph, parameters: Mapping[str, Array], inputs: Mapping[str, Array], about: list[Array]
    ) -> list[Measured]:
        """The gradient for each of `parameters` at each column, about its exact value; `draws` rows of independent estimates."""
        sums = [np.zeros((3, len(centre))) for centre in about]
        fixed: dict[str, Any] = {name: torch.as_tensor(value) for name, value in inputs.items()}
        left = self.draws
        while left:
            rows = min(CHUNK, left)
            live: dict[str, Any] = {name: _rows(value, rows) for name, value in parameters.items()}
            surrogate = graph.sample(generator=self.generator, **live, **fixed).surrogate()
            gradients = torch.autograd.grad(surrogate * next(iter(live.values())).numel(), list(live.values()))
            for total, gradient, centre in zip(sums, gradients, about, strict=True):
                d = gradient.numpy() - centre
                total += np.stack([d.sum(0), (d**2).sum(0), (d**4).sum(0)])
            left -= rows
        found = []
        for total, centre in zip(sums, about, strict=True):
            first, second, fourth = total / self.draws
            error = np.sqrt(np.maximum(fourth - second**2, 0.0) / self.draws)
            found.append(Measured(centre + first, np.sqrt(second / self.draws), second, error))
        return found

    def of_family(self, name: str, law: Family, estimator: str) -> dict[str, Measured]:
        """The gradient for μ and for σ, from the same draws."""
        columns = law.k.shape
        parameters = {"mu": np.broadcast_to(law.mu, columns), "sigma": np.broadcast_to(law.sigma, columns)}
        about = [np.broadcast_to(law.gradient(p), columns) for p in parameters]
        found = self.measure(gaussian(name, estimator), parameters, inputs_of(law, estimator), about)
        return dict(zip(parameters, found, strict=True))


def _rows(value: Array, rows: int) -> Tensor:
    return torch.tensor(np.tile(value, (rows, 1)), dtype=torch.float64, requires_grad=True)


def gaussian(name: str, estimator: str, law: Callable[..., Normal] = lambda mu, sigma: Normal(mu, sigma)) -> Graph:
    """E[f(x; k)], x ~ N(μ, σ²)."""
    graph = Graph()
    baseline = (lambda level: level) if estimator == BASELINED else None
    graph.stochastic(OURS[estimator], law, name="x", baseline=baseline)
    graph.cost(COST[name], name="f", parents=["x", "k"])
    return graph


def inputs_of(law: Family, estimator: str) -> dict[str, Array]:
    inputs = {"k": law.k}
    return {**inputs, "level": _columns(law.level(), law).copy()} if estimator == BASELINED else inputs


def family(lab: Lab, name: str) -> Claim:
    """One cost over k at μ = σ = 1: every estimator, both parameters."""
    law = FAMILIES[name](1.0, 1.0, K[name])
    found: dict[tuple[str, str], Measured] = {}
    worst: dict[str, tuple[float, float]] = {}
    for estimator in ESTIMATORS:
        for parameter, measured in lab.of_family(name, law, estimator).items():
            found[estimator, parameter] = measured
            closed = _columns(law.variance(estimator, parameter), law)
            worst[f"{estimator}, {SYMBOL[parameter]}"] = measured.far(_columns(law.gradient(parameter), law), closed)
    lab.families[name] = found
    errors = np.concatenate([m.variance_error / m.variance for m in found.values()])
    text = (
        f"mean and variance of {len(ESTIMATORS)} estimators at {len(law.k)} values of k, for μ and for σ, against closed forms: at most "
        f"{max(m for m, _ in worst.values()):.1f} and {max(v for _, v in worst.values()):.1f} s.e. off "
        f"(s.e. of a variance {100 * np.median(errors):.1f} %, at most {100 * errors.max():.1f} %)"
    )
    numbers = {
        "k": _short(law.k),
        "closed": {f"{e}, {SYMBOL[p]}": _short(_columns(law.variance(e, p), law)) for e, p in found},
        "measured": {f"{e}, {SYMBOL[p]}": _short(m.variance) for (e, p), m in found.items()},
        "standard_errors_off": {key: [round(x, 2) for x in pair] for key, pair in worst.items()},
    }
    right = all(max(pair) <= FAR for pair in worst.values())
    figure = "Figure 2" if name == "(x − k)²" else "Figure 3"
    return f"{figure}: variance for f = {name} over k, μ = σ = 1", "curves ([ours](gaussian.png))", text, right, numbers


def _columns(value: Array, law: Family) -> Array:
    return np.broadcast_to(value, law.k.shape)


def _short(values: Array) -> list[float]:
    return [float(f"{x:.6g}") for x in values]


def quadratic(lab: Lab) -> Claim:
    """For a quadratic the pathwise variance knows nothing of k, the score function's grows with its fourth power."""
    name = "(x − k)²"
    found, far = lab.families[name], FAMILIES[name](1.0, 1.0, np.array([1e3, 2e3]))
    flat = found["pathwise", "mu"]
    constant = _far(flat.variance, 4.0, flat.variance_error)
    growth = {p: float(np.log2(np.divide(*far.variance("score function", p)[::-1]))) for p in SYMBOL}
    best = all((found["pathwise", "mu"].variance < found[e, "mu"].variance).all() for e in ESTIMATORS if e.startswith("score"))
    text = (
        f"pathwise for μ: 4σ² at every k, measured {flat.variance.min():.3f} to {flat.variance.max():.3f} ({constant:.1f} s.e. at most)<br>"
        f"score function: as k to the power {growth['mu']:.2f} (μ), {growth['sigma']:.2f} (σ), between k = 1000 and 2000"
    )
    right = constant <= FAR and all(abs(power - 4) < 0.02 for power in growth.values()) and best
    claim = "(x − k)²: the pathwise variance for μ is independent of k, and below the score function's, which is of fourth order in k"
    return claim, "4σ²; fourth order", text, right, {"standard_errors_off": constant, "growth": growth, "best": best}


def crossing(name: str, parameter: str, other: str) -> list[float]:
    """The k in the figure's range at which pathwise and `other` have the same variance."""

    def gap(k: float) -> float:
        law = FAMILIES[name](1.0, 1.0, k)
        return float(np.log(law.variance("pathwise", parameter) / law.variance(other, parameter)))

    grid = spaced(name, 400)
    values = [gap(x) for x in grid]
    pairs = zip(grid[:-1], grid[1:], values[:-1], values[1:], strict=True)
    return [float(brentq(gap, low, high)) for low, high, a, b in pairs if a * b < 0]


def pathwise_loses(lab: Lab) -> Claim:
    """The cells of the figure where the pathwise gradient has the larger variance."""
    lines, numbers, right = [], {}, True
    for name in ("exp(−kx²)", "cos(kx)"):
        for parameter, symbol in SYMBOL.items():
            law = FAMILIES[name](1.0, 1.0, K[name])
            path = lab.families[name]["pathwise", parameter]
            for other in ("score function", "measure-valued, coupled"):
                theirs = lab.families[name][other, parameter]
                closed = law.variance("pathwise", parameter) > law.variance(other, parameter)
                gap = path.variance - theirs.variance
                error = np.hypot(path.variance_error, theirs.variance_error)
                clear = np.abs(gap) > FAR * error
                right = right and bool(((gap > 0) == closed)[clear].all())
                at = crossing(name, parameter, other)
                numbers[f"{name}, {symbol}, {other}"] = {"crossings": at, "k": _short(law.k[closed]), "clear": int(clear.sum())}
                last = float(path.variance[-1] / theirs.variance[-1])
                where = (
                    "curves cross at " + ", ".join(f"k = {k:.3g}" for k in at) if at else "no crossing in the figure's range"
                )
                lines.append(
                    f"{name}, {symbol}, {other}: {where}; at k = {law.k[-1]:g} pathwise has {last:.3g} times its variance"
                )
                right = right and (other != "score function" or last > 1)
    claim = "Figure 3: no estimator is best throughout; with growing k the score function overtakes the pathwise gradient"
    return claim, "curves cross", "<br>".join(lines), right, numbers


def coupling() -> Claim:
    """Variance with common noise as a share of that without, in closed form on a fine grid."""
    lines, numbers = [], {}
    for name in FAMILIES:
        for parameter, symbol in SYMBOL.items():
            law = FAMILIES[name](1.0, 1.0, spaced(name, 601))
            ratio = law.variance("measure-valued, coupled", parameter) / law.variance("measure-valued, independent", parameter)
            numbers[f"{name}, {symbol}"] = [float(ratio.min()), float(ratio.max())]
            lines.append(f"{name}, {symbol}: {ratio.min():.3g} to {ratio.max():.3g}")
    worse = [key for key, (_, high) in numbers.items() if high > 1]
    text = (
        "variance coupled / independent over k: " + "; ".join(lines) + f"<br>above 1 somewhere: {', '.join(worse) or 'nowhere'}"
    )
    right = all(low < 1 for low, _ in numbers.values())
    return (
        "Coupling (section 7): common noise can lower the variance of measure-valued gradients",
        "it can",
        text,
        right,
        numbers,
    )


def squared_scale(lab: Lab) -> Claim:
    """σ² as the parameter, elsewhere: the variance is that for σ divided by 4σ²."""
    mu, sigma, worst = 0.6, 0.7, {}
    for name, k in (("(x − k)²", -0.8), ("exp(−kx²)", 2.5), ("cos(kx)", 3.0)):
        law = FAMILIES[name](mu, sigma, np.array([k]))
        for estimator in ESTIMATORS:
            graph = gaussian(name, estimator, lambda mu, var: Normal(mu, var.sqrt()))
            inputs = {"mu": np.array([mu]), **inputs_of(law, estimator)}
            gradient = _columns(law.gradient("sigma"), law) / (2 * sigma)
            (measured,) = lab.measure(graph, {"var": np.array([sigma**2])}, inputs, [gradient])
            closed = _columns(law.variance(estimator, "sigma"), law) / (4 * sigma**2)
            worst[f"{name}, {estimator}"] = measured.far(gradient, closed)
    text = f"{len(worst)} variances at μ = {mu}, σ = {sigma}: at most {max(v for _, v in worst.values()):.1f} s.e. off their closed forms"
    right = all(max(pair) <= FAR for pair in worst.values())
    numbers = {key: [round(x, 2) for x in pair] for key, pair in worst.items()}
    return "The same for σ², by the chain rule: Var for σ divided by 4σ²", "—", text, right, numbers


def one_bit(lab: Lab) -> Claim:
    """E[(b − t)²], b ~ Bernoulli(σ(θ)): closed forms against our estimators at 13 logits and two targets."""
    worst: dict[str, tuple[float, float]] = {}
    for name, (estimator, closed) in BITS.items():
        graph = Graph()
        graph.stochastic(estimator, lambda theta: Bernoulli(logits=theta), name="b")
        graph.cost(exact.cost, name="f")
        for target in TARGETS:
            t = exact.scalar(target)
            gradient = exact.gradient(LOGITS, t).numpy()
            (measured,) = lab.measure(graph, {"theta": LOGITS.numpy()}, {"t": np.array(target)}, [gradient])
            lab.bits[name, target] = measured
            worst[f"{name}, t = {target}"] = measured.far(gradient, closed(LOGITS, t).numpy())
    zero, t = exact.scalar(0.0), exact.scalar(0.45)
    at = "; ".join(f"{name} {number(float(closed(zero, t)), 7)}" for name, (_, closed) in BITS.items())
    text = (
        f"mean and variance at {len(LOGITS)} logits, t = 0.45 and 0.499: at most {max(m for m, _ in worst.values()):.1f} and "
        f"{max(v for _, v in worst.values()):.1f} s.e. off<br>variances at θ = 0, t = 0.45: {at}"
    )
    right = all(max(pair) <= FAR for pair in worst.values())
    numbers = {
        "standard_errors_off": {key: [round(x, 2) for x in pair] for key, pair in worst.items()},
        "closed": {
            f"{name}, t = {t}": _short(closed(LOGITS, exact.scalar(t)).numpy())
            for name, (_, closed) in BITS.items()
            for t in TARGETS
        },
        "measured": {f"{name}, t = {t}": _short(m.variance) for (name, t), m in lab.bits.items()},
    }
    claim = "One bit, E[(b − t)²] over its logit: variance of the score function, leave-one-out, ARM and DisARM"
    return claim, "ours to derive ([picture](bernoulli.png))", text, right, numbers


if __name__ == "__main__":
    from scg.papers.cli import paper

    sys.exit(paper(["mohamed2020_mcgrad", *sys.argv[1:]]))
