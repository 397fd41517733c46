"""Foerster et al. (2018): derivatives of any order from one surrogate, and LOLA-DiCE on the iterated prisoner's dilemma.

The library's weights are the paper's operator, exp(log p − sg log p), so its surrogate is the DiCE objective. Exact rows
sum over all outcomes; sampled ones are held against the game's closed form. An entry of a sampled derivative more than
`FAR` standard errors off fails: by chance once in 200 runs, over the row's 65 entries and 24 degrees of freedom; a
bias of 7 standard errors of an entry would be found with probability 0.97.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli

from scg import Graph
from scg.estimators import ScoreFunction
from scg.papers.figures import panels, save
from scg.papers.foerster2018_dice.games import dilemma, expected_return, play, replay, state_values, traced
from scg.papers.foerster2018_dice.lola import Curves, learn
from scg.papers.report import Claim, Results, Say, collect, number, with_error

FAR = 5.0
GROUPS = 32
NEAR = -1.2  # a joint return that only mutual cooperation for most of the time reaches
SIZES, ERRORS = (16, 64, 256), (0.0, 2.0, 5.0, 10.0, 20.0)
VARIANTS = ((0, 0.1), (1, 0.1), (2, 0.1), (3, 0.1), (1, 0.3), (2, 0.3), (3, 0.3))


@dataclass(frozen=True)
class Settings:
    episodes: int = field(default=100_000, metadata={"help": "episodes for the gradient and the Hessian"})
    updates: int = field(default=150, metadata={"help": "updates of the learning players"})
    batch: int = field(default=64, metadata={"help": "episodes to each step of an update"})
    runs: int = field(default=6, metadata={"help": "independent runs of each learning pair"})
    seed: int = field(default=0, metadata={"help": "seed of everything"})

    def __post_init__(self) -> None:
        if self.episodes < 25:
            raise ValueError(f"--episodes {self.episodes}: standard errors are taken over 25 parts, so it is at least 25")
        if self.updates < 1 or self.batch < 2 or self.runs < 2:
            raise ValueError("--updates is at least 1, --batch and --runs at least 2")


def run(settings: Settings, out: Path, say: Say = lambda what, done: None) -> Results:
    """All claims, in the order of the paper."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    found: dict[str, object] = {}
    jobs: list[tuple[str, Callable[[], Claim]]] = [
        ("surrogate loss", wrong_twice),
        ("any order", any_order),
        ("gradient and Hessian", partial(derivatives, settings, found)),
        ("sample size", partial(sample_size, settings, found)),
        ("baseline error", partial(baseline_error, settings)),
        ("LOLA-DiCE", partial(cooperation, settings, found)),
        ("look-ahead", partial(look_ahead, found)),
    ]
    results = collect("foerster2018_dice", settings, jobs, say)
    draw(found, out / "curves.png")
    say("done", 1.0)
    return results


# -- exact -----------------------------------------------------------------------------------------------------------

TOY = 0.3


def toy_cost(x: Tensor, theta: Tensor) -> Tensor:
    return x * (1 - theta) + (1 - x) * (1 + theta)


def toy() -> Graph:
    graph = Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(probs=theta), name="x")
    graph.cost(toy_cost, name="f")
    return graph


def wrong_twice() -> Claim:
    """x ~ Bernoulli(θ), f = x(1 − θ) + (1 − x)(1 + θ): the mean of each second derivative, over both outcomes."""
    x = torch.tensor([0.0, 1.0], dtype=torch.float64)

    def derivatives(surrogate: Callable[[Tensor], Tensor], again: Callable[[Tensor, Tensor], Tensor]) -> list[float]:
        theta = torch.full((2,), TOY, dtype=torch.float64, requires_grad=True)
        p = Bernoulli(probs=theta.detach()).log_prob(x).exp()
        (first,) = torch.autograd.grad(surrogate(theta), theta, create_graph=True)
        (second,) = torch.autograd.grad(again(first, theta).sum(), theta)
        return [float(p @ first.detach()), float(p @ second)]

    def surrogate_loss(f: Tensor, theta: Tensor) -> Tensor:
        return f + f.detach() * Bernoulli(probs=theta).log_prob(x)

    graph = toy()
    ours = derivatives(lambda theta: 2 * graph.replay({"x": x}, theta=theta).surrogate(), lambda first, theta: first)
    theirs = derivatives(lambda theta: surrogate_loss(toy_cost(x, theta), theta).sum(), surrogate_loss)
    exact = [1 - 4 * TOY, -4.0]
    right = max(abs(a - b) for a, b in zip(ours, exact, strict=True)) < 1e-12 and abs(theirs[1] + 2) < 1e-12
    right = right and abs(theirs[0] - exact[0]) < 1e-12
    text = (
        f"summed over both outcomes at θ = {TOY:g}: gradient {number(ours[0], 3)} by either; second derivative "
        f"{number(ours[1], 3)} by our surrogate, {number(theirs[1], 3)} by the surrogate loss of the surrogate loss"
    )
    claim = (
        "Surrogate losses, the example x ~ Ber(θ), f = x(1 − θ) + (1 − x)(1 + θ): they are wrong from the second derivative on"
    )
    return claim, "∇²L = −4, by surrogate losses −2", text, right, {"ours": ours, "surrogate loss": theirs, "exact": exact}


