"""Greensmith et al. (2004): which baseline, and which critic, leaves a policy gradient with the least variance.

Variances are sums over all outcomes, so baselines are compared without noise; draws are there to hold the sums against.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor
from torch.func import vmap

from scg.estimators.baselines import optimal_gradient, optimal_level
from scg.papers.figures import panels, save
from scg.papers.greensmith2004_baselines import whole_episodes as whole
from scg.papers.greensmith2004_baselines.samples import (
    BEST,
    BEST_OF_STATE,
    EACH,
    EACH_OF_STATE,
    MEAN,
    NONE,
    VALUE,
    Samples,
)
from scg.papers.report import Claim, Job, Results, Say, collect, number, with_error
from scg.testing.tabular import Process, drawn_paths, every_path

RIGHT = 1e-10
FAR = 4.5  # standard errors: over the run's 50 sampled moments, by chance once in 3,000 runs; a bias of 7 is found with 0.99
SEED, HORIZON, RATE = 4, 3, 0.1


@dataclass(frozen=True)
class Settings:
    draws: int = field(default=20_000, metadata={"help": "episodes drawn for the sampled variances"})
    processes: int = field(default=100, metadata={"help": "random processes on which baselines are ranked"})
    runs: int = field(default=200, metadata={"help": "independent ascents with each baseline"})
    steps: int = field(default=150, metadata={"help": "steps of each ascent, one episode a step"})
    seed: int = field(default=0, metadata={"help": "seed of the draws and ascents"})

    def __post_init__(self) -> None:
        if self.draws < 100 or self.runs < 2:
            raise ValueError("--draws is at least 100 and --runs at least 2: standard errors are taken over them")
        if self.processes < 1 or self.steps < 1:
            raise ValueError("--processes and --steps are at least 1")


def run(settings: Settings, out: Path, say: Say = lambda what, done: None) -> Results:
    """All claims."""
    out.mkdir(parents=True, exist_ok=True)
    lab = Lab()
    ascents: dict[str, Tensor] = {}
    jobs: list[Job] = [
        ("mean", partial(mean, lab)),
        ("excess", partial(excess, lab)),
        ("average reward", partial(average, lab, settings)),
        ("value function", partial(values, lab, settings)),
        ("critic", critic),
        ("levels of others", levels_of_others),
        ("episodes", partial(in_episodes, lab)),
        ("draws", partial(drawn, lab, settings)),
        ("ascent", partial(ascent, settings, ascents)),
    ]
    results = collect("greensmith2004_baselines", settings, jobs, say)
    results.sections["variances"] = lab.table()
    draw(lab, ascents, out / "variances.png")
    say("done", 1.0)
    return results


def process_and_policy(seed: int) -> tuple[Process, Tensor]:
    theta = torch.randn(3, 3, generator=Generator().manual_seed(seed), dtype=torch.float64)
    return Process.random(seed, 3, 3, gamma=0.9), theta


class Lab:
    """One process, its samples and its episodes, and every baseline's moments on them."""

    def __init__(self) -> None:
        self.process, self.theta = process_and_policy(SEED)
        self.samples = Samples.listed(self.process, self.theta)
        found = self.samples.gradients()
        self.moments = {name: self.samples.moments(each) for name, each in found.items()}
        self.paths = every_path(self.process, self.theta.softmax(-1), HORIZON)
        self.levels = {
            **{k: whole.levels(k, self.process, self.theta.softmax(-1)[None], HORIZON) for k in whole.LEARNING},
            whole.JOINT: whole.joint(self.paths, self.theta),
        }
        gradients = {name: whole.each(self.paths, self.theta, level) for name, level in self.levels.items()}
        self.of_episodes = {name: (self.paths.mean(g), float(self.paths.variance(g))) for name, g in gradients.items()}

        self.ranked = cache(ranked)

    def variance(self, name: str) -> float:
        return self.moments[name][1]

    def table(self) -> str:
        lines = ["| baseline | variance, independent samples | share | variance, episodes | share |", "|---|---|---|---|---|"]
        for name in [*self.moments, whole.JOINT]:
            cells = [name]
            for moments in (self.moments, self.of_episodes):
                if name in moments:
                    cells += [number(moments[name][1], 4), number(moments[name][1] / moments[NONE][1], 3)]
                else:
                    cells += ["—", "—"]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)


