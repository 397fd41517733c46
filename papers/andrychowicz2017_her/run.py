"""Andrychowicz et al. (2017): an episode that missed its goal is replayed as one that reached where it went.

How rare rewards are and how common hindsight makes them is computed exactly; DQN learns to flip bits, DDPG and SAC to reach.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from scg.papers.andrychowicz2017_her import exact
from scg.papers.andrychowicz2017_her.runs import (
    ARM,
    BITS,
    COMPARED,
    DQN,
    MULTIPLES,
    ONE_GOAL,
    POINT,
    SHAPED,
    STRATEGIES,
    WITH,
    WITHOUT,
    Runs,
    along,
    budget,
    on_bits,
    planned,
    replayed,
    robotics,
    shortest,
    success,
    trained,
)
from scg.papers.figures import panels
from scg.papers.learning import CONTRARY, UNDECIDED, Learned, TrainingSettings, clearly_more
from scg.papers.report import REFUTED, Claim, Job, Results, Say, collect, over_seeds

SOLVED, FAILS = 0.95, 0.05
PRINTED = {True: 13, False: 50}  # bits up to which DQN solves the task without and with HER, the paper says


@dataclass(frozen=True)
class Settings(TrainingSettings):
    bits: int = field(default=10, metadata={"help": "bits up to which DQN is run"})
    steps: int = field(default=3000, metadata={"help": "environment steps of a run on up to 10 bits; beyond, as the square"})
    reach: int = field(default=2500, metadata={"help": "environment steps of a run on the point"})
    fetch: int = field(default=0, metadata={"help": "environment steps of a run on FetchReach-v4, 12000 say; 0 for none"})
    seeds: int = field(default=3, metadata={"help": "runs of each kind"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits < COMPARED:
            raise ValueError(f"--bits {self.bits}: strategies are compared on {COMPARED}; give at least as many")
        if self.steps < 1000 or self.reach < 1500 or 0 < self.fetch < 1500:
            raise ValueError("--steps is at least 1000, --reach 1500, --fetch 1500 or 0: the first steps are random")


def run(settings: Settings, out: Path, say: Say = lambda what, done: None) -> Results:
    """All claims, in the order of the paper."""
    out.mkdir(parents=True, exist_ok=True)
    bits = [n for n in BITS if n <= settings.bits]
    jobs: list[Job] = [
        ("chance", partial(exact.rarity, tuple(bits))),
        ("half of the trajectories", partial(exact.half, 8)),
        ("relabelled rows", exact.truth),
        ("shares", partial(exact.shares, 20)),
    ]
    plan = planned(settings.bits, settings.steps, settings.reach, settings.fetch)
    runs = trained(
        plan, range(settings.seed, settings.seed + settings.seeds), settings.workers, say, settings.runs, settings.executor
    )
    jobs += [(on_bits(n), partial(flipped, runs, n, budget(n, settings.steps))) for n in bits]
    jobs += [
        ("Figure 1", partial(figure_1, runs, bits)),
        ("values", partial(right_values, runs, bits)),
        ("PointReach, DDPG", partial(helped, runs, POINT, "Section 4.2, Figure 3", settings.reach)),
        ("FetchReach", partial(reached, runs, settings.fetch)),
        ("one goal", partial(helped, runs, ONE_GOAL, "Section 4.3, Figure 4", settings.reach)),
        ("several goals", partial(several_goals, runs)),
        ("shaped", partial(shaped, runs, settings.reach)),
        ("strategies", partial(strategies, runs, budget(COMPARED, settings.steps))),
        ("goals a step", partial(multiples, runs, budget(COMPARED, settings.steps))),
    ]
    results = collect("andrychowicz2017_her", settings, jobs, say)
    results.sections["bits"] = table(runs, bits)
    draw(runs, bits, out)
    say("done", 1.0)
    return results


# -- bits ------------------------------------------------------------------------------------------------------------


def both(runs: Runs, task: str) -> tuple[list[Learned], list[Learned]]:
    return runs[task, WITH], runs[task, WITHOUT]


def percent(values: list[float]) -> str:
    """Of seeds that agree, what they agree on."""
    shares = [100 * value for value in values]
    return f"{over_seeds(shares) if len(set(shares)) > 1 else f'{shares[0]:.3g}'} %"


def told(runs: list[Learned]) -> list[dict[str, Any]]:
    """For results.json."""
    return [{**r.seen, "return": round(r.final, 2), "seconds": round(r.seconds, 1)} for r in runs]


def flipped(runs: Runs, n: int, steps: int) -> Claim:
    ours, theirs = both(runs, on_bits(n))
    text = f"success with HER {percent(success(ours))}, without {percent(success(theirs))}"
    paper = "solved with HER" + (", and without" if n <= PRINTED[True] else ", fails without")
    numbers = {WITH: told(ours), WITHOUT: told(theirs)}
    return f"Section 3.1, Figure 1: {n} bits, DQN, {steps:,} steps", paper, text, "measured", numbers


def figure_1(runs: Runs, bits: list[int]) -> Claim:
    """Solved is a success of 95 % in the mean over seeds, a failure one of 5 %."""
    mean = {how: {n: statistics.fmean(success(runs[on_bits(n), how])) for n in bits} for how in (WITH, WITHOUT)}
    solved = {how: [n for n, value in found.items() if value >= SOLVED] for how, found in mean.items()}
    lost = [n for n, value in mean[WITHOUT].items() if value <= FAILS]
    text = (
        f"at least {SOLVED:.0%} with HER on {', '.join(map(str, solved[WITH])) or 'no'} bits, without on "
        f"{', '.join(map(str, solved[WITHOUT])) or 'none of them'}; at most {FAILS:.0%} without HER on {', '.join(map(str, lost)) or 'none'}"
    )
    easy = [n for n in bits if n <= PRINTED[True]]
    every, beyond = solved[WITH] == bits, all(n in lost for n in bits if n > PRINTED[True])
    right: bool | str = every and beyond and all(n in solved[WITHOUT] for n in easy)
    claim = "Section 3.1, Figure 1: DQN solves the task up to 50 bits with HER, and only up to 13 without"
    return (
        claim,
        "n ≤ 50, n ≤ 13",
        text,
        right or CONTRARY,
        {"success": {h: {str(n): v for n, v in f.items()} for h, f in mean.items()}},
    )


def right_values(runs: Runs, bits: list[int]) -> Claim:
    """The critic with HER against what the shortest way costs; on distances that its task has."""
    lines, gaps = [], {}
    for n in bits:
        found = [statistics.fmean(column) for column in zip(*[r.seen["values"] for r in runs[on_bits(n), WITH]], strict=True)]
        true = [shortest(d, DQN["gamma"]) for d in range(1, n + 1)]
        gaps[n] = statistics.fmean(abs(a - b) for a, b in zip(found, true, strict=True))
        lines.append(f"{n} bits: {gaps[n]:.2f} of {abs(true[-1]):.1f}")
    text = "mean gap of max Q to −Σ_{i<d−1} γ^i over the distances d = 1 … n, and the largest value: " + "; ".join(lines)
    return "Not in the paper: the values learned with HER are those of the shortest way", "–", text, "measured", {"gaps": gaps}


def table(runs: Runs, bits: list[int]) -> str:
    lines = ["| bits | a random episode, exactly | without HER | with HER |", "|---|---|---|---|"]
    for n in bits:
        ours, theirs = both(runs, on_bits(n))
        lines.append(f"| {n} | {100 * exact.chance(n):.2g} % | {percent(success(theirs))} | {percent(success(ours))} |")
    return "\n".join(lines)


# -- reaching --------------------------------------------------------------------------------------------------------


def helped(runs: Runs, task: str, where: str, steps: int) -> Claim:
    ours, theirs = both(runs, task)
    text = (
        f"success at the end with HER {percent(success(ours))}, without {percent(success(theirs))}; along the run "
        f"{percent(along(ours))} and {percent(along(theirs))}"
    )
    claim = f"{where}: HER makes learning from the sparse reward possible ({task}, {steps:,} steps)"
    numbers = {WITH: told(ours), WITHOUT: told(theirs)}
    return claim, "pushing, sliding, pick-and-place: learned with it only", text, more(ours, theirs), numbers


def more(ones: list[Learned], others: list[Learned]) -> bool | str:
    """By the success along the run. Equal ones are undecided."""
    a, b = along(ones), along(others)
    return UNDECIDED if a == b else clearly_more(a, b)


def reached(runs: Runs, steps: int) -> Claim:
    if (ARM, WITH) in runs:
        return helped(runs, ARM, "Section 4.2, on the arm", steps)
    why = "left out" if robotics() else "gymnasium-robotics is not installed"
    return "Section 4.2, on the arm: FetchReach-v4", "pushing, sliding, pick-and-place", why, "not run", {}


def several_goals(runs: Runs) -> Claim:
    """On the one goal that both are asked for, the other one has seen only it."""
    many, one = runs[POINT, WITH], runs[ONE_GOAL, WITH]
    text = f"success along the run, with HER: several goals {percent(along(many))}, one goal {percent(along(one))}"
    text += "; each is asked for the goals that it was trained on"
    claim = "Section 4.3: HER learns faster if training episodes have several goals, even if one is of interest"
    return claim, "faster", text, more(many, one), {"several": along(many), "one": along(one)}


def shaped(runs: Runs, steps: int) -> Claim:
    """The paper's finding is of pushing and sliding, where the distance says little."""
    ours, theirs = both(runs, SHAPED)
    text = (
        f"reward −|achieved − goal|²: success at the end with HER {percent(success(ours))}, without {percent(success(theirs))}; "
        f"sparse reward: {percent(success(runs[POINT, WITH]))} and {percent(success(runs[POINT, WITHOUT]))}"
    )
    mean = statistics.fmean(success(ours)), statistics.fmean(success(theirs))
    verdict: bool | str = True if max(mean) <= FAILS else REFUTED if min(mean) >= 0.5 else UNDECIDED
    claim = f"Section 4.4, Figure 5: with a shaped reward DDPG fails, with HER and without ({SHAPED}, {steps:,} steps)"
    return claim, "fails on all three tasks", text, verdict, {WITH: told(ours), WITHOUT: told(theirs)}