def any_order(steps: int = 2) -> Claim:
    """All 4^steps games, each with parameters of its own, so that each has derivatives of its own."""
    p = players()
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2 * steps)), dtype=torch.float64).T.reshape(2, steps, -1, 1)
    moves = {"a": every[0], "o": every[1]}
    count = every.shape[2]
    each, live = p.expand(count, 10).clone().requires_grad_(), p.clone().requires_grad_()
    weights = probability(moves, p)
    ours, truth = count * replay(dilemma(), moves, each[:, :5], each[:, 5:]), -expected_return(live[:5], live[5:], steps)[0]
    direction = torch.linspace(-1.0, 1.0, 10, dtype=torch.float64)
    gaps = []
    for _ in range(3):  # the gradient; the second and third derivative along a direction
        (rows,) = torch.autograd.grad(ours, each, create_graph=True)
        (exact,) = torch.autograd.grad(truth, live, create_graph=True)
        gaps.append(float((weights @ rows.detach() - exact.detach()).abs().max()))
        ours, truth = (rows @ direction).sum(), exact @ direction
    text = (
        f"over all {count} games of {steps} steps, largest gap between mean and closed form: gradient {gaps[0]:.0e}, Hessian "
        f"{gaps[1]:.0e}, third derivative {gaps[2]:.0e} (the last two along a direction)"
    )
    claim = "Theorem 1: E[∇ⁿ of the DiCE objective] = ∇ⁿ L, for every n"
    return claim, "equal", text, abs(float(weights.sum()) - 1) < 1e-12 and max(gaps) < 1e-10, {"gaps": gaps}


def probability(moves: dict[str, Tensor], p: Tensor) -> Tensor:
    """Of each recorded game, by the graph's own distributions, `[runs]`."""
    trace = traced(dilemma(), moves, p[None, :5], p[None, 5:])
    return sum((trace.dist(name).log_prob(moves[name]).sum((0, -1)) for name in "ao"), torch.zeros(())).exp()  # type: ignore[union-attr]


def players(seed: int = 1) -> Tensor:
    """Both players' parameters, `[10]`, drawn once."""
    generator = torch.Generator().manual_seed(seed)
    return 0.5 * torch.randn(10, generator=generator, dtype=torch.float64)


# -- sampled ---------------------------------------------------------------------------------------------------------


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def derivatives(settings: Settings, found: dict[str, object]) -> Claim:
    """Gradient and Hessian in 25 parts, with and without the exact value function as baseline."""
    p = players().requires_grad_()
    (gradient,) = torch.autograd.grad(-expected_return(p[:5], p[5:])[0], p, create_graph=True)
    hessian = torch.stack([torch.autograd.grad(g, p, retain_graph=True)[0] for g in gradient])
    values = -state_values(p[:5].detach(), p[5:].detach()).unsqueeze(0)
    part, lines, right = settings.episodes // 25, [], True
    numbers: dict[str, Any] = {}
    for name, baseline in (("no baseline", False), ("exact baseline", True)):
        graph, generator = dilemma(baseline=baseline), torch.Generator().manual_seed(settings.seed)
        firsts, seconds = [], []
        for _ in range(25):
            theta, other = p[None, :5], p[None, 5:]
            surrogate = replay(graph, play(theta, other, part, generator), theta, other, values if baseline else None)
            (first,) = torch.autograd.grad(surrogate, p, create_graph=True)
            seconds.append(torch.stack([torch.autograd.grad(g, p, retain_graph=True)[0] for g in first]))
            firsts.append(first.detach())
        z = 0.0
        entries: dict[str, Any] = {}
        for what, parts, exact in (("gradient", firsts, gradient.detach()), ("Hessian", seconds, hessian)):
            stacked = torch.stack(parts)
            mean, error = stacked.mean(0), stacked.std(0) / 5
            z = max(z, float(((mean - exact).abs() / error).max()))
            entries[what] = {"correlation": correlation(mean, exact), "estimated": mean.tolist(), "exact": exact.tolist()}
        right = right and z < FAR
        numbers[name] = {**entries, "largest z": z}
        lines.append(
            f"{name}: correlation {entries['gradient']['correlation']:.4f} (gradient), {entries['Hessian']['correlation']:.4f} "
            f"(Hessian); no entry more than {z:.1f} standard errors off"
        )
    found["derivatives"] = numbers
    plain = numbers["no baseline"]
    if settings.episodes >= 100_000:
        right = right and plain["gradient"]["correlation"] > 0.99 and plain["Hessian"]["correlation"] > 0.9
    text = f"{25 * part:,} games of 150 steps<br>" + "<br>".join(lines)
    claim = "Iterated prisoner's dilemma: correlation of DiCE's gradient and Hessian with the exact ones"
    return claim, "0.999 (gradient), 0.97 (Hessian), 100k samples", text, right, numbers


