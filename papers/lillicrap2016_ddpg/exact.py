"""DDPG's actor and critic where all is known: on linear-quadratic regulators, and a linear critic's mean update."""

from __future__ import annotations

import statistics
from itertools import pairwise
from pathlib import Path

import torch
from torch import Generator, Tensor

from scg.agents.ddpg import ddpg
from scg.agents.networks.critics import target_copy
from scg.papers.figures import panels, save
from scg.papers.lillicrap2016_ddpg.regulator import LQR, Actor, Critic, largest_rate, normal_grid, points, radius, regression
from scg.papers.report import Claim

RIGHT = 1e-10
PROBLEMS = 50
SCALES = (1.0, 0.1, 0.01)
TAUS = (1.0, 0.1, 0.01, 0.001)


def problems() -> list[tuple[LQR, Tensor]]:
    """Regulators of three states and two actions, and a policy for each."""
    drawn = [LQR.random(seed, 3, 2) for seed in range(PROBLEMS)]
    return [(lqr, lqr.gain(seed)) for seed, lqr in enumerate(drawn)]


def actor_gradient(lqr: LQR, k: Tensor, visits: Tensor) -> Tensor:
    """What the agent's graph says at the exact critic, over states of these visits."""
    actor, critic = Actor(k), Critic(*lqr.action_value(k))
    obs = points(visits * (1 - lqr.gamma))
    nothing = obs.new_zeros(len(obs))
    graph = ddpg(actor, critic, target_copy(actor), target_copy(critic))  # type: ignore[arg-type]
    trace = graph.sample(obs=obs, action=obs @ k.mT, reward=nothing, discount=nothing, next_obs=obs)
    (cost,) = torch.autograd.grad(trace.surrogate("gain"), actor.k)
    return -cost / (1 - lqr.gamma)


def theorem() -> Claim:
    gaps = []
    for lqr, k in problems():
        exact = lqr.gradient(k)
        gaps.append(float((actor_gradient(lqr, k, lqr.visits(k)) - exact).norm() / exact.norm()))
    text = f"largest relative gap to the derivative of the return, over {PROBLEMS} regulators: {max(gaps):.0e}"
    claim = "Equation 6: ∇J = E[∇_a Q(s, a) ∇_θ μ(s)], a = μ(s), over the states that μ visits"
    return claim, "equal (Silver et al. 2014)", text, max(gaps) < RIGHT, {"gaps": gaps}


def behaviour() -> Claim:
    """Replayed states are those of other policies, with noise."""
    cosines: dict[str, list[float]] = {}
    gaps: dict[str, list[float]] = {}
    for scale in SCALES:
        for seed, (lqr, k) in enumerate(problems()):
            exact, found = lqr.gradient(k), actor_gradient(lqr, k, lqr.visits(lqr.gain(seed + PROBLEMS), scale))
            cosines.setdefault(f"{scale:g}", []).append(float((exact * found).sum() / exact.norm() / found.norm()))
            gaps.setdefault(f"{scale:g}", []).append(float((exact - found).norm() / exact.norm()))
    text = "<br>".join(
        f"states of another policy with noise σ = {scale}: relative gap, median {statistics.median(gaps[scale]):.2g}; least cosine {min(cosine):.3f}"
        for scale, cosine in cosines.items()
    )
    claim = "Equation 6, with the behaviour's states for μ's: not ∇J, but a direction in which J rises"
    rises = all(cosine > 0 for found in cosines.values() for cosine in found)
    return (
        claim,
        "≈",
        text,
        rises and all(statistics.median(found) > 0.01 for found in gaps.values()),
        {"cosines": cosines, "gaps": gaps},
    )


def limit() -> Claim:
    """∇_K J(K, σ) of Gaussian policies; on a regulator the gap is exactly in proportion to σ²."""
    ratios: list[float] = []
    gaps: dict[str, list[float]] = {f"{scale:g}": [] for scale in SCALES}
    for lqr, k in problems():
        exact = lqr.gradient(k)
        found = [float((lqr.gradient(k, scale) - exact).norm() / exact.norm()) for scale in SCALES]
        for scale, gap in zip(SCALES, found, strict=True):
            gaps[f"{scale:g}"].append(gap)
        ratios += [a / b for a, b in pairwise(found)]
    text = ", ".join(f"σ = {scale}: {statistics.median(found):.1e}" for scale, found in gaps.items())
    text = f"median relative gap {text}; a tenth of σ makes it {statistics.fmean(ratios):.2f} times smaller"
    claim = "The deterministic gradient is the limit of the stochastic one as σ → 0 (Silver et al. 2014, Theorem 2)"
    return claim, "limit", text, all(abs(ratio - 100) < 1 for ratio in ratios), {"gaps": gaps}


