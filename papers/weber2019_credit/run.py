"""Weber et al. (2019): what may multiply a score. Bias and variance of each choice on one small graph, exactly.

Nothing here is sampled: means and variances are sums over all outcomes, whose only error is that of an 80-point quadrature
(1e-12). A choice is unbiased when its mean is the exact gradient to 1e-9.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from scg import Graph, GraphError
from scg.draw import render
from scg.estimators.credit import QCritic, valid_conditioning_sets
from scg.papers.report import Claim, Results, Say, collect, number
from scg.papers.weber2019_credit.graphs import (
    NODES,
    POINTS,
    THETA,
    Choice,
    Outcomes,
    c3,
    choices,
    cost_to_go,
    gradient_critic,
    graph,
    later,
    objective,
    outcomes,
    value,
)

RIGHT = 1e-9


@dataclass(frozen=True)
class Settings:
    points: int = field(default=POINTS, metadata={"help": "points of the quadrature over x; nothing is drawn"})

    def __post_init__(self) -> None:
        if self.points < 10:
            raise ValueError(f"--points {self.points}: the quadrature needs at least 10 points")


@dataclass(frozen=True)
class Moments:
    """Mean and variance of a gradient, by parameter."""

    mean: Tensor
    variance: Tensor

    @property
    def bias(self) -> float:
        return float((self.mean - exact()).abs().max())

    @property
    def total(self) -> float:
        return float(self.variance.sum())

    def numbers(self) -> dict[str, object]:
        return {"mean": self.mean.tolist(), "variance": self.variance.tolist(), "bias": self.bias}


def run(settings: Settings, out: Path, say: Say = lambda what, done: None) -> Results:
    """All claims."""
    out.mkdir(parents=True, exist_ok=True)
    lab = Lab(settings.points)
    jobs: list[tuple[str, Callable[[], Claim]]] = [
        (job.__name__, partial(job, lab))
        for job in (downstream, baselines, critics, bootstrap, gradient_critics, sets, wrong_sets)
    ]
    results = collect("weber2019_credit", settings, jobs, say)
    results.sections["choices"] = lab.table()
    results.sections["sets"] = "```\n" + "\n".join(str(valid_conditioning_sets(plain(), n)) for n in NODES) + "\n```"
    render(plain(), out / "graph.png")
    say("done", 1.0)
    return results


def exact() -> Tensor:
    theta = THETA.clone().requires_grad_()
    return torch.autograd.grad(objective(theta), theta)[0]


def plain() -> Graph:
    return graph(Choice("costs downstream"))


def moments(built: Graph, of: Outcomes) -> Moments:
    """Of the surrogate's gradient, over all outcomes: each is an element of the batch, with parameters of its own."""
    count = of.p.numel()
    theta = THETA.expand(count, 3).clone().requires_grad_()
    surrogate = count * built.replay(of.values, theta=theta).surrogate()
    (each,) = torch.autograd.grad(surrogate, theta)
    mean = of.p @ each
    return Moments(mean, of.p @ (each - mean) ** 2)


class Lab:
    def __init__(self, points: int = POINTS) -> None:
        self.outcomes = outcomes(points)
        self.of = {name: moments(graph(choice), self.outcomes) for name, choice in choices().items()}
        for name, built in (
            gradient_critic(),
            gradient_critic(lambda x: value(x) + 0.5 * x, "gradient critic, slope 0.5 too much"),
        ):
            self.of[name] = moments(built, self.outcomes)

    def compare(self, claim: str, paper: str, names: list[str]) -> Claim:
        """The first is the reference; the others have its mean, and less variance."""
        found = [self.of[name] for name in names]
        right = all(m.bias < RIGHT for m in found) and all(m.total < found[0].total for m in found[1:])
        lines = [
            f"{name}: largest bias {m.bias:.0e}, variance {number(m.total, 4)}" for name, m in zip(names, found, strict=True)
        ]
        return claim, paper, "<br>".join(lines), right, {name: m.numbers() for name, m in zip(names, found, strict=True)}

    def table(self) -> str:
        lines = ["| credit | largest bias | variance of θ₀ | θ₁ | θ₂ | total |", "|---|---|---|---|---|---|"]
        for name, m in self.of.items():
            cells = [
                name,
                "0" if m.bias < RIGHT else number(m.bias, 4),
                *(number(float(v), 4) for v in m.variance),
                number(m.total, 4),
            ]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        return "\n".join(lines)


def downstream(lab: Lab) -> Claim:
    claim = "The estimator of a graph: a score times the costs downstream of its sample, instead of all costs"
    return lab.compare(claim, "same mean, lower variance", ["all costs", "costs downstream"])


def baselines(lab: Lab) -> Claim:
    claim = "Baselines: any function of what a sample does not influence may be subtracted; E[L | it] does more than a constant"
    names = ["costs downstream", "… less a constant", "… less E[L | what it does not influence]"]
    claim, paper, text, right, numbers = lab.compare(claim, "same mean, lower variance", names)
    return claim, paper, text, right and lab.of[names[2]].total < lab.of[names[1]].total, numbers


def critics(lab: Lab) -> Claim:
    claim = "Critics: E[L | C] may replace L, for a critic set C; with a baseline, it is the advantage"
    return lab.compare(claim, "same mean, lower variance", ["costs downstream", "critics Q", "critics, less the baseline"])