def grouped(baseline: float | None, size: int, seed: int) -> list[float]:
    """Correlation of the gradient with the exact one, in GROUPS groups of `size` episodes; a baseline with that error."""
    p = players().requires_grad_()
    (exact,) = torch.autograd.grad(-expected_return(p[:5], p[5:])[0], p)
    generator = torch.Generator().manual_seed(seed)
    each = p.detach().expand(GROUPS, 10).clone().requires_grad_()
    values = None
    if baseline is not None:
        values = -state_values(p[:5].detach(), p[5:].detach()).expand(GROUPS, 5)
        values = values + baseline * torch.randn(GROUPS, 5, generator=generator, dtype=torch.float64)
    moves = play(each.detach()[:, :5], each.detach()[:, 5:], size, generator)
    surrogate = replay(dilemma(baseline=baseline is not None), moves, each[:, :5], each[:, 5:], values)
    (gradients,) = torch.autograd.grad(surrogate, each)
    return [correlation(g, exact) for g in gradients]


def with_spread(values: list[float]) -> str:
    return with_error(mean(values), error(values))


def mean(values: list[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).mean())


def error(values: list[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).std()) / len(values) ** 0.5


def apart(low: list[float], high: list[float]) -> bool:
    """`high` is greater, by 3 standard errors of the difference."""
    return mean(high) - mean(low) > 3 * (error(low) ** 2 + error(high) ** 2) ** 0.5


def sample_size(settings: Settings, found: dict[str, object]) -> Claim:
    curves = {
        name: {size: grouped(baseline, size, settings.seed + size) for size in SIZES}
        for name, baseline in (("no baseline", None), ("exact baseline", 0.0))
    }
    found["sizes"] = curves
    plain, helped = curves["no baseline"], curves["exact baseline"]
    right = all(apart(plain[n], helped[n]) for n in SIZES) and apart(plain[SIZES[0]], plain[SIZES[-1]])
    right = right and apart(helped[SIZES[0]], helped[SIZES[-1]])
    lines = [f"{n} episodes: {with_spread(plain[n])} without, {with_spread(helped[n])} with" for n in SIZES]
    numbers = {name: {str(n): [mean(v), error(v)] for n, v in curve.items()} for name, curve in curves.items()}
    claim = "Correlation of the gradient with the exact one by sample size, with and without a baseline"
    text = f"{GROUPS} groups each<br>" + "<br>".join(lines)
    return claim, "the baseline lifts it, and so do samples (a figure)", text, right, numbers


def baseline_error(settings: Settings) -> Claim:
    curve = {e: grouped(e, 128, settings.seed + 1000 + i) for i, e in enumerate(ERRORS)}
    right = apart(curve[ERRORS[-1]], curve[ERRORS[0]]) and apart(curve[ERRORS[-1]], curve[ERRORS[1]])
    lines = [f"error {e:g}: {with_spread(v)}" for e, v in curve.items()]
    claim = "The same by the baseline's error, 128 samples"
    text = "standard deviation of the error of each state's value, which are about 42:<br>" + "<br>".join(lines)
    return claim, "it falls with the error (a figure)", text, right, {str(e): [mean(v), error(v)] for e, v in curve.items()}