def variance() -> Claim:
    """Of one sample (s, a), by Gauss–Hermite sums: all are polynomials."""
    lqr = LQR.random(0)
    k = lqr.gain(0)
    found: dict[str, dict[str, float]] = {}
    for scale in (*SCALES, 0.0):
        h, constant = lqr.action_value(k, scale)
        states, weight = normal_grid(lqr.visits(k, scale) * (1 - lqr.gamma), 6)
        noise, chance = normal_grid(torch.eye(1, dtype=k.dtype), 8)
        critic, p = Critic(h, constant), (weight[:, None] * chance).flatten()
        s = states.repeat_interleave(len(noise), 0)
        e = noise.repeat(len(states), 1)
        a = (s @ k.mT + scale * e).requires_grad_()
        (slope,) = torch.autograd.grad(critic.first(s, a).sum(), a)
        q = critic.first(s, a).detach()
        level = critic.first(s, s @ k.mT).detach() - scale**2 * h[-1, -1]  # V(s)
        samples = {"through the critic's slope": slope * s}
        if scale:
            score = e / scale * s
            samples |= {"score × Q": score * q[:, None], "score × (Q − V)": score * (q - level)[:, None]}
        for name, sample in samples.items():
            mean = p @ sample
            found.setdefault(name, {})[f"{scale:g}"] = float((p @ (sample - mean).square()).sum() / mean.square().sum())
    text = "<br>".join(
        f"{name}: " + ", ".join(f"{value:.3g} (σ = {scale})" for scale, value in values.items())
        for name, values in found.items()
    )
    claim = "Variance of one sample over the gradient's square: the score function's grows without bound as σ → 0, the slope's does not"
    slope_, score_ = found["through the critic's slope"], found["score × Q"]
    right = score_["0.01"] > 50 * score_["0.1"] and max(slope_.values()) < min(score_.values())
    return claim, "no integral over actions, so fewer samples (Silver et al. 2014)", text, right, found


def critic_goal() -> Claim:
    """Rows are random states and actions, each with every point of its next state's noise."""
    gaps, others = [], []
    for seed, (lqr, k) in enumerate(problems()):
        g = Generator().manual_seed(seed)
        s, a = (torch.randn(40, size, generator=g, dtype=k.dtype) for size in (3, 2))
        noise = points(lqr.w)
        each = [x.repeat_interleave(len(noise), 0) for x in (s, a, s @ lqr.a.mT + a @ lqr.b.mT)]
        rows = {"obs": each[0], "action": each[1], "next_obs": each[2] + noise.repeat(len(s), 1)}
        rows["reward"] = -((each[0] @ lqr.q) * each[0]).sum(-1) - ((each[1] @ lqr.r) * each[1]).sum(-1)
        rows["discount"] = torch.full_like(rows["reward"], lqr.gamma)
        found = []
        for values in (lqr.action_value(k), lqr.action_value(k / 2)):
            actor, critic = Actor(k), Critic(*values)
            graph = ddpg(actor, critic, target_copy(actor), target_copy(critic))  # type: ignore[arg-type]
            slopes = torch.autograd.grad(graph.sample(**rows).surrogate("bellman"), list(critic.parameters()))  # type: ignore[arg-type]
            found.append(float(torch.cat([slope.flatten() for slope in slopes]).norm()))
        gaps.append(found[0] / found[1])
        others.append(found[1])
    text = (
        f"its regression's gradient there, over that at another policy's values: at most {max(gaps):.0e}, {PROBLEMS} regulators"
    )
    claim = "Equations 3–5: Q^μ is the critic's goal on transitions of any behaviour, for the target has no mean over actions"
    return claim, "off-policy", text, max(gaps) < RIGHT, {"gaps": gaps}


def targets(out: Path) -> Claim:
    """What a linear critic's mean update bears: random processes and features, states replayed evenly."""
    cases = [regression(seed) for seed in range(100)]
    rates = {f"{tau:g}": [largest_rate(a, c, tau) for a, c in cases] for tau in TAUS}
    half = {
        f"{tau:g}": [
            1 - radius(a, c, 1 / float(torch.linalg.eigvalsh(a)[-1]), tau) for a, c in cases if largest_rate(a, c, 1.0)
        ]
        for tau in TAUS
    }
    figure, axes = panels(1, 2)
    for axis, found, label in ((axes[0, 0], rates, "largest stable rate"), (axes[0, 1], half, "1 − spectral radius at half")):
        for tau, values in found.items():
            axis.plot(torch.linspace(0, 1, len(values)), sorted(values), label=f"τ = {tau}", linewidth=1.2)
        axis.set_ylabel(label, fontsize=8)
        axis.set_xlabel("processes, by order", fontsize=8)
    axes[0, 1].set_yscale("symlog", linthresh=1e-5)
    save(figure, out / "targets.png", axes[0, 0])
    text = "<br>".join(
        f"τ = {tau}: least {min(found):.2f}, median {statistics.median(found):.2f}; "
        f"an update's share of the way at half the limit, median {statistics.median(half[tau]):.1e}"
        for tau, found in rates.items()
    )
    claim = (
        "Section 3: slow targets make the critic's update as stable as a regression on fixed targets, and learning slow. Largest "
        "stable rate, of what that regression bears (1)"
    )
    least = [min(found) for found in rates.values()]
    right = least == sorted(least) and least[0] < 0.9 and least[-1] > 0.99
    return (
        claim,
        "“this may slow learning … greatly outweighed by the stability”, from memory",
        text,
        right,
        {"rates": rates, "half": half},
    )


def no_cure() -> Claim:
    """Values w and 2w, every reward 0: both states go to the second, and are replayed evenly."""
    phi = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    a = phi.mT @ phi / 2
    found = {
        gamma: {f"{tau:g}": largest_rate(a, gamma * phi.mT @ phi[[1, 1]] / 2, tau) for tau in TAUS} for gamma in (0.8, 0.9)
    }
    text = "<br>".join(
        f"γ = {gamma}: " + ", ".join(f"{rate:.2f} (τ = {tau})" for tau, rate in rates.items()) for gamma, rates in found.items()
    )
    claim = (
        "What targets do not mend: w, 2w of Tsitsiklis & Van Roy (1996), where the projected Bellman operator expands if γ > 5/6. "
        "Largest stable rate"
    )
    numbers = {f"{gamma:g}": rates for gamma, rates in found.items()}
    right = not any(found[0.9].values()) and all(found[0.8].values())
    return claim, "no claim", text, "measured" if right else False, numbers
