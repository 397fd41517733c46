"""Haarnoja et al. (2018): an actor-critic that maximises return and entropy, exactly on tables, learned on Pendulum and MuJoCo.

Soft policy iteration is held against the soft Bellman equation, the actor's gradient against its integral; the agents are
compared over forms and reward scales on Pendulum-v1, and run on MuJoCo in few steps.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from scg.papers.figures import panels
from scg.papers.haarnoja2018_sac import exact
from scg.papers.haarnoja2018_sac.runs import (
    BY_SCALE,
    DDPG,
    FIRST,
    FIXED,
    FORMS,
    LONG,
    NO_ENTROPY,
    RATIO,
    SCALES,
    SWEPT,
    TWIN,
    Lab,
    Long,
    long_runs,
    trained,
)
from scg.papers.learning import CONTRARY, UNDECIDED, Learned, TrainingSettings, by_seed, clearly_more, curve
from scg.papers.report import Claim, Job, Results, Say, collect, number, over_seeds, with_error

TABLE = {  # SAC's column of Fujimoto et al. (2018), 1,000,000 steps, as the lecture notes print it
    "HalfCheetah-v5": 2347.19,
    "Hopper-v5": 2996.66,
    "Walker2d-v5": 1283.67,
    "Ant-v5": 655.35,
    "InvertedDoublePendulum-v5": 8487.15,
}


@dataclass(frozen=True)
class Settings(TrainingSettings):
    steps: int = field(default=6000, metadata={"help": f"environment steps of each run on {SWEPT}"})
    seeds: int = field(default=3, metadata={"help": f"runs of each variant on {SWEPT}"})
    processes: int = field(default=40, metadata={"help": "random processes for the lemmas and the theorem"})
    draws: int = field(default=200, metadata={"help": "gradients of each estimator of the actor's"})
    mujoco: str = field(
        default="HalfCheetah", metadata={"help": f"long runs, several with commas, of {', '.join(LONG)}; empty for none"}
    )
    mujoco_seeds: int = field(default=3, metadata={"help": "of each of them, where it has as many"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 2000:
            raise ValueError(f"--steps {self.steps}: the first 1,000 are random; give 2000 or more")
        if self.processes < 10 or self.draws < 20:
            raise ValueError("--processes is at least 10, --draws at least 20")
        if self.mujoco_seeds < 1:
            raise ValueError(f"--mujoco_seeds {self.mujoco_seeds}: give at least 1")
        long_runs(self.mujoco, self.mujoco_seeds)


def run(settings: Settings, out: Path, say: Say = lambda what, done: None) -> Results:
    """All claims, in the order of the paper; then what the second paper adds."""
    out.mkdir(parents=True, exist_ok=True)
    jobs: list[Job] = [(title, partial(job, settings.processes)) for title, job in exact.JOBS]
    jobs += [
        ("the actor's gradient", partial(exact.same_gradient, settings.draws)),
        ("under way, 1 dimension", partial(exact.under_way, "Pendulum-v1", 3000, max(20, settings.draws // 5))),
        ("under way, 6 dimensions", partial(exact.under_way, "HalfCheetah-v5", 3000, max(20, settings.draws // 5))),
        ("density", exact.density),
    ]
    long = long_runs(settings.mujoco, settings.mujoco_seeds)
    seeds = range(settings.seed, settings.seed + settings.seeds)
    lab = trained(settings.steps, seeds, long, settings.workers, say, settings.runs, settings.executor)
    forms = lab.swept["form"]
    jobs += [
        (f"{SWEPT}: {name}", partial(measured, forms[name], f"{SWEPT}, {settings.steps:,} steps: {name}")) for name in FORMS
    ]
    jobs += [(f"MuJoCo: {name}", partial(on_mujoco, one, lab.long[name])) for name, one in long.items()]
    jobs += [
        ("SAC or DDPG", partial(against, forms, TWIN, DDPG, "Section 5.1, Figure 1", "learns faster")),
        *([("SAC or DDPG, HalfCheetah", partial(cheetahs, lab))] if {"HalfCheetah", "HalfCheetah-DDPG"} <= long.keys() else []),
        ("stochastic or not", partial(steadier, forms)),
        ("mean or sample", partial(mean_action, lab)),
        ("reward scale", partial(reward_scale, lab.swept["reward scale"])),
        ("entropy by scale", partial(entropy_by_scale, lab.swept["reward scale"])),
        ("α learned or not", partial(against, forms, TWIN, FIXED, "Second paper", "as good as tuned")),
        ("with or without V", partial(against, forms, FIXED, FIRST, "Second paper", "V is not needed")),
        ("entropy's target", partial(constraint, lab, long)),
        ("the estimator alone", partial(against, forms, TWIN, RATIO, "Section 4.2", "pathwise is the better one")),
    ]
    results = collect("haarnoja2018_sac", settings, jobs, say)
    draw(lab, long, out)
    say("done", 1.0)
    return results


# -- what was learned ------------------------------------------------------------------------------------------------


def measured(runs: list[Learned], claim: str, paper: str = "–") -> Claim:
    learned = all(r.last == r.last for r in runs)
    return claim, paper, returns(runs), "measured" if learned else False, told(runs)


def returns(runs: list[Learned]) -> str:
    text = f"fresh episodes, most probable actions {several([r.final for r in runs])}; along the run {several([r.along for r in runs])}"
    if "entropy" in runs[0].seen:
        text += f"; entropy at the end {several([r.seen['entropy'] for r in runs])}"
    return text


def told(runs: list[Learned]) -> dict[str, Any]:
    """For results.json."""
    return {
        "seeds": by_seed({"": runs})[""],
        "seen": [{key: round(value, 4) for key, value in r.seen.items()} for r in runs],
        "evaluations": [[(step, round(value, 1)) for step, value in r.evaluations] for r in runs],
    }


def several(values: list[float]) -> str:
    """Mean ± standard error; one value as it is."""
    return over_seeds(values) if len(values) > 1 else f"{number(values[0], 1)} (one seed)"


def on_mujoco(one: Long, runs: list[Learned]) -> Claim:
    """The paper prints curves only, of a million steps and more."""
    known = f"; {TABLE[one.env]:,.0f} after 1,000,000 steps in the table of Fujimoto et al." if one.agent == "sac" else ""
    return measured(runs, str(one), f"a curve (Figure 1){known}")


def against(runs: dict[str, list[Learned]], one: str, other: str, where: str, says: str) -> Claim:
    """By the return along the run, paired by seed."""
    ours, theirs = ([r.along for r in runs[name]] for name in (one, other))
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    final = [a.final - b.final for a, b in zip(runs[one], runs[other], strict=True)]
    text = f"along the run {over_seeds(gaps)}, in fresh episodes at the end {over_seeds(final)}"
    return f"{where}: {one} beside {other} ({SWEPT})", says, text, clearly_more(ours, theirs), {"along": gaps, "final": final}


def cheetahs(lab: Lab) -> Claim:
    """By the return along the run, paired by seed."""
    claim, *rest = against(
        {TWIN: lab.long["HalfCheetah"], DDPG: lab.long["HalfCheetah-DDPG"]},
        TWIN,
        DDPG,
        "Section 5.1, Figure 1",
        "learns faster",
    )
    return claim.replace(SWEPT, str(LONG["HalfCheetah"])), *rest  # type: ignore[return-value]


def steadier(runs: dict[str, list[Learned]]) -> Claim:
    """Three seeds say little of a spread, so that no more than a factor of three is called a difference."""
    spread = {name: statistics.stdev([r.along for r in runs[name]]) for name in (TWIN, FIRST, NO_ENTROPY, DDPG)}
    text = "standard deviation over seeds of the return along the run: "
    text += ", ".join(f"{name} {number(value, 1)}" for name, value in spread.items())
    soft, hard = max(spread[TWIN], spread[FIRST]), min(spread[NO_ENTROPY], spread[DDPG])
    verdict: bool | str = True if hard > 3 * soft else CONTRARY if soft > 3 * hard else UNDECIDED
    claim = (
        f"Section 5.2, Figure 2: the stochastic policy varies much less between seeds than a deterministic variant ({SWEPT})"
    )
    return claim, "much less (Humanoid)", text, verdict, spread


def mean_action(lab: Lab) -> Claim:
    """Every run of a policy that can be sampled, as shares of the larger return of its kind of run."""
    gaps = []
    for r in {id(r): r for runs in lab.everything for r in runs}.values():  # one run may be part of several sweeps
        mode, sample = r.seen["mode"], r.seen["sample"]
        if mode != sample:
            gaps.append((mode - sample) / max(abs(mode), abs(sample)))
    error = statistics.stdev(gaps) / len(gaps) ** 0.5
    text = (
        f"the same trained policies on the same 10 fresh episodes: the mean action earns more in {sum(g > 0 for g in gaps)} of "
        f"{len(gaps)} runs; by {with_error(100 * statistics.fmean(gaps), 100 * error)} % of the larger return"
    )
    verdict = clearly_more(gaps, [0.0] * len(gaps))
    return "Section 5.2, Figure 3(a): evaluation with the mean action performs better", "better", text, verdict, {"gaps": gaps}


def reward_scale(runs: dict[str, list[Learned]]) -> Claim:
    """The smallest beside the largest, which is the published one; none above it is run."""
    along = {scale: [r.along for r in runs[name]] for scale, name in zip(SCALES, BY_SCALE, strict=True)}
    text = "return along the run: " + ", ".join(f"× {scale:g}: {over_seeds(values)}" for scale, values in along.items())
    verdict = clearly_more(along[SCALES[-1]], along[SCALES[0]])
    claim = f"Section 5.2, Figure 3(b): too small a reward scale does worse ({SWEPT}, {FIRST})"
    return claim, "so do too large ones (1 to 100, Ant)", text, verdict, {"along": along}


def entropy_by_scale(runs: dict[str, list[Learned]]) -> Claim:
    """In nats of an action on (−1, 1): a uniform one has log 2."""
    found = {scale: [r.seen["entropy"] for r in runs[name]] for scale, name in zip(SCALES, BY_SCALE, strict=True)}
    mean = [statistics.fmean(values) for values in found.values()]
    text = "entropy at the end: " + ", ".join(f"× {scale:g}: {over_seeds(values)}" for scale, values in found.items())
    falls = all(b < a for a, b in pairwise(mean))
    right = falls and mean[0] > 0.5
    claim = (
        f"Section 5.2: with small rewards the policy is nearly uniform (0.693 nats), with larger ones less and less ({SWEPT})"
    )
    return (
        claim,
        "nearly uniform; nearly deterministic",
        text,
        right or CONTRARY,
        {str(scale): values for scale, values in found.items()},
    )


def constraint(lab: Lab, long: dict[str, Long]) -> Claim:
    """The learned α against minus the number of action dimensions, which is its target."""
    dims = {SWEPT: 1, "HalfCheetah-v5": 6, "Hopper-v5": 3, "Walker2d-v5": 6, "Ant-v5": 8, "InvertedDoublePendulum-v5": 1}
    runs = {SWEPT: lab.swept["form"][TWIN], **{name: lab.long[name] for name, one in long.items() if one.agent == "sac"}}
    lines, off = [], []
    for name, found in runs.items():
        dim = dims[long[name].env if name in long else name]
        entropies, alphas = ([r.seen[what] for r in found] for what in ("entropy", "α"))
        off.append(abs(statistics.fmean(entropies) + dim) / dim)
        lines.append(f"{name}: {several(entropies)} for −{dim}, at α = {several(alphas)}")
    text = "entropy of the last tenth of the run, and its target:<br>" + "<br>".join(lines)
    claim = "Second paper: the learned temperature holds the entropy at its target"
    return claim, "holds", text, max(off) < 0.1 or CONTRARY, {"off": off}


# -- pictures --------------------------------------------------------------------------------------------------------


def draw(lab: Lab, long: dict[str, Long], out: Path) -> None:
    figure, axes = panels(1, len(lab.swept), (3.9, 3.4))
    for axis, (sweep, variants) in zip(axes[0], lab.swept.items(), strict=True):
        for name, runs in variants.items():
            curve(axis, runs, name)
        axis.set_title(f"{SWEPT}, by {sweep}", fontsize=9)
        axis.set_xlabel("environment steps", fontsize=8)
        axis.legend(fontsize=6, frameon=False)
    figure.savefig(out / "pendulum.png", dpi=130, facecolor="white")
    if not long:
        return
    rows = -(-len(long) // 4)
    figure, axes = panels(rows, min(4, len(long)))
    for axis, (name, one) in zip(axes.flat, long.items(), strict=False):
        for seed, r in zip(one.seeds, lab.long[name], strict=True):
            steps, values = zip(*r.evaluations, strict=True)
            axis.plot(steps, values, color=f"C{seed}", linewidth=1.2, label=f"seed {seed}, fresh episodes")
            axis.plot(r.steps, r.returns, color=f"C{seed}", linewidth=0.6, alpha=0.5, label=f"seed {seed}, training episodes")
        axis.set_title(str(one), fontsize=8)
        axis.set_xlabel("environment steps", fontsize=8)
    for axis in axes.flat[len(long) :]:
        axis.set_visible(False)
    axes.flat[0].legend(fontsize=6, frameon=False)
    figure.savefig(out / "mujoco.png", dpi=130, facecolor="white")


if __name__ == "__main__":
    from scg.papers.cli import paper

    sys.exit(paper(["haarnoja2018_sac", *sys.argv[1:]]))