# -- strategies ------------------------------------------------------------------------------------------------------


def strategies(runs: Runs, steps: int) -> Claim:
    """Future before each of the others, by the success along the run."""
    found = {s: runs[on_bits(COMPARED), replayed(s, 4)] for s in STRATEGIES}
    text = "success along the run / at the end: " + ", ".join(
        f"{s} {percent(along(found[s]))} / {percent(success(found[s]))}" for s in STRATEGIES
    )
    verdicts = [more(found["future"], found[s]) for s in STRATEGIES if s != "future"]
    verdict = True if all(v is True for v in verdicts) else CONTRARY if CONTRARY in verdicts else UNDECIDED
    claim = f"Section 4.5, Figure 6: the strategy future is the best ({COMPARED} bits, k = 4, {steps:,} steps)"
    text += "; future beside " + ", ".join(
        f"{s}: {'more' if v is True else 'less' if v == CONTRARY else v}"
        for s, v in zip([s for s in STRATEGIES if s != "future"], verdicts, strict=True)
    )
    return claim, "future", text, verdict, {s: told(f) for s, f in found.items()}


def multiples(runs: Runs, steps: int) -> Claim:
    """4 and 8 before 1 and 64, the largest number here."""
    found = {k: runs[on_bits(COMPARED), replayed("future", k)] for k in MULTIPLES}
    text = "success along the run: " + ", ".join(f"k = {k}: {percent(along(found[k]))}" for k in MULTIPLES)
    verdicts = [more(found[k], found[end]) for k in (4, 8) for end in (1, 64)]
    verdict = True if all(v is True for v in verdicts) else CONTRARY if CONTRARY in verdicts else UNDECIDED
    claim = f"Section 4.5, Figure 6: k = 4 or 8 is best, larger ones are worse ({COMPARED} bits, future, {steps:,} steps)"
    return claim, "4 or 8; worse above 8", text, verdict, {str(k): told(f) for k, f in found.items()}


