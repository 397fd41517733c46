"""TD3's claims where all is known: noisy maxima, small processes, sums of errors, a smoothed target."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

import scg
from scg.agents.networks.critics import target_copy
from scg.agents.td3 import td3
from scg.papers.figures import panels, save
from scg.papers.fujimoto2018_td3.noisy import (
    CLIPPED,
    DOUBLE,
    KINDS,
    SINGLE,
    Errors,
    fixed_point,
    learned,
    stacked,
    uniform_maximum,
)
from scg.papers.report import Claim, Estimate, number
from scg.testing.tabular import Process

RIGHT = 1e-9
SMOOTHING, CLIP = 0.2, 0.5
RHOS = tuple(i / 20 for i in range(21))


def maximum() -> Claim:
    """Thrun & Schwartz (1993): E max of m errors from U(−ε, ε) is ε (m − 1)/(m + 1)."""
    sizes = (2, 3, 10, 100)
    gaps = [abs(uniform_maximum(m) - (m - 1) / (m + 1)) for m in sizes]
    three = {m: float(Errors(m).targets(torch.zeros(m, dtype=torch.float64))[SINGLE]) for m in (1, 2, 3)}
    text = (
        f"uniform errors, {', '.join(map(str, sizes))} actions of equal value: gap to (m − 1)/(m + 1) {max(gaps):.0e}; three-valued "
        f"errors of variance 1: " + ", ".join(f"{number(bias, 3)} ({m})" for m, bias in three.items())
    )
    claim = "Section 4: the maximum of noisy values overestimates, E[max (Q + ε)] ≥ max Q; with one action alone it does not"
    right = max(gaps) < RIGHT and abs(three[1]) < RIGHT and 0 < three[2] < three[3]
    return claim, "≥", text, right, {"gaps": gaps, "three-valued": three}


def actor_critic() -> Claim:
    """Errors with slopes of mean 0 in three dimensions of the action, all eight of them; steps of one length, as in 4.1."""
    lengths = (0.001, 0.01, 0.1)
    biases: dict[str, list[float]] = {f"{length:g}": [] for length in lengths}
    follows = []
    for seed in range(100):
        g = Generator().manual_seed(seed)
        root, peak, action = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((3, 3), (3,), (3,)))
        curve = root @ root.mT / 3

        def q(a: Tensor, curve: Tensor = curve, peak: Tensor = peak) -> Tensor:
            return -(((a - peak) @ curve) * (a - peak)).sum(-1)

        slope = -2 * curve @ (action - peak)
        errors = 0.5 * slope.norm() * torch.tensor([*itertools.product((-1.0, 1.0), repeat=3)], dtype=torch.float64)
        for length in lengths:
            true = action + length * slope / slope.norm()
            approximate = action + length * (slope + errors) / (slope + errors).norm(dim=-1, keepdim=True)
            said = q(approximate) + ((approximate - action) * errors).sum(-1)
            said_of_true = q(true) + errors @ (true - action)
            follows.append(bool((said >= said_of_true - RIGHT).all()) and bool((q(approximate) <= q(true) + RIGHT).all()))
            biases[f"{length:g}"].append(float((said - q(approximate)).mean() / (length * slope.norm())))
    least = {length: min(found) for length, found in biases.items()}
    text = (
        "mean of estimate − value after a step, over the step’s true gain, least of 100 values: "
        + ", ".join(f"{number(bias, 3)} (step {length})" for length, bias in least.items())
        + f"; the true step is the better one, and the critic prefers its own, in {sum(follows)} of {len(follows)} cases"
    )
    claim = "Section 4.1: an actor’s step on a critic with errors of mean 0 ends where the critic overestimates, if the step is small"
    return (
        claim,
        "E[Q_θ(s, π)] ≥ E[Q^π(s, π)]",
        text,
        min(least.values()) > 0,
        {"biases": biases, "as in 4.1": sum(follows)},
    )


def correlated(out: Path) -> Claim:
    """Three actions of equal value; how much the critics share on the axis."""
    biases = {rho: Errors(3, rho).targets(torch.zeros(3, dtype=torch.float64)) for rho in RHOS}
    lines = {kind: [float(biases[rho][kind]) for rho in RHOS] for kind in KINDS}
    figure, axes = panels(1, 1, (4.4, 2.8))
    for kind, values in lines.items():
        axes[0, 0].plot(RHOS, values, label=kind)
    axes[0, 0].axhline(0, color="0.7", linewidth=0.8)
    axes[0, 0].set_xlabel("correlation of the two critics’ errors", fontsize=8)
    axes[0, 0].set_ylabel("bias of the target", fontsize=8)
    save(figure, out / "targets.png", axes[0, 0])
    ends = (0, 10, 20)
    text = "<br>".join(
        f"{kind}: " + ", ".join(f"{number(lines[kind][i], 3)} (ρ = {RHOS[i]:g})" for i in ends) for kind in KINDS
    )
    nearest = next(rho for rho, clipped in zip(RHOS, lines[CLIPPED], strict=True) if clipped > -RIGHT)
    text += f"<br>the clipped one underestimates below ρ = {nearest:g}"
    claim = (
        "Section 4.2: Double Q-learning is unbiased if the errors are independent and overestimates if they are shared; the minimum "
        "is never above either, and may underestimate. Bias in standard deviations of an error, three equal actions"
    )
    bounded = all(
        clipped <= min(single, double) + RIGHT for single, double, clipped in zip(*(lines[kind] for kind in KINDS), strict=True)
    )
    rising = all(a < b for a, b in itertools.pairwise(lines[DOUBLE]))
    right = bounded and rising and abs(lines[DOUBLE][0]) < RIGHT and lines[CLIPPED][0] < 0
    return claim, "the less biased estimate bounds it", text, right, {"rho": RHOS, **lines}


def accumulated() -> Claim:
    """Fixed points of Bellman updates whose every estimate is noisy; ten random processes of four states and two actions."""
    process = stacked([Process.random(seed, 4, 2, 0.9) for seed in range(10)])
    best = fixed_point(process, None, SINGLE, 120).amax(-1)
    bias: dict[str, dict[str, Tensor]] = {kind: {} for kind in KINDS}
    for rho, kind in itertools.product((0.0, 0.5), KINDS):
        errors = Errors(2, rho, 0.5)
        bias[kind][f"{rho:g}"] = errors.targets(fixed_point(process, errors, kind, 120))[kind] - best
    means = {kind: {rho: float(x.mean()) for rho, x in by_rho.items()} for kind, by_rho in bias.items()}
    text = "<br>".join(
        f"{kind}: " + ", ".join(f"{number(value, 3)} (ρ = {rho})" for rho, value in by_rho.items())
        for kind, by_rho in means.items()
    )
    one = float(Errors(2, 0.0, 0.5).targets(torch.zeros(2, dtype=torch.float64))[SINGLE])
    text += f"<br>a single update between equal values: {number(one, 3)} at most"
    claim = (
        "Sections 4 and 4.2: what one update overestimates, Bellman updates add up; clipped targets underestimate in its place. "
        "Mean bias of the fixed points, 10 processes, errors of 0.5, γ = 0.9"
    )
    above = all(bool((x > -1e-6).all()) for x in bias[SINGLE].values())
    right = above and means[CLIPPED]["0"] < 0 < means[DOUBLE]["0.5"] and means[CLIPPED]["0.5"] < means[DOUBLE]["0.5"]
    return claim, "“minor bias … can compound”, from memory", text, right and means[SINGLE]["0"] > one, means


def convergence() -> Claim:
    """Sampled transitions and rewards with noise of standard deviation 1, eight runs."""
    process, sweeps = Process.random(1, 4, 2, 0.8), 10_000
    curves = {
        kind: learned(process, kind, sweeps, 8, 1.0, Generator().manual_seed(0)) for kind in (SINGLE, CLIPPED)
    }  # runs of one seed are independent
    bias = {kind: {n: float(x.mean()) for n, x in curve.items()} for kind, curve in curves.items()}
    gaps = {n: float(x.abs().amax(-1).mean()) for n, x in curves[CLIPPED].items()}
    text = "largest gap to V*, mean of 8 runs: " + ", ".join(f"{gap:.3f} ({n:,} sweeps)" for n, gap in gaps.items())
    text += "<br>mean of V − V*: " + "; ".join(
        f"{kind} " + ", ".join(f"{number(value, 3)} ({n:,})" for n, value in values.items()) for kind, values in bias.items()
    )
    claim = "Supplement A, Theorem 1: clipped double Q-learning converges to the optimal values of a finite process"
    steps = list(gaps.values())
    right = all(after < before / 2 for before, after in itertools.pairwise(steps[1:]))
    return claim, "with probability 1", text, right, {"gaps": gaps, "bias": bias}


def residuals() -> Claim:
    """Q = E Σ γ^i (r_i − δ_i), for arbitrary tables and policies; then what independent residuals of one size make of the values."""
    gaps = []
    for seed in range(50):
        process, g = Process.random(seed, 5, 3, 0.95), Generator().manual_seed(seed)
        q, pi = (
            torch.randn(5, 3, generator=g, dtype=torch.float64),
            torch.randn(5, 3, generator=g, dtype=torch.float64).softmax(-1),
        )
        onwards = resolvent(process, pi)
        delta = process.reward + process.gamma * process.transition @ (pi * q).sum(-1) - q
        gaps.append(float((q - (onwards @ (process.reward - delta).flatten()).view_as(q)).abs().max()))
    spread = {}
    for gamma in (0.5, 0.9, 0.99):
        process = Process.random(0, 5, 3, gamma)
        pi = torch.full((5, 3), 1 / 3, dtype=torch.float64)
        spread[f"{gamma:g}"] = float(resolvent(process, pi).square().sum(-1).mean().sqrt())
    text = (
        f"largest gap over {len(gaps)} processes: {max(gaps):.0e}; residuals of standard deviation 1 make values of "
        + ", ".join(f"{value:.2f} (γ = {gamma})" for gamma, value in spread.items())
    )
    claim = "Section 5.1: an estimate is the return less the sum of future residuals, so their variance adds up with γ"
    return (
        claim,
        "equal; grows",
        text,
        max(gaps) < RIGHT and sorted(spread.values()) == list(spread.values()),
        {"spread": spread},
    )


def resolvent(process: Process, pi: Tensor) -> Tensor:
    """Σ γ^t of the chain of pairs (s, a)."""
    chain = torch.einsum("sax,xb->saxb", process.transition, pi).flatten(2).flatten(0, 1)
    return torch.linalg.inv(torch.eye(len(chain), dtype=chain.dtype) - process.gamma * chain)


def delayed() -> Claim:
    """Mean updates: Q ← Q + ½ (T^π Q − Q) always, a step of the policy on Q's advantages at every d-th."""
    delays, updates = (1, 2, 4, 8, 16), 480
    errors: dict[int, list[float]] = {d: [] for d in delays}
    for seed, d in itertools.product(range(10), delays):
        process = Process.random(seed, 4, 3, 0.9)
        theta, q = torch.zeros(4, 3, dtype=torch.float64), torch.zeros(4, 3, dtype=torch.float64)
        seen = []
        for update in range(updates):
            pi = theta.softmax(-1)
            q = q + 0.5 * (process.reward + process.gamma * process.transition @ (pi * q).sum(-1) - q)
            if update % d == d - 1 and update >= 32:
                seen.append(float((q - process.action_value(pi)).abs().max()))
                theta = theta + d * 0.02 * pi * (q - (pi * q).sum(-1, keepdim=True))
        errors[d].append(float(np.mean(seen)))
    means = {f"{d}": float(np.mean(values)) for d, values in errors.items()}
    text = "error of the critic when the policy moves: " + ", ".join(f"{value:.4f} (d = {d})" for d, value in means.items())
    claim = "Section 5.2: policy updates at every d-th step of the critic only are made on a critic with less error, at the same pace"
    return claim, "less", text, list(means.values()) == sorted(means.values(), reverse=True), means


