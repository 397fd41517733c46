"""Schulman et al. (2015): the table of five stochastic computation graphs, their derived and estimated gradients.

Each claim is tried in several ways: as an equality (the derivation letter by letter, the surrogate's gradient against
the formula at every draw), as a mean over draws against an exact gradient, and by `check_unbiased`. A mean more than `FAR` standard
errors off fails. Over the run's three dozen means that happens by chance once in 500 runs; a bias of 6 standard
errors would be found with probability 0.98.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from scg import Graph, Trace
from scg.draw import render
from scg.estimators import ScoreFunction
from scg.papers.report import Claim, Estimate, Job, Results, Say, collect, number, with_error
from scg.papers.schulman2015_scg import graphs
from scg.papers.schulman2015_scg.graphs import THETA, X0, Case
from scg.testing import check_unbiased

FAR = 4.0


@dataclass(frozen=True)
class Settings:
    draws: int = field(default=200_000, metadata={"help": "independent draws of each estimator"})
    seed: int = field(default=0, metadata={"help": "seed of the first estimator's draws; the others count on from it"})

    def __post_init__(self) -> None:
        if self.draws < 100:
            raise ValueError(f"--draws {self.draws}: a standard error needs at least 100 draws")


def run(settings: Settings, out: Path, say: Say = lambda what, done: None) -> Results:
    """All claims, in the order of the paper."""
    out.mkdir(parents=True, exist_ok=True)
    lab = Lab(settings)
    cases, built = graphs.figure(), graphs.built()
    jobs: list[Job] = [(case.title, partial(figure, lab, case)) for case in cases]
    jobs += [(case.title, partial(built_from, lab, case)) for case in built]
    jobs += [("costs downstream", partial(downstream, lab)), ("baselines", partial(baselines, lab))]
    jobs += [("second derivatives", partial(second_derivatives, lab, [cases[1], cases[3], cases[4]]))]
    results = collect("schulman2015_scg", settings, jobs, say)
    say("pictures", len(jobs) / (len(jobs) + 1))
    results.sections["graphs"] = "\n\n".join(pictured(case, out) for case in [*cases, *built])
    say("done", 1.0)
    return results


class Lab:
    """Draws gradients. Every estimator gets a seed of its own."""

    def __init__(self, settings: Settings) -> None:
        self.draws, self.seed = settings.draws, settings.seed

    def theta(self) -> Tensor:
        """θ once for each draw, so that each has a gradient of its own."""
        return torch.full((self.draws,), THETA, dtype=torch.float64, requires_grad=True)

    def sample(self, graph: Graph, theta: Tensor, inputs: dict[str, float]) -> Trace:
        generator = torch.Generator().manual_seed(self.seed)
        self.seed += 1
        values: dict[str, Any] = {name: torch.full_like(theta, value) for name, value in inputs.items()}
        return graph.sample(generator=generator, theta=theta, **values)

    def gradients(self, graph: Graph, inputs: dict[str, float]) -> Tensor:
        """The surrogate's gradient at each draw."""
        theta = self.theta()
        return self.each(self.sample(graph, theta, inputs).surrogate(), theta)

    def each(self, mean: Tensor, theta: Tensor, again: bool = False) -> Tensor:
        """The derivative of a mean over draws, draw by draw."""
        (gradient,) = torch.autograd.grad(mean, theta, create_graph=again)
        return gradient * self.draws

    def estimate(self, values: Tensor, exact: float) -> Estimate:
        return Estimate(values.mean().item(), values.std().item() / self.draws**0.5, self.draws, exact)


def exact(case: Case, order: int = 1) -> float:
    """The derivative of the objective's sum or quadrature."""
    theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
    value = case.objective(theta)
    for _ in range(order):
        (value,) = torch.autograd.grad(value, theta, create_graph=True)
    return value.item()


def variants(lab: Lab, case: Case) -> dict[str, Estimate]:
    """The gradient by every estimator that is valid on the graph."""
    truth = exact(case)
    found = {}
    for name, estimators in case.variants.items():
        found[name] = lab.estimate(lab.gradients(case.graph.with_estimators(**estimators), dict(case.inputs)), truth)
    return found


def checks(lab: Lab, case: Case) -> tuple[bool, dict[str, str]]:
    """The verdict of `check_unbiased` on every estimator, against an exact gradient."""
    theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
    inputs = {"theta": theta, **{name: torch.tensor(value, dtype=torch.float64) for name, value in case.inputs.items()}}
    right = True
    verdicts: dict[str, str] = {}
    for name, estimators in case.variants.items():
        graph = case.graph.with_estimators(**estimators)
        report = check_unbiased(graph, inputs, wrt=["theta"], false_alarm=1e-5, seed=lab.seed)
        verdicts[name] = report.verdict
        right = right and report.ok and abs(report.exact["theta"].item() - exact(case)) < 1e-7
    return right, verdicts


def figure(lab: Lab, case: Case) -> Claim:
    """The derivation is the paper's; the surrogate's gradient is that formula at every draw; its mean is exact."""
    derived = case.graph.derivation(["theta"]).equations[0].unicode
    gap = largest_gap(lab, case)
    means, (checked, verdicts) = variants(lab, case), checks(lab, case)
    agrees = derived.estimator == case.formula and gap < 1e-10 and near(means) and checked
    claim = f"{case.title}: ∂/∂θ {derived.value.replace('[ ', '[').replace(' ]', ']')}"
    ours = f"derivation the same; surrogate's gradient the same at every draw (largest gap {gap:.0e})<br>" + listed(case, means)
    found: dict[str, object] = {"derivation": derived.estimator, "gap": gap, **numbers(case, means), "checks": verdicts}
    return claim, f"`{case.formula}`", ours, agrees, found


