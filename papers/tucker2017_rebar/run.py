"""Tucker et al. (2017): the toy E[(b − t)²] descended with REBAR, MuProp, the Concrete relaxation and others.

Losses and variances are exact at the θ that a descent has reached (sums over the bit, quadrature over its noise); only
the descents are random.
"""

from __future__ import annotations

import math
import sys
from functools import partial
from pathlib import Path

import torch

from scg.papers.report import FAILED, REFUTED, Claim, Job, Results, Say, collect, number, over_seeds
from scg.papers.toy import descent, exact
from scg.papers.toy.descent import Contender, OptimisationRuns, Settings, concrete, toy
from scg.papers.toy.learned import EachREBAR
from scg.papers.toy.pictures import draw
from scg.testing import check_unbiased

TARGETS = [0.45, 0.49, 0.499]
UNBIASED = (
    descent.SCORE,
    descent.AVERAGE,
    descent.MUPROP,
    descent.REBAR_PLAIN,
    descent.REBAR,
    descent.LEAVE_ONE_OUT,
    descent.DISARM,
)
CONCRETE = {tau: Contender(f"Concrete, τ = {tau:g}", 1, concrete(tau)) for tau in (1.0, 0.5, 0.1)}
TEMPERATURES = (0.1, 0.5, 1.0, 2.0, 10.0, 100.0, 1000.0)
RELAXATIONS = (("σ(z/τ)", False), ("the paper's", True))
DETERMINISTIC = 0.1


def run(settings: Settings, out: Path, say: Say = lambda what, done: None) -> Results:
    """All claims about the toy."""
    out.mkdir(parents=True, exist_ok=True)
    lab = OptimisationRuns(TARGETS, settings)
    jobs: list[Job] = [
        ("unbiased ones converge", partial(converge, lab)),
        ("Concrete", partial(stochastic_solution, lab)),
        ("lower temperature", partial(lower_temperature, lab)),
        ("unbiasedness", partial(unbiased, lab)),
        ("limit", limit),
        ("variance at the start", at_the_start),
        ("variance away from it", away),
        ("learned variance", partial(learned, lab)),
        ("harder targets", partial(harder, lab)),
    ]
    results = collect("tucker2017_rebar", settings, jobs, say)
    results.sections["shares"] = shares_table()
    results.sections["descents"] = lab.table((*UNBIASED, *CONCRETE.values()))
    say("pictures", len(jobs) / (len(jobs) + 1))
    draw(lab.found, TARGETS, out / "curves.png")
    say("done", 1.0)
    return results


def converge(lab: OptimisationRuns) -> Claim:
    lines, numbers, right = [], {}, True
    for contender in UNBIASED:
        found = lab.of(contender).of(0.45)
        left, p = found.excess[-1], torch.sigmoid(found.theta[-1])
        numbers[contender.name] = {"excess": left.tolist(), "p": p.tolist()}
        lines.append(f"{contender.name}: {over_seeds(left.tolist())}, largest p {p.max():.3f}")
        right = right and bool((p < DETERMINISTIC).all())
    claim = "Section 5.1, Figure 1 (right), t = 0.45: all unbiased estimators converge to the optimal loss, t² at p = 0"
    text = f"excess loss left after {lab.settings.steps:,} steps, as a share of the initial: " + "<br>".join(lines)
    return claim, "0", text, right, numbers


def stochastic_solution(lab: OptimisationRuns) -> Claim:
    lines, numbers, right = [], {}, True
    for tau in (1.0, 0.5):
        found = lab.of(CONCRETE[tau]).of(0.45)
        half = len(found.step) // 2
        p = torch.sigmoid(found.theta[half:]).mean(0)
        fixed = 1 / (1 + math.exp(-exact.concrete_optimum(0.45, tau)))
        numbers[CONCRETE[tau].name] = {"p": p.tolist(), "fixed_point": fixed}
        lines.append(f"τ = {tau:g}: p = {over_seeds(p.tolist())} over the second half, fixed point by quadrature {fixed:.4f}")
        right = right and abs(float(p.mean()) - fixed) < 0.02 and bool((p > DETERMINISTIC).all())
    claim = "Section 5.1: the Concrete estimator converges to a stochastic solution, though the optimal one is deterministic"
    return claim, "p not 0 or 1", "<br>".join(lines), right, numbers