def mean(lab: Lab) -> Claim:
    gaps = {name: float((m - lab.samples.exact).abs().max()) for name, (m, _) in lab.moments.items()}
    episodes = [m for m, _ in lab.of_episodes.values()]
    gap = max(float((m - episodes[0]).abs().max()) for m in episodes)
    text = (
        f"largest gap between the mean over all {lab.samples.p.numel():,} outcomes and the policy-gradient theorem, of "
        f"{len(gaps)} baselines: {max(gaps.values()):.0e}; between the baselines, over all {lab.paths.p.numel():,} episodes: {gap:.0e}"
    )
    claim = "A baseline that is a function of the state leaves the gradient's mean alone"
    return claim, "equal", text, max(*gaps.values(), gap) < RIGHT, {"gaps": gaps, "episodes": gap}


def excess(lab: Lab) -> Claim:
    """Var(b) − Var(b*) = E[‖g‖² (b − b*)²]."""
    samples, levels = lab.samples, lab.samples.levels()
    mass, best = samples.scores.square().sum(-1), levels[BEST_OF_STATE]
    gaps = {}
    for name, level in levels.items():
        predicted = float(samples.p @ (mass * (level - best) ** 2))
        gaps[name] = abs(lab.variance(name) - lab.variance(BEST_OF_STATE) - predicted)
    text = f"largest gap over {len(gaps)} baselines: {max(gaps.values()):.0e}"
    claim = "The variance with any baseline b is that with the best one, b*(s), plus E[‖g‖² (b(s) − b*(s))²]"
    return claim, "equal", text, max(gaps.values()) < RIGHT, {"gaps": gaps}


def ranked(processes: int) -> dict[str, dict[str, float]]:
    """Var(b)/Var(the best of its kind) over random processes and policies, and how often b is worse than nothing."""
    ratios: dict[str, list[float]] = {MEAN: [], VALUE: [], NONE: []}
    hurts = dict.fromkeys(ratios, 0)
    for seed in range(1000, 1000 + processes):
        samples = Samples.listed(*process_and_policy(seed), steps=2)
        found = {name: samples.variance_at(level) for name, level in samples.levels().items()}
        for name, best in ((MEAN, BEST), (VALUE, BEST_OF_STATE), (NONE, BEST)):
            ratios[name].append(found[name] / found[best])
            hurts[name] += found[name] > found[NONE]
    summary = {}
    for name, values in ratios.items():
        of = torch.tensor(values, dtype=torch.float64)
        ends = {"least": float(of.min()), "median": float(of.median()), "largest": float(of.max())}
        summary[name] = {**ends, "worse than none": hurts[name] / processes}
    return summary


def against(lab: Lab, settings: Settings, better: str, worse: str, claim: str) -> Claim:
    here = {name: lab.variance(name) for name in (NONE, worse, better)}
    over = lab.ranked(settings.processes)[worse]
    text = (
        ", ".join(f"{name}: {number(v, 4)}" for name, v in here.items())
        + f"<br>{worse} / {better} over {settings.processes} random processes: median {over['median']:.3f}, largest "
        f"{over['largest']:.2f}; worse than no baseline in {100 * over['worse than none']:.0f} %"
    )
    right = here[worse] > here[better] and over["least"] >= 1 - RIGHT and over["largest"] > 1.01
    return claim, "suboptimal", text, right, {"variances": here, "random processes": over}


def average(lab: Lab, settings: Settings) -> Claim:
    claim = "The average discounted value as a constant baseline is suboptimal; the best is E[‖g‖² L]/E[‖g‖²]"
    return against(lab, settings, BEST, MEAN, claim)


def values(lab: Lab, settings: Settings) -> Claim:
    claim = "So is the value function among functions of the state; the best is E[‖g‖² L | s]/E[‖g‖² | s]"
    return against(lab, settings, BEST_OF_STATE, VALUE, claim)