def built_from(lab: Lab, case: Case) -> Claim:
    derived = case.graph.derivation(["theta"]).equations[0].unicode
    means, (agrees, verdicts) = variants(lab, case), checks(lab, case)
    claim = f"Theorem 1 on a graph built from these, {case.name}: {case.title}"
    found: dict[str, object] = {"derivation": derived.estimator, **numbers(case, means), "checks": verdicts}
    agrees = agrees and near(means)
    ours = listed(case, means)
    if case.by_hand is not None:
        found["gap"] = gap = largest_gap(lab, case)
        agrees = agrees and gap < 1e-10
        ours = f"surrogate's gradient as by hand at every draw (largest gap {gap:.0e})<br>{ours}"
    return claim, "an unbiased estimator", ours, agrees, found


def largest_gap(lab: Lab, case: Case) -> float:
    """Between the surrogate's gradient and the estimator worked out by hand, over all draws."""
    assert case.by_hand is not None
    theta = lab.theta()
    trace = lab.sample(case.graph, theta, dict(case.inputs))
    ours = lab.each(trace.surrogate(), theta)
    by_hand = case.by_hand(theta, {name: trace[name] for name in case.graph.structure.stochastic}).detach()
    return (ours - by_hand).abs().max().item()


def downstream(lab: Lab) -> Claim:
    """Graph (5): a score times the costs downstream of its sample, or times all costs, at the same draws."""
    case = graphs.fifth()
    theta = lab.theta()
    trace = lab.sample(case.graph, theta, dict(case.inputs))
    ours = lab.estimate(lab.each(trace.surrogate(), theta, again=True).detach(), exact(case))
    drift, choice = trace.dist("x1"), trace.dist("x2")
    assert isinstance(drift, Distribution)
    assert isinstance(choice, Distribution)
    log_prob = drift.log_prob(trace["x1"]) + choice.log_prob(trace["x2"])
    everything = log_prob * (trace["f1"] + trace["f2"]).detach()
    all_costs = lab.estimate(lab.each(everything.mean(), theta), exact(case))
    means = {"costs downstream": ours, "all costs": all_costs}
    ratio = (ours.error / all_costs.error) ** 2
    text = listed(case, means) + f"<br>variance ratio {ratio:.2f}"
    found = {**numbers(case, means), "variance_ratio": ratio}
    claim = "Theorem 1 on graph (5): costs that a sample does not influence may be left out of its term"
    return claim, "same mean", text, near(means) and ratio < 1, found


def baselines(lab: Lab) -> Claim:
    """Graph (5): constants as baselines."""
    case = graphs.fifth()
    theta = torch.tensor(THETA, dtype=torch.float64)
    second = graphs.expected_normal(lambda x1: graphs.expected_bernoulli(graphs.cost2, theta + x1), theta * X0).item()
    levels = (graphs.chain_objective(theta).item(), second)
    with_baseline = graphs.chain(ScoreFunction(), levels)
    without = lab.estimate(lab.gradients(case.graph, dict(case.inputs)), exact(case))
    with_them = lab.estimate(lab.gradients(with_baseline, dict(case.inputs)), exact(case))
    means = {"without": without, "b = E[costs downstream]": with_them}
    ratio = (with_them.error / without.error) ** 2
    text = listed(case, means) + f"<br>variance ratio {ratio:.2f}"
    claim = "Section 4 on graph (5): a baseline that its sample does not influence"
    found = {**numbers(case, means), "variance_ratio": ratio, "baselines": levels}
    return claim, "same mean, lower variance", text, near(means) and ratio < 1, found


def second_derivatives(lab: Lab, cases: list[Case]) -> Claim:
    """The surrogate differentiated twice."""
    means: dict[str, Estimate] = {}
    for case in cases:
        theta = lab.theta()
        gradient = lab.each(lab.sample(case.graph, theta, dict(case.inputs)).surrogate(), theta, again=True)
        means[f"({case.name[-1]})"] = lab.estimate(lab.each(gradient.mean(), theta), exact(case, order=2))
    lines = [f"{name}: exact {number(m.exact)}, score {m}" for name, m in means.items()]
    claim = "Section 3.3, higher derivatives: of graphs (2), (4) and (5)"
    found: dict[str, object] = {name: dict(asdict(m), z=m.z) for name, m in means.items()}
    return claim, "an estimator of the Hessian", "<br>".join(lines), near(means), found


def near(means: dict[str, Estimate]) -> bool:
    return all(m.z <= FAR for m in means.values())


def listed(case: Case, means: dict[str, Estimate]) -> str:
    lines = [f"exact {number(exact(case))}"]
    for name, m in means.items():
        spelt = f"{number(m.mean)}, no noise" if m.error < 1e-12 else with_error(m.mean, m.error)
        lines.append(f"{name}: {spelt}")
    return "<br>".join(lines)


def numbers(case: Case, means: dict[str, Estimate]) -> dict[str, object]:
    return {"exact": exact(case), "estimates": {name: dict(asdict(m), z=m.z) for name, m in means.items()}}


def pictured(case: Case, out: Path) -> str:
    """A README section: the picture and the derivation."""
    render(case.graph, out / f"{case.name}.png")
    derivation = str(case.graph.derivation(["theta"]))
    return f"### {case.name}: {case.title}\n\n![{case.name}]({case.name}.png)\n\n```\n{derivation}\n```"


if __name__ == "__main__":
    from scg.papers.cli import paper

    sys.exit(paper(["schulman2015_scg", *sys.argv[1:]]))
