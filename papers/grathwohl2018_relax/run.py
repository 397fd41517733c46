"""Grathwohl et al. (2018): the toy E[(b − 0.499)²] descended with REINFORCE, REBAR and RELAX, and what baselines do.

Losses and variances are exact at the θ that a descent has reached (sums over the bit, quadrature over its noise); only
the descents are random.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from scg.papers.figures import panels, save
from scg.papers.report import FAILED, REFUTED, REPRODUCED, Claim, Job, Results, Say, collect, number, over_seeds
from scg.papers.toy import descent, exact
from scg.papers.toy.descent import OptimisationRuns, descend, toy
from scg.papers.toy.learned import EachRELAX
from scg.papers.toy.pictures import draw
from scg.testing import check_unbiased

TARGETS = [0.45, 0.499]
CONTENDERS = (descent.SCORE, descent.REBAR, descent.RELAX, descent.AVERAGE, descent.LEAVE_ONE_OUT, descent.DISARM)
HARD = 0.499


@dataclass(frozen=True)
class Settings(descent.Settings):
    steps: int = field(default=10_000, metadata={"help": "steps of Adam on θ"})


def run(settings: Settings, out: Path, say: Say = lambda what, done: None) -> Results:
    """All claims about the toy."""
    out.mkdir(parents=True, exist_ok=True)
    lab = OptimisationRuns(TARGETS, settings)
    for i, contender in enumerate(CONTENDERS):
        say(f"descending with {contender.name}", i / (len(CONTENDERS) + 1))
        lab.of(contender)
    claims: list[Job] = [
        ("unbiasedness", partial(unbiased, settings)),
        ("loss", partial(losses, lab)),
        ("variance", partial(variances, lab)),
        ("REBAR against REINFORCE", partial(no_faster, lab)),
        ("relaxations", partial(relaxations, settings, out)),
        ("best control", best_control),
        ("baselines", partial(baselines, lab)),
    ]
    results = collect("grathwohl2018_relax", settings, claims, say)
    results.sections["descents"] = lab.table(CONTENDERS)
    draw(lab.found, TARGETS, out / "curves.png")
    say("done", 1.0)
    return results


def unbiased(settings: Settings) -> Claim:
    verdicts = {}
    for scale in (0.0, 1.5):
        estimator = EachRELAX(1, seed=settings.seed)
        torch.nn.init.constant_(estimator.control.scale, scale)
        inputs = {"theta": torch.full((1,), -0.8, dtype=torch.float64, requires_grad=True), "t": exact.scalar(0.45).reshape(1)}
        report = check_unbiased(toy(estimator), inputs, wrt=["theta"], false_alarm=1e-5, seed=settings.seed)
        verdicts[f"scale {scale:g}"] = report.verdict
    text = "`check_unbiased` at θ = −0.8, t = 0.45, with a control that is zero and with one that is not: " + ", ".join(
        verdicts.values()
    )
    return "Section 3: RELAX is unbiased for every control", "unbiased", text, set(verdicts.values()) == {"unbiased"}, verdicts


def left_over(lab: OptimisationRuns, name: str) -> Tensor:
    (contender,) = (c for c in CONTENDERS if c.name == name)
    return lab.of(contender).of(HARD).excess[-1]


def losses(lab: OptimisationRuns) -> Claim:
    names = (descent.SCORE.name, descent.REBAR.name, descent.RELAX.name)
    left = {name: left_over(lab, name) for name in names}
    numbers = {name: values.tolist() for name, values in left.items()}
    text = f"excess loss left after {lab.settings.steps:,} steps, as a share of the initial: "
    text += ", ".join(f"{name} {over_seeds(values)}" for name, values in numbers.items())
    score, rebar, relax = (float(values.mean()) for values in left.values())
    claim = "Section 5.1, Figure 1 (left), t = 0.499: REINFORCE and REBAR do not find the optimum p = 0, RELAX does"
    return claim, "curves", text, relax < 0.2 and min(score, rebar) > 0.5, numbers


def variances(lab: OptimisationRuns) -> Claim:
    lines, numbers = [], {}
    for target in TARGETS:
        for contender in CONTENDERS:
            found = lab.of(contender).of(target)
            later = found.share[len(found.step) // 5 :].clamp_min(1e-12).log().mean(0)
            numbers[f"{contender.name}, t = {target}"] = later.tolist()
        cells = ", ".join(f"{c.name} {over_seeds(numbers[f'{c.name}, t = {target}'])}" for c in CONTENDERS[1:])
        lines.append(f"t = {target}: {cells}")
    relax, rebar = (torch.tensor(numbers[f"{c.name}, t = {HARD}"]) for c in (descent.RELAX, descent.REBAR))
    claim = "Figure 1 (right), t = 0.499: the log variance of RELAX is far below that of REINFORCE and REBAR"
    text = "log of the share of the score function's variance at the same θ, mean over the last four fifths: " + "<br>".join(
        lines
    )
    return claim, "curves", text, bool(relax.mean() < -3) and bool(relax.mean() < rebar.mean() - 3), numbers


def no_faster(lab: OptimisationRuns) -> Claim:
    area = {c.name: lab.of(c).of(HARD).excess.mean(0) for c in (descent.SCORE, descent.REBAR)}
    score, rebar = area.values()
    gap, error = float(score.mean() - rebar.mean()), float(((score.var() + rebar.var()) / len(score)).sqrt())
    text = f"excess loss, mean over all steps: REINFORCE {over_seeds(score.tolist())}, REBAR {over_seeds(rebar.tolist())}; gain {number(gap, 3)} ± {error:.3f}"
    claim = "Section 5.1, t = 0.499: REBAR is not noticeably faster than REINFORCE"
    return claim, "not noticeably", text, gap < max(0.1, 3 * error), {name: values.tolist() for name, values in area.items()}


@dataclass(frozen=True)
class Learned:
    """What was learned at θ = 0 held fixed: the control c at the points of u, its slope, and the estimate g."""

    u: Tensor
    c: Tensor
    slope: Tensor
    g: Tensor
    probability: Tensor

    def share(self, condition: Tensor) -> list[float]:
        """The probability of a condition on the noise, for each toy."""
        return (self.probability * condition).sum(0).tolist()


def learn_in_place(contender: descent.Contender, settings: Settings) -> Learned:
    t = torch.full((settings.seeds,), HARD, dtype=torch.float64)
    theta, steps = torch.zeros_like(t), min(settings.steps, 4000)
    estimator = descend(contender, t, steps, steps, settings.seed, rate=0.0).estimator
    control = estimator.level if isinstance(estimator, EachRELAX) else estimator.control(theta, t)  # type: ignore[attr-defined]
    u = exact.noise(theta)
    with torch.enable_grad():
        z = u.z.clone().requires_grad_()
        c = control(z)
        (slope,) = torch.autograd.grad(c.sum(), z)
    return Learned(torch.sigmoid(u.z), c.detach(), slope, exact.at_noise(u, theta, t, control), u.probability)


def relaxations(settings: Settings, out: Path) -> Claim:
    rebar, relax = (learn_in_place(c, settings) for c in (descent.REBAR, descent.RELAX))
    plot(rebar, relax, out / "relaxations.png")
    t, theta = exact.scalar(HARD), exact.scalar(0.0)
    fresh = exact.noise(theta)
    boundary = float((fresh.probability * (torch.sigmoid(fresh.z) > t)).sum())
    slopes = {"REBAR": rebar.share(rebar.slope * rebar.c.sign() > 0), "RELAX": relax.share(relax.slope > 0)}
    signs = {"REBAR": rebar.share(rebar.g > 0), "RELAX": relax.share(relax.g > 0)}
    text = (
        f"held at θ = 0: f(σ(z)) rises for u > t, {boundary:.4f} of all u; the learned control of RELAX for {over_seeds(slopes['RELAX'])}<br>"
        f"share of u at which the whole estimate has the gradient's sign: REINFORCE 0.5, REBAR {over_seeds(signs['REBAR'])}, "
        f"RELAX {over_seeds(signs['RELAX'])}"
    )
    everywhere = min(slopes["RELAX"]) > 0.99
    numbers = {"boundary": boundary, "slopes": slopes, "signs": signs}
    claim = "Section 5.1: RELAX's relaxation has a slope towards lower loss for all u, REBAR's only for u > t"
    return (
        claim,
        "all u; u > t",
        text,
        (REPRODUCED if everywhere else REFUTED) if abs(boundary - 0.501) < 1e-3 else FAILED,
        numbers,
    )


def best_control() -> Claim:
    """The constant b* is the best control of all."""
    theta, gaps = torch.linspace(-4, 4, 17, dtype=torch.float64), {}
    for target in TARGETS:
        t = exact.scalar(target)
        level = exact.best_baseline(theta, t)
        gaps[f"t = {target}"] = float(exact.controlled(theta, t, lambda z, level=level: level.expand_as(z)).max())  # type: ignore[misc]
    text = "largest variance at 17 logits with the constant control c = q f(1) + p f(0): " + ", ".join(
        f"{v:.0e} ({k})" for k, v in gaps.items()
    )
    claim = "Ours: on one bit the best control knows nothing of z, it is a constant, and leaves no variance at all"
    return claim, "—", text, max(gaps.values()) < 1e-25, gaps


def baselines(lab: OptimisationRuns) -> Claim:
    names = (descent.RELAX.name, descent.AVERAGE.name, descent.LEAVE_ONE_OUT.name, descent.DISARM.name)
    numbers = {name: left_over(lab, name).tolist() for name in names}
    text = f"excess loss left at t = 0.499 after {lab.settings.steps:,} steps: " + ", ".join(
        f"{n} {over_seeds(v)}" for n, v in numbers.items()
    )
    relax, *others = (sum(v) / len(v) for v in numbers.values())
    claim = "Ours: so a moving average, leave-one-out or DisARM end lower than RELAX on this toy, and have nothing to learn"
    return claim, "—", text, max(others) < relax, numbers


def plot(rebar: Learned, relax: Learned, path: Path) -> None:
    """The learned controls and the estimates against u, one line a toy."""
    figure, axes = panels(1, 2)
    for axis, part in zip(axes[0], ("c", "g"), strict=True):
        for name, learned, colour in (("REBAR", rebar, "C1"), ("RELAX", relax, "C2")):
            values = getattr(learned, part)
            for i in range(values.shape[1]):
                axis.plot(learned.u[:, i], values[:, i], color=colour, linewidth=0.7, label=name if i == 0 else None)
        axis.set_xlabel("u", fontsize=8)
    truth = exact.best_baseline(exact.scalar(0.0), exact.scalar(HARD)), exact.gradient(exact.scalar(0.0), exact.scalar(HARD))
    for axis, level, title in zip(axes[0], truth, ("control c(z)", "gradient estimate"), strict=True):
        axis.axhline(float(level), color="black", linewidth=0.8, linestyle=":", label="best constant; exact gradient")
        axis.set_title(f"t = {HARD}, θ = 0: {title}", fontsize=9)
    save(figure, path, axes[0, 0])


if __name__ == "__main__":
    from scg.papers.cli import paper

    sys.exit(paper(["grathwohl2018_relax", *sys.argv[1:]]))