def critic() -> Claim:
    """One parameter, three states: what has E[g v(s')] = 0 may be added to the critic V, and some of it lowers the variance."""
    process, theta = process_and_policy(SEED)
    pi = theta.softmax(-1)
    direction = torch.zeros(3, 3, dtype=torch.float64)
    direction[:, 0] = torch.tensor([1.0, -0.5, 0.3])
    start = (1 - process.gamma) * process.visits(pi)
    score = direction - (pi * direction).sum(-1, keepdim=True)  # [state, action]
    p = start[:, None, None] * pi[..., None] * process.transition
    g = score[..., None].expand_as(p)
    true = -process.value(pi)
    now = -process.reward[..., None].expand_as(p)

    def moments(v: Tensor) -> tuple[float, float]:
        each = g * (now + process.gamma * v)
        return float((p * each).sum()), float((p * (each - (p * each).sum()) ** 2).sum())

    # min_v E[g² (c + γ (V + v)(s'))²] where E[g v(s')] = 0, by its Lagrangian; V itself has the true mean
    weight, moment = (p * g**2).sum((0, 1)), (p * g).sum((0, 1))
    slope = (p * g**2 * now).sum((0, 1)) / process.gamma
    system = torch.zeros(4, 4, dtype=p.dtype)
    system[:3, :3], system[:3, 3], system[3, :3] = weight.diag(), moment, moment
    best = torch.linalg.solve(system, torch.cat([-slope, (moment @ true).unsqueeze(0)]))[:3]
    (mean_v, var_v), (mean_b, var_b) = moments(true), moments(best)
    gap = abs(mean_v - mean_b)
    text = (
        f"true values {listed(true)}: variance {number(var_v, 4)}<br>best critic {listed(best)}: variance {number(var_b, 4)}, "
        f"same mean (gap {gap:.0e})"
    )
    claim = "Actor-critic: with V(s') in the place of a sample of it, the true value function is a suboptimal critic"
    numbers = {"true": true.tolist(), "best": best.tolist(), "variances": [var_v, var_b], "gap": gap}
    return claim, "suboptimal", text, gap < RIGHT and var_b < 0.99 * var_v, numbers


def levels_of_others() -> Claim:
    """All pairs and triples of outcomes of one step."""
    process, theta = process_and_policy(SEED)
    samples = Samples.listed(process, theta, steps=1)
    lines, right, numbers = [], True, dict[str, Any]()
    for count in (2, 3):
        index = torch.cartesian_prod(*[torch.arange(samples.p.numel())] * count)
        p, scores, costs = samples.p[index].prod(1), samples.scores[index], samples.costs[index]
        own = vmap(lambda g, c: (g * (c.unsqueeze(-1) - optimal_level(g, c, per_parameter=True))).mean(0))(scores, costs)
        others = vmap(optimal_gradient)(scores, costs)
        biases = [float((p @ x - samples.exact).abs().max()) for x in (others, own)]
        lines.append(
            f"n = {count}: level of the others, bias {biases[0]:.0e}; level of all, its own sample included, {biases[1]:.3f}"
        )
        right = right and biases[0] < RIGHT and biases[1] > 1e-3
        numbers[f"n = {count}"] = biases
    size = float(samples.exact.abs().max())
    text = "<br>".join(lines) + f"<br>(the gradient's largest entry is {size:.3f})"
    claim = "An estimated optimal baseline (ours): unbiased from the other samples, and biased from its own"
    return claim, "—", text, right, {**numbers, "largest entry": size}


def in_episodes(lab: Lab) -> Claim:
    """Baselines that are best for each step, and the one that is best for the sum."""
    found = {name: v for name, (_, v) in lab.of_episodes.items()}
    shares, hurts = [], 0
    for seed in range(1000, 1020):
        process, theta = process_and_policy(seed)
        pi = theta.softmax(-1)
        paths = every_path(process, pi, 2)
        three = [whole.levels(k, process, pi[None], 2) for k in (NONE, BEST_OF_STATE)] + [whole.joint(paths, theta)]
        none, single, joint = (float(paths.variance(whole.each(paths, theta, level))) for level in three)
        shares.append(single / joint)
        hurts += single > none
    text = "<br>".join(f"{name}: {number(v, 4)}, {number(v / found[NONE], 3)} of none" for name, v in found.items())
    text += f"<br>on 20 random processes {BEST_OF_STATE} / {whole.JOINT}: {min(shares):.2f} to {max(shares):.2f}; worse than none in {hurts}"
    right = (
        found[whole.JOINT] <= min(found.values()) + RIGHT
        and min(shares) > 1 - RIGHT
        and found[BEST_OF_STATE] > 1.05 * found[whole.JOINT]
    )
    claim = "Whole episodes (ours): their terms are correlated, so what is best for independent samples is not best for the sum"
    return claim, "a bound, by mixing times", text, right, {"variances": found, "shares": shares, "worse than none": hurts}