# -- learning --------------------------------------------------------------------------------------------------------


def cooperation(settings: Settings, found: dict[str, object]) -> Claim:
    curves = learn(VARIANTS, settings.runs, settings.updates, settings.batch, settings.seed)
    found["curves"] = curves
    ends = {variant: curves.returns[-1, i].tolist() for i, variant in enumerate(VARIANTS)}
    naive = ends[VARIANTS[0]]
    right = mean(naive) < -1.9 and all(apart(naive, ends[v]) for v in VARIANTS if v[1] == 0.3)
    lines = [f"{named(v)}: {with_spread(end)}" for v, end in ends.items()]
    far = [end for v, end in ends.items() if v[0]]
    share = sum(value > NEAR for end in far for value in end)
    text = f"after {settings.updates} updates, {settings.runs} runs each<br>" + "<br>".join(lines)
    text += f"<br>{share} of {sum(map(len, far))} runs with look-ahead end above {number(NEAR, 1)}"
    claim = "LOLA-DiCE: joint average return per step of naive learners and of players that look ahead (−1 is cooperation, −2 defection)"
    says = "naive learners end near −2, players that look ahead well above (a figure)"
    return claim, says, text, right, {named(v): end for v, end in ends.items()}


def look_ahead(found: dict[str, object]) -> Claim:
    """The same runs, by the number of steps."""
    curves = found["curves"]
    assert isinstance(curves, Curves)
    area = curves.returns.mean(0)  # over the updates: what was earned while learning
    ends, lines, numbers = curves.returns[-1], [], {}
    for i, variant in enumerate(VARIANTS[1:], 1):
        numbers[named(variant)] = {"end": ends[i].tolist(), "while learning": area[i].tolist()}
        lines.append(
            f"{named(variant)}: while learning {with_spread(area[i].tolist())}, at the end {with_spread(ends[i].tolist())}"
        )
    small = {steps: ends[VARIANTS.index((steps, 0.1))].tolist() for steps in (1, 2, 3)}
    large = {steps: ends[VARIANTS.index((steps, 0.3))].tolist() for steps in (1, 2, 3)}
    right = apart(small[1], small[2]) and apart(small[1], small[3])
    turned = not apart(large[1], large[3])
    lines.append("with α = 0.3 three steps are no better than one" if turned else "with α = 0.3 as well")
    claim = "LOLA-DiCE: more look-ahead steps, higher joint returns"
    return claim, "two and three steps beat one (a figure)", "<br>".join(lines), right, numbers


def named(variant: tuple[int, float]) -> str:
    steps, alpha = variant
    return f"look-ahead {steps}, α = {alpha:g}" if steps else "naive"


def draw(found: dict[str, object], path: Path) -> None:
    derivatives, sizes, curves = found["derivatives"], found["sizes"], found["curves"]
    assert isinstance(derivatives, dict)
    assert isinstance(sizes, dict)
    assert isinstance(curves, Curves)
    figure, ((gradient, hessian), (size, returns)) = panels(2, 2)
    for axis, what in ((gradient, "gradient"), (hessian, "Hessian")):
        entries = derivatives["no baseline"][what]
        exact, estimated = (torch.tensor(entries[k]).flatten() for k in ("exact", "estimated"))
        axis.plot(exact, "o", ms=3, color="0.6")
        axis.plot(estimated, "x", ms=3, color="k")
        axis.set_title(f"{what}: exact (grey), estimated", fontsize=9)
        axis.set_xlabel("entry", fontsize=8)
    for name, curve in sizes.items():
        size.errorbar(list(curve), [mean(v) for v in curve.values()], [error(v) for v in curve.values()], label=name, capsize=2)
    size.set(xscale="log", xlabel="episodes", ylabel="correlation")
    size.set_xticks(SIZES, [str(n) for n in SIZES], minor=False)
    size.minorticks_off()
    size.legend(fontsize=7, frameon=False)
    for i, variant in enumerate(VARIANTS):
        style = "k:" if not variant[0] else f"C{variant[0]}" + ("-" if variant[1] == 0.1 else "--")
        returns.plot(curves.returns[:, i].mean(-1), style, label=named(variant), lw=1.2)
    returns.set(xlabel="update", ylabel="joint return per step")
    save(figure, path, returns)


if __name__ == "__main__":
    from scg.papers.cli import paper

    sys.exit(paper(["foerster2018_dice", *sys.argv[1:]]))
