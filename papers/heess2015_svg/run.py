"""Heess et al. (2015): value gradients along what really happened, through a model that may be wrong, and with a value at the end.

A regulator whose gradient is known in closed form, and a model of it whose matrices are off by a share. Short horizons are sums over a
grid of noise, exact; longer ones are drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Generator, Tensor

from scg.agents.bptt import bptt
from scg.agents.dynamics.classic import LinearQuadratic
from scg.agents.shac import shac
from scg.papers.figures import panels, save
from scg.papers.report import Claim, Job, Results, Say, collect
from scg.testing.lqr import LQR, Noise, Policy, Quadratic
from scg.testing.per_path import gradients

WRONG = (0.0, 0.05, 0.1, 0.2, 0.3)  # shares by which the model's matrices are too large
LONG, OFF = (2, 4, 8, 16, 32), 0.1
COLOURS = {"model's roll-outs": "C3", "SVG(∞), recorded": "C0", "SVG(1), recorded": "C1", "SVG(1), V 20 % off": "C2"}


@dataclass(frozen=True)
class Settings:
    paths: int = field(default=4_096, metadata={"help": "roll-outs behind each gradient over a long horizon"})
    seed: int = field(default=0, metadata={"help": "of everything that is drawn"})

    def __post_init__(self) -> None:
        if self.paths < 2:
            raise ValueError(f"--paths {self.paths}: give at least 2")


def run(settings: Settings, out: Path, say: Say = lambda what, done: None) -> Results:
    out.mkdir(parents=True, exist_ok=True)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    short, long = dict[str, list[float]](), dict[str, list[float]]()
    try:
        jobs: list[Job] = [
            ("every k", every_k),
            ("noise", partial(noise, settings)),
            ("a wrong model", partial(wrong_model, short)),
            ("long horizons", partial(horizons, settings, long)),
        ]
        results = collect("heess2015_svg", settings, jobs, say)
        draw(short, long, out / "model.png")
    finally:
        torch.set_default_dtype(before)
    say("done", 1.0)
    return results


# -- the two ways ----------------------------------------------------------------------------------------------------


def case() -> tuple[LQR, Policy, Noise]:
    lqr = LQR.random(0, states=1, horizon=3)
    return lqr, Policy.random(10, 1, 1), Noise.grid(lqr)


def off(lqr: LQR, share: float) -> LQR:
    return replace(lqr, a=(1 + share) * lqr.a, b=(1 + share) * lqr.b)


def along(lqr: LQR, policy: Policy, noise: Noise, k: int, values: list[Quadratic], model: LQR) -> Tensor:
    """SVG(k): windows of k recorded steps, one after another, each with V at its end; so every action is in one window."""
    with torch.no_grad():
        given = lqr.rollout(policy, noise)
    action, state, before = given["action"], given["next_obs"][..., : lqr.states], given["obs"][..., : lqr.states]
    total = torch.zeros(policy.flat().numel())
    for t in range(0, lqr.horizon, k):
        count = min(k, lqr.horizon - t)
        copies = policy.copies(len(noise.weight))
        end = values[t + count]
        tail = Quadratic(end.m.detach(), torch.as_tensor(end.p).detach())
        graph = shac(copies, tail, LinearQuadratic(model))  # type: ignore[arg-type]
        rows = {"action": action[t : t + count], "state": state[t : t + count], "start": before[t]}
        rows["weight"] = lqr.gamma ** torch.arange(float(count))[:, None]
        graph.replay(rows, after=lqr.gamma**count).surrogate("gain", "tail").backward()
        total += lqr.gamma**t * (noise.weight[:, None] * gradients(copies)).sum(0) * len(noise.weight)
    return total


def gap(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


# -- claims ----------------------------------------------------------------------------------------------------------


def every_k() -> Claim:
    lqr, policy, grid = case()
    exact = lqr.gradient(policy, leading=True)
    found = {k: gap(along(lqr, policy, grid, k, lqr.values(policy), lqr), exact) for k in (1, 2, 3)}
    text = "; ".join(f"k = {k}: relative gap {v:.0e}" for k, v in found.items())
    claim = "Section 4: SVG(k) with the right model and value is the policy gradient, for every k"
    return claim, "equal", text, max(found.values()) < 1e-9, {str(k): v for k, v in found.items()}


def noise(settings: Settings) -> Claim:
    """What is recorded and replayed gives the values and the gradient of the roll-out that was drawn."""
    lqr, policy, _ = case()
    world, weight = LinearQuadratic(lqr), torch.ones(3, 1)
    graph, g = bptt(policy, world), Generator().manual_seed(settings.seed)
    start = world.start(100, g)
    drawn = graph.sample(start=start, weight=weight, generator=g)
    given = {"action": drawn["action"].detach(), "state": drawn["state"].detach(), "start": start, "weight": weight}
    again = graph.replay(given)
    one, two = (
        torch.cat([x.flatten() for x in torch.autograd.grad(trace.surrogate("gain"), list(policy.parameters()))])
        for trace in (drawn, again)
    )
    worst = gap(two, one)
    claim = "Section 3: noise inferred from a record makes its gradient that of the roll-out itself"
    return (
        claim,
        "equal",
        f"100 roll-outs of 3 steps, drawn and replayed: relative gap {worst:.0e}",
        worst < 1e-12,
        {"gap": worst},
    )


def wrong_model(short: dict[str, list[float]]) -> Claim:
    lqr, policy, grid = case()
    exact, right = lqr.gradient(policy, leading=True), lqr.values(policy)
    for name in COLOURS:
        short[name] = []
    for share in WRONG:
        model = off(lqr, share)
        short["model's roll-outs"].append(gap(model.gradient(policy, leading=True), exact))
        short["SVG(∞), recorded"].append(gap(along(lqr, policy, grid, 3, right, model), exact))
        short["SVG(1), recorded"].append(gap(along(lqr, policy, grid, 1, right, model), exact))
        short["SVG(1), V 20 % off"].append(gap(along(lqr, policy, grid, 1, [1.2 * v for v in right], model), exact))
    text = f"model's matrices {', '.join(f'{w:.0%}' for w in WRONG)} too large, bias over |gradient|: " + "; ".join(
        f"{name} {', '.join(f'{v:.2f}' for v in values)}" for name, values in short.items()
    )
    claim = "Sections 1, 3: along recorded trajectories a model's errors bias the gradient less than in roll-outs of the model"
    recorded = (short["SVG(1), recorded"], short["SVG(∞), recorded"])
    right_so = all(a < b for values in recorded for a, b in zip(values[1:], short["model's roll-outs"][1:], strict=True))
    return claim, "less", text, right_so, dict(short)


def horizons(settings: Settings, long: dict[str, list[float]]) -> Claim:
    """A mass on a line under a stable gain; the model's matrices are off by a tenth."""
    a, b = torch.tensor([[1.0, 0.3], [0.0, 1.0]]), torch.tensor([[0.045], [0.3]])
    q, r = torch.diag(torch.tensor([1.0, 0.1])), torch.tensor([[0.3]])
    long["model's roll-outs"], long["SVG(∞), recorded"], errors = [], [], []
    for steps in LONG:
        lqr = LQR(a, b, q, r, torch.full((2,), 0.05), torch.tensor([1.0, 0.0]), torch.full((2,), 0.3), steps, 1.0)
        policy = Policy(torch.tensor([[-0.5, -0.8]]), torch.full((1,), -1.0))
        exact = lqr.gradient(policy, leading=True)[:2]
        model, g = off(lqr, OFF), Generator().manual_seed(settings.seed)
        long["model's roll-outs"].append(gap(model.gradient(policy, leading=True)[:2], exact))
        found = []
        world, weight = LinearQuadratic(lqr), torch.ones(steps, 1)
        with torch.no_grad():
            drawn = bptt(policy, world).sample(start=world.start(settings.paths, g), weight=weight, generator=g)
        for inside in (model, lqr):
            copies = policy.copies(settings.paths)
            given = {"action": drawn["action"], "state": drawn["state"], "start": drawn["obs"][0], "weight": weight}
            bptt(copies, LinearQuadratic(inside)).replay(given).surrogate("gain").backward()
            found.append(settings.paths * gradients(copies)[:, :2])
        # on the same roll-outs the right model's mean is known: what it is off by is chance
        change = found[0] - found[1]
        long["SVG(∞), recorded"].append(float(change.mean(0).norm() / exact.norm()))
        errors.append(float(change.std(0).norm() / math.sqrt(settings.paths) / exact.norm()))
    text = f"matrices {OFF:.0%} too large, {', '.join(map(str, LONG))} steps, bias over |gradient|: " + "; ".join(
        f"{name} {', '.join(f'{v:.2f}' for v in values)}" for name, values in long.items()
    )
    text += f" (± at most {max(errors):.2f})"
    claim = "Section 3: errors of the model do not compound along recorded trajectories as they do in the model's roll-outs"
    right = long["SVG(∞), recorded"][-1] < 0.5 * long["model's roll-outs"][-1]
    return claim, "less", text, right, {**long, "standard errors": errors}


def draw(short: dict[str, list[float]], long: dict[str, list[float]], path: Path) -> None:
    figure, axes = panels(1, 2)
    for name, values in short.items():
        axes[0, 0].plot([100 * w for w in WRONG], values, marker="o", markersize=3, color=COLOURS[name], label=name)
    for name, values in long.items():
        axes[0, 1].plot(LONG, values, marker="o", markersize=3, color=COLOURS[name])
    axes[0, 0].set(xlabel="model's error, %", ylabel="bias / |gradient|, 3 steps")
    axes[0, 1].set(yscale="log", xlabel="horizon", ylabel="bias / |gradient|", xticks=LONG[1:])
    save(figure, path, axes[0, 0])