def lower_temperature(lab: OptimisationRuns) -> Claim:
    found = lab.of(CONCRETE[0.1]).of(0.45)
    where = {t: {tau: exact.concrete_optimum(t, tau) for tau in (0.5, 0.2, 0.1, 0.05)} for t in (0.45, 0.499)}
    points = {
        t: {tau: 1 / (1 + math.exp(-theta)) if theta > -math.inf else 0.0 for tau, theta in w.items()} for t, w in where.items()
    }
    lines = [
        f"t = {t}: fixed point p = " + ", ".join(f"{p:.3f} (τ = {tau:g})" for tau, p in w.items()) for t, w in points.items()
    ]
    lines.append(f"τ = 0.1, t = 0.45: excess loss left {over_seeds(found.excess[-1].tolist())}, still falling")
    claim = "Section 5.1: for this simple problem a lower temperature is enough for an acceptable solution"
    right = points[0.45][0.1] == 0.0 and float(found.excess[-1].mean()) < 0.7 * float(found.excess[len(found.step) // 5].mean())
    return (
        claim,
        "yes, at t = 0.45",
        "<br>".join(lines) + "<br>so it is at t = 0.45, and not at t = 0.499",
        right,
        {"fixed_points": points},
    )


def unbiased(lab: OptimisationRuns) -> Claim:
    inputs = {"theta": torch.tensor([-0.8], dtype=torch.float64, requires_grad=True), "t": exact.scalar(0.45).reshape(1)}
    verdicts = {}
    for tau, eta in ((0.1, 1.0), (0.5, 1.0), (2.0, -0.7)):
        for name, paper in RELAXATIONS:
            graph = toy(EachREBAR(1, tau, eta, mean_field=paper))
            report = check_unbiased(graph, inputs, wrt=["theta"], false_alarm=1e-5, seed=lab.settings.seed)
            verdicts[f"{name}, τ = {tau:g}, η = {eta:g}"] = report.verdict
    text = "`check_unbiased` at θ = −0.8 for both relaxations and (τ, η) = (0.1, 1), (0.5, 1), (2, −0.7): "
    text += ", ".join(sorted(set(verdicts.values())))
    return "Section 3: REBAR is unbiased for every τ and η", "unbiased", text, set(verdicts.values()) == {"unbiased"}, verdicts


def limit() -> Claim:
    """τ → ∞ with the paper's relaxation: the score function with baseline η f(p)."""
    theta, t = torch.linspace(-3, 3, 13, dtype=torch.float64), exact.scalar(0.45)
    p, gaps = torch.sigmoid(theta), {}
    for tau in (10.0, 100.0, 1000.0, 10000.0):
        ours = exact.controlled(theta, t, exact.relaxed_cost(t, tau, 1.0, exact.mean_field(theta, tau)))
        gaps[tau] = float((ours / exact.score_function(theta, t, exact.cost(p, t)) - 1).abs().max())
    text = "largest relative gap between the variances at 13 logits: " + ", ".join(
        f"{g:.0e} (τ = {tau:g})" for tau, g in gaps.items()
    )
    claim = "‘Rethinking the relaxation’: as τ → ∞ REBAR becomes the score function with the mean-field cost as its baseline"
    return claim, "the same estimator", text, gaps[10000.0] < 1e-2 and gaps[10000.0] < 0.11 * gaps[1000.0], {"gaps": gaps}


def shares(theta: float, t: float, paper: bool) -> dict[str, dict[str, float]]:
    """By temperature: REBAR's variance as a share of the score function's, at η = 1, at the best η, and that η."""
    at, target = exact.scalar(theta), exact.scalar(t)
    found = {}
    for tau in TEMPERATURES:
        shift = exact.mean_field(at, tau) if paper else 0.0
        eta, best = exact.best_strength(at, target, tau, shift)
        one = exact.controlled(at, target, exact.relaxed_cost(target, tau, 1.0, shift)) / exact.score_function(at, target)
        found[f"{tau:g}"] = {"eta 1": float(one), "best": float(best), "best eta": float(eta)}
    return found


def at_the_start() -> Claim:
    """At θ = 0 both relaxations are the same estimator."""
    numbers = {f"t = {t}": shares(0.0, t, paper=True) for t in TARGETS}
    low = [s for found in numbers.values() for tau, s in found.items() if float(tau) <= 2]
    one, best = [s["eta 1"] for s in low], [s["best"] for s in low]
    far = [numbers[f"t = {t}"]["1000"] for t in (0.45, 0.499)]
    text = (
        f"exactly, as a share of the score function's variance: for τ ≤ 2 and t = 0.45, 0.49, 0.499 η = 1 gives {min(one):.2f} to {max(one):.2f}, "
        f"the best η {min(best):.4f} to {max(best):.4f}; far off, at τ = 1000, {far[0]['best']:.1g} with η = {far[0]['best eta']:.0f} (t = 0.45) "
        f"and {far[1]['best']:.2g} with η = {far[1]['best eta']:.0f} (t = 0.499)"
    )
    claim = "The premise, at the toy's start θ = 0: REBAR lowers the variance of REINFORCE"
    return claim, "abstract; Figure 1 (left), curves", text, REFUTED if min(one) > 1 and min(best) > 0.99 else FAILED, numbers


def away() -> Claim:
    numbers = {f"t = {t}, {name}": shares(-2.0, t, paper) for t in (0.45, 0.499) for name, paper in RELAXATIONS}
    new, old = ({t: numbers[f"t = {t}, {name}"] for t in (0.45, 0.499)} for name, _ in reversed(RELAXATIONS))
    lines = [
        f"t = {t}: τ = 2 {new[t]['2']['best']:.2f}, τ = 10 {new[t]['10']['best']:.2g} (η = {new[t]['10']['best eta']:.1f}); "
        f"with σ(z/τ) in its place {old[t]['2']['best']:.4f} and {old[t]['10']['best']:.2f}"
        for t in (0.45, 0.499)
    ]
    right = all(new[t]["2"]["best"] < 0.5 and new[t]["10"]["best"] < 0.05 and old[t]["2"]["best"] > 0.99 for t in (0.45, 0.499))
    claim = "‘Rethinking the relaxation’: away from the start, θ = −2 (p = 0.12), the paper's relaxation lowers the variance"
    text = "exactly, the share of the score function's variance at the best η: " + "<br>".join(lines)
    return claim, "lower", text, right, numbers


def shares_table() -> str:
    """A Markdown table of all those shares."""
    rows = ["| | " + " | ".join(f"τ = {tau:g}" for tau in TEMPERATURES) + " |", "|---" * (len(TEMPERATURES) + 1) + "|"]
    cases = [(f"θ = 0, t = {t}", shares(0.0, t, paper=True)) for t in TARGETS]
    cases += [(f"θ = −2, t = {t}, {name}", shares(-2.0, t, paper)) for t in (0.45, 0.499) for name, paper in RELAXATIONS]
    for key, found in cases:
        cells = (f"{s['eta 1']:.3g}; {s['best']:.3g} ({s['best eta']:.2g})" for s in found.values())
        rows.append(f"| {key} | " + " | ".join(cells).replace("-", "−") + " |")
    return "\n".join(rows)


def learned(lab: OptimisationRuns) -> Claim:
    lines, numbers, ends = [], {}, {}
    for contender in (descent.REBAR, descent.REBAR_PLAIN):
        for target in TARGETS:
            curves = lab.of(contender)
            found, own, estimator = curves.of(target), curves.t == target, curves.estimator
            assert isinstance(estimator, EachREBAR)
            tau, eta = estimator.log_temperature.detach().exp()[own].median(), estimator.eta.detach()[own].median()
            at = [int(fraction * (len(found.step) - 1)) for fraction in (0.0, 0.2, 0.5, 1.0)]
            share = found.share[at].median(1).values.tolist()
            ends[contender.name, target] = share[-1]
            numbers[f"{contender.name}, t = {target}"] = {"share": share, "tau": float(tau), "eta": float(eta)}
            steps = ", ".join(f"{s:.2g}" for s in share)
            lines.append(f"{contender.name}, t = {target}: {steps} (τ = {tau:.2g}, η = {eta:.2g})")
    quarters = ", ".join(f"{int(lab.settings.steps * fraction):,}" for fraction in (0.0, 0.2, 0.5, 1.0))
    text = f"share of the score function's variance at the same θ, median over seeds, at steps {quarters}:<br>" + "<br>".join(
        lines
    )
    claim = "Learning τ and η online (from 0.5 and 1) lowers the variance; t = 0.45"
    return claim, "curves", text, ends[descent.REBAR.name, 0.45] < 0.1, numbers


def harder(lab: OptimisationRuns) -> Claim:
    left = {c.name: lab.of(c).of(0.499).excess[-1] for c in UNBIASED}
    gap, theirs = left[descent.SCORE.name], left[descent.REBAR.name]
    error = float((gap.var() + theirs.var()).div(len(gap)).sqrt())
    cheap = max(float(left[c.name].mean()) for c in (descent.AVERAGE, descent.LEAVE_ONE_OUT, descent.DISARM))
    dear = min(float(left[c.name].mean()) for c in (descent.SCORE, descent.REBAR, descent.MUPROP))
    text = (
        f"excess loss left at t = 0.499: {dear:.2f} or more with score function, MuProp or REBAR, {cheap:.3f} or less with a moving average, "
        f"leave-one-out or DisARM; score function less REBAR {number(float(gap.mean() - theirs.mean()), 2)} ± {error:.2f}"
    )
    numbers = {name: values.tolist() for name, values in left.items()}
    return "Ours: nearer to t = ½ a baseline or a pair is worth more than REBAR", "—", text, cheap < 0.5 * dear, numbers


if __name__ == "__main__":
    from scg.papers.cli import paper

    sys.exit(paper(["tucker2017_rebar", *sys.argv[1:]]))