# -- pictures --------------------------------------------------------------------------------------------------------


def draw(runs: Runs, bits: list[int], out: Path) -> None:
    figure, axes = panels(1, 4, (3.2, 2.9))
    for how in (WITH, WITHOUT):
        values = [[success(runs[on_bits(n), how])[i] for n in bits] for i in range(len(runs[on_bits(bits[0]), how]))]
        (line,) = axes[0, 0].plot(bits, [statistics.fmean(column) for column in zip(*values, strict=True)], ".-", label=how)
        for row in values:
            axes[0, 0].plot(bits, row, ".", color=line.get_color(), alpha=0.4, markersize=4)
    axes[0, 0].plot(bits, [exact.chance(n) for n in bits], "k:", label="random", linewidth=1)
    axes[0, 0].set(title="success at the end, by bits", xlabel="bits")
    for strategy in STRATEGIES:
        succeeded(axes[0, 1], runs[on_bits(COMPARED), replayed(strategy, 4)], strategy)
    axes[0, 1].set(title=f"{COMPARED} bits, by strategy")
    for k in MULTIPLES:
        succeeded(axes[0, 2], runs[on_bits(COMPARED), replayed("future", k)], f"k = {k}")
    axes[0, 2].set(title=f"{COMPARED} bits, future, by k")
    for task in (POINT, ONE_GOAL, *([ARM] if (ARM, WITH) in runs else [])):
        line = succeeded(axes[0, 3], runs[task, WITH], task)
        succeeded(axes[0, 3], runs[task, WITHOUT], "", color=line.get_color(), linestyle=":")
    axes[0, 3].set(title="reaching: with HER, without (dotted)")
    for axis in axes.flat:
        axis.legend(fontsize=6, frameon=False)
        axis.title.set_fontsize(9)
        axis.set_xlabel(axis.get_xlabel() or "environment steps", fontsize=8)
    figure.savefig(out / "success.png", dpi=130, facecolor="white")


def succeeded(axis: Any, runs: list[Learned], label: str, **style: Any) -> Any:
    """The mean over seeds of the success in fresh episodes, and their span."""
    steps = [step for step, _ in runs[0].seen["success"]]
    values = [[s for _, s in r.seen["success"]] for r in runs]
    columns = list(zip(*values, strict=True))
    (line,) = axis.plot(steps, [statistics.fmean(c) for c in columns], label=label or None, linewidth=1.2, **style)
    axis.fill_between(
        steps, [min(c) for c in columns], [max(c) for c in columns], color=line.get_color(), alpha=0.1, linewidth=0
    )
    return line


if __name__ == "__main__":
    from scg.papers.cli import paper

    sys.exit(paper(["andrychowicz2017_her", *sys.argv[1:]]))