def drawn(lab: Lab, settings: Settings) -> Claim:
    generator, lines, right, numbers = Generator().manual_seed(settings.seed), [], True, dict[str, Any]()
    pi = lab.theta.softmax(-1).expand(settings.draws, -1, -1)
    for name, level in lab.levels.items():
        gradients = whole.each(drawn_paths(lab.process, pi, HORIZON, generator), lab.theta, level)
        exact_mean, exact_variance = lab.of_episodes[name]
        square = (gradients - exact_mean).square().sum(-1)
        error = float(square.std()) / settings.draws**0.5
        z = ((gradients.mean(0) - exact_mean) / (gradients.std(0) / settings.draws**0.5)).abs().max()
        far = max(abs(float(square.mean()) - exact_variance) / error, float(z))
        right = right and far < FAR
        lines.append(f"{name}: {with_error(float(square.mean()), error)}, exact {number(exact_variance, 4)}")
        numbers[name] = {
            "variance": float(square.mean()),
            "error": error,
            "exact": exact_variance,
            "mean's largest z": float(z),
        }
    claim = "The same variances from drawn episodes"
    return claim, "—", "<br>".join(lines), right, numbers


def ascent(settings: Settings, ascents: dict[str, Tensor]) -> Claim:
    process = process_and_policy(SEED)[0]
    final, numbers = {}, dict[str, Any]()
    for i, kind in enumerate(whole.LEARNING):
        found = whole.ascend(process, kind, settings.steps, HORIZON, settings.runs, RATE, settings.seed + i)
        ascents[kind] = found.returns
        along = found.returns.mean(0)  # of each run, over its steps
        final[kind] = (float(along.mean()), float(along.std()) / settings.runs**0.5, found.returns[-1])
        numbers[kind] = {"along": final[kind][0], "error": final[kind][1], "end": float(found.returns[-1].mean())}
    lines = [
        f"{kind}: {with_error(m, e)}; at the end {with_error(float(end.mean()), float(end.std()) / settings.runs**0.5)}"
        for kind, (m, e, end) in final.items()
    ]
    gap = final[BEST_OF_STATE][0] - final[NONE][0]
    error = (final[BEST_OF_STATE][1] ** 2 + final[NONE][1] ** 2) ** 0.5
    text = f"mean exact return along {settings.steps} steps:<br>" + "<br>".join(lines)
    claim = f"Less variance, faster ascent: one episode a step, rate {RATE:g}, exact baselines"
    return claim, "faster", text, gap > 2 * error, numbers


def listed(values: Tensor) -> str:
    return "(" + ", ".join(number(float(v), 2) for v in values) + ")"


def draw(lab: Lab, ascents: dict[str, Tensor], path: Path) -> None:
    figure, axes = panels(1, 2, (4.4, 3.0))
    bars, curves = axes[0]
    names = [NONE, MEAN, BEST, VALUE, BEST_OF_STATE, EACH, EACH_OF_STATE]
    bars.barh(range(len(names)), [lab.variance(n) / lab.variance(NONE) for n in names], color="C0")
    bars.set_yticks(range(len(names)), names, fontsize=7)
    bars.invert_yaxis()
    bars.set_title("variance, as a share of that without", fontsize=9)
    for kind, returns in ascents.items():
        middle, error = returns.mean(1), returns.std(1) / returns.shape[1] ** 0.5
        curves.plot(middle, label=kind, linewidth=1.2)
        curves.fill_between(range(len(middle)), middle - error, middle + error, alpha=0.2, linewidth=0)
    curves.set_title("exact return along the ascent, ± s.e.", fontsize=9)
    curves.set_xlabel("step", fontsize=8)
    save(figure, path, curves)


if __name__ == "__main__":
    from scg.papers.cli import paper

    sys.exit(paper(["greensmith2004_baselines", *sys.argv[1:]]))