# -- the smoothed target ---------------------------------------------------------------------------------------------


class Landscape(nn.Module):
    """Values of one action: a broad hill at −0.4, and what an error could look like, a narrow peak at 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.error = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        a = action[..., 0]
        hill, peak = (-(((a - at) / width) ** 2) / 2 for at, width in ((-0.4, 0.3), (0.5, 0.03)))
        return (0.8 * hill.exp() + self.error * peak.exp()).unsqueeze(-1)

    def first(self, obs: Tensor, action: Tensor) -> Tensor:
        return self(obs, action)[..., 0]


class Still(nn.Module):
    """The same action everywhere."""

    def __init__(self, action: float) -> None:
        super().__init__()
        self.dim, self.action = 1, nn.Parameter(torch.tensor([action], dtype=torch.float64))

    def forward(self, obs: Tensor) -> Tensor:
        return self.action.expand(*obs.shape[:-1], 1)


def clipped_normal(nodes: int = 4001) -> tuple[Tensor, Tensor]:
    """Points and weights for clip(N(0, σ²), −c, c)."""
    edges = torch.linspace(-CLIP, CLIP, nodes, dtype=torch.float64)
    below = torch.special.ndtr(edges / SMOOTHING)
    inner = below.diff()
    points = torch.cat([-torch.ones(1) * CLIP, (edges[1:] + edges[:-1]) / 2, torch.ones(1) * CLIP]).double()
    return points, torch.cat([below[:1], inner, 1 - below[-1:]])


@torch.no_grad()
def smoothing(draws: int, seed: int, out: Path) -> Claim:
    """The graph's target beside the integral; and where each is greatest."""
    landscape, (noise, p) = Landscape(), clipped_normal()
    actions = torch.linspace(-1, 1, 401, dtype=torch.float64)
    sharp = landscape(actions, actions[:, None])[:, 0]
    shifted = (actions[:, None] + noise).clamp(-1, 1)
    smooth = landscape(shifted, shifted[..., None])[..., 0] @ p
    actor = Still(0.5)
    zeros = torch.zeros(draws, dtype=torch.float64)
    rows: dict[str, Any] = {
        "obs": zeros[:, None],
        "action": zeros[:, None],
        "next_obs": zeros[:, None],
        "reward": zeros,
        "discount": zeros + 1,
    }
    graph = td3(actor, landscape, target_copy(actor), target_copy(landscape), SMOOTHING, CLIP)  # type: ignore[arg-type]
    with scg.randomness(Generator().manual_seed(seed)):
        found = graph.sample(**rows)["target"]
    exact = float(landscape(noise, (0.5 + noise).clamp(-1, 1)[:, None])[:, 0] @ p)
    mean = Estimate(float(found.mean()), float(found.std()) / draws**0.5, draws, exact)
    figure, axes = panels(1, 1, (4.4, 2.8))
    axes[0, 0].plot(actions, sharp, label="Q")
    axes[0, 0].plot(actions, smooth, label="target: E[Q(a + clip(noise))]")
    axes[0, 0].set_xlabel("action", fontsize=8)
    save(figure, out / "smoothing.png", axes[0, 0])
    peaks = float(actions[sharp.argmax()]), float(actions[smooth.argmax()])
    text = (
        f"target at the narrow peak {mean}, the integral {exact:.4f} (z = {mean.z:.1f}), unsmoothed {float(sharp.max()):.4f}; the best "
        f"action moves from {number(peaks[0], 2)} to {number(peaks[1], 2)}"
    )
    claim = "Section 5.3: the target is the value’s mean over actions nearby, so a narrow peak is not worth having"
    right = mean.z < 4 and peaks[0] > 0.4 and peaks[1] < 0
    return (
        claim,
        "similar actions, similar values",
        text,
        right,
        {"mean": mean.mean, "error": mean.error, "exact": exact, "peaks": peaks},
    )


def less_variance() -> Claim:
    """Errors of a critic that are a Gaussian process of the action, with correlation exp(−(a − a′)²/2ℓ²)."""
    noise, p = clipped_normal(801)
    apart = (noise[:, None] - noise[None, :]).square()
    ratios = {f"{length:g}": float(p @ (-apart / (2 * length**2)).exp() @ p) for length in (0.05, 0.2, 1.0, 5.0)}
    unclipped = {length: (1 + 2 * (SMOOTHING / float(length)) ** 2) ** -0.5 for length in ratios}
    text = ", ".join(f"{value:.3f} (ℓ = {length}; {unclipped[length]:.3f} unclipped)" for length, value in ratios.items())
    claim = (
        "Section 5.3: smoothing reduces the variance of the target: what is left of it, by how far the critic’s errors reach"
    )
    right = all(a < b < 1 for a, b in itertools.pairwise(ratios.values()))
    return claim, "less", text, right, {"ratios": ratios, "unclipped": unclipped}