def bootstrap(lab: Lab) -> Claim:
    claim = "Bootstrapping: the costs up to a Markov set, then its value; between the whole cost and the critic"
    names = ["costs downstream", "bootstrap: costs up to x, then V(x)", "critics Q"]
    claim, paper, text, right, numbers = lab.compare(claim, "same mean, a partial average", names)
    return claim, paper, text, right and lab.of[names[2]].total < lab.of[names[1]].total, numbers


def gradient_critics(lab: Lab) -> Claim:
    right_one, wrong_one = lab.of["gradient critic"], lab.of["gradient critic, slope 0.5 too much"]
    score = lab.of["critics, less the baseline"]
    reads = f"variance of θ₁ {number(float(right_one.variance[1]), 4)}, by a score and the same critic {number(float(score.variance[1]), 4)}"
    text = (
        f"largest bias {right_one.bias:.0e}; {reads}<br>a critic whose slope is 0.5 too much: bias of θ₁ "
        f"{number(float((wrong_one.mean - exact())[1]), 4)}"
    )
    right = right_one.bias < RIGHT and float(right_one.variance[1]) < float(score.variance[1])
    right = right and abs(float((wrong_one.mean - exact())[1]) - 0.5) < RIGHT
    claim = "Gradient critics: for a reparameterised sample, the derivative of a critic replaces that of all that follows"
    numbers = {"right": right_one.numbers(), "slope 0.5 too much": wrong_one.numbers()}
    return claim, "same mean; wrong where the critic's derivative is", text, right, numbers


def sets(lab: Lab) -> Claim:
    """E[L | C] for every set C of nodes, in place of L, and as a baseline, at every node."""
    of, numbers = lab.outcomes, {}
    right, lines = True, []
    for node in NODES:
        score, cost = scores(node, of), cost_to_go(node, of)
        truth = of.mean(score * cost)
        valid = valid_conditioning_sets(plain(), node)
        critic_bias, baseline_bias = {}, {}
        for size in range(5):
            for names in itertools.combinations("saxb", size):
                conditional = of.given(cost, names)
                critic_bias[names] = abs(float(of.mean(score * conditional) - truth))
                baseline_bias[names] = abs(float(of.mean(score * conditional)))
        free = {name for name, _ in valid.baseline if name in "saxb"}
        listed = [tuple(n for n in "saxb" if n in c) for c in valid.critics]
        worst = max(critic_bias[c] for c in listed)
        allowed = [c for c in baseline_bias if set(c) <= free]
        right = right and worst < RIGHT and max(baseline_bias[c] for c in allowed) < RIGHT
        numbers[node] = {
            "critics": {",".join(c): v for c, v in critic_bias.items()},
            "baselines": {",".join(c): v for c, v in baseline_bias.items()},
            "listed critics": [",".join(c) for c in listed],
        }
        words = " or ".join("{" + ", ".join(c) + "}" for c in listed)
        lines.append(
            f"{node}: critics of {words}, largest bias {worst:.0e}; {len(allowed)} baseline sets, "
            f"{max(baseline_bias[c] for c in allowed):.0e}"
        )
    claim = (
        "Which sets: E[L | C] is a baseline for every set that a sample does not influence, a critic for every C that separates"
    )
    return claim, "no bias", "<br>".join(lines), right, numbers


def scores(node: str, of: Outcomes) -> Tensor:
    """∂ log p(node)/∂θ of the parameter that is its own, at every outcome."""
    theta = THETA.expand(of.p.numel(), 3).clone().requires_grad_()
    trace = plain().replay(of.values, theta=theta)
    distribution = trace.dist(node)
    (found,) = torch.autograd.grad(distribution.log_prob(of.values[node]).sum(), theta)  # type: ignore[union-attr]
    return found[:, NODES.index(node)]


def wrong_sets(lab: Lab) -> Claim:
    """What the library refuses, and how wrong it would be."""
    of = lab.outcomes
    early = of.mean(scores("a", of) * of.given(cost_to_go("a", of), ("x",)))
    short = of.mean(scores("x", of) * (of.given(cost_to_go("x", of), ("b",)) - cost_to_go("x", of)))
    refused = {
        "a baseline of a that reads x": Choice("", baselines={"a": "base"}, nodes={"base": lambda x: later(x)}),
        "a critic of x that reads b": Choice("", {"x": QCritic("q")}, nodes={"q": lambda b: c3(b)}),
    }
    lines, messages = [], {}
    for (what, choice), bias in zip(refused.items(), (early, short), strict=True):
        try:
            moments(graph(choice), of)
            messages[what] = ""
        except GraphError as error:
            messages[what] = str(error)
        lines.append(f"{what}: bias {number(float(bias), 4)}; " + ("refused" if messages[what] else "not refused"))
    right = all(messages.values()) and min(abs(float(early)), abs(float(short))) > 1e-3
    claim = "Sets that are none: a baseline that its sample influences, a critic that does not separate it from its costs"
    numbers = {"biases": [float(early), float(short)], "messages": messages}
    return claim, "biased", "<br>".join(lines), right, numbers


if __name__ == "__main__":
    from scg.papers.cli import paper

    sys.exit(paper(["weber2019_credit", *sys.argv[1:]]))
