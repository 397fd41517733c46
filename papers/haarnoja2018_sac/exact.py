"""What the paper proves, and what its actor and density rest on, held against exact numbers."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Generator, Tensor

from scg.papers.haarnoja2018_sac import actor
from scg.papers.haarnoja2018_sac.soft import (
    Backup,
    entropy,
    excess,
    greedy,
    optimal_action_value,
    policy_iteration,
    random_policy,
    soft_action_value,
)
from scg.papers.report import Claim
from scg.testing.tabular import Process

RIGHT = 1e-9


@dataclass(frozen=True)
class Case:
    """A process, a temperature, and a policy to start from."""

    process: Process
    alpha: float
    pi: Tensor
    generator: Generator


def cases(count: int) -> list[Case]:
    """2 to 5 states, 2 to 4 actions, discounts ½ and 0.9, temperatures from 0.05 to 2."""
    found = []
    for seed in range(count):
        process = Process.random(seed, 2 + seed % 4, 2 + seed % 3, gamma=(0.5, 0.9)[seed % 2])
        generator = Generator().manual_seed(seed)
        alpha = 0.05 * 40 ** float(torch.rand((), generator=generator, dtype=torch.float64))
        found.append(Case(process, alpha, random_policy(process, generator), generator))
    return found


def evaluation(count: int) -> Claim:
    """Lemma 1, the backup being the agent's target."""
    gaps, shrinks, without = [], [], []
    for case in cases(count):
        process, true = case.process, soft_action_value(case.process, case.pi, case.alpha)
        backup, q = Backup(process, case.pi, case.alpha), torch.zeros_like(true)
        size = float(true.abs().max())
        gap = 1.0
        for _ in range(60 if process.gamma < 0.9 else 300):
            q = backup(q)
            before, gap = gap, float((q - true).abs().max()) / size
            if gap > 1e-6:  # below, rounding shows
                shrinks.append(gap / before / process.gamma)
        gaps.append(gap)
        without.append(float((process.action_value(case.pi) - true).abs().max()) / size)
    text = (
        f"largest gap to the linear solve after as many backups as bring γ^k to 10⁻¹³: {max(gaps):.0e} of the largest value "
        f"({count} processes); a backup leaves at most {max(shrinks):.4f} γ of it; without the entropy the values lie "
        f"{statistics.median(without):.2f} away (median)"
    )
    claim = "Lemma 1, equations 2 and 3: repeated soft backups (the target of `scg.agents.sac_discrete`) converge to the soft Q of π"
    right = max(gaps) < RIGHT and max(shrinks) < 1 + RIGHT and min(without) > RIGHT
    return claim, "converges", text, right, {"gap": max(gaps), "shrinks": max(shrinks), "without entropy": without}


def improvement(count: int) -> Claim:
    """Lemma 2: every policy allowed, some allowed in each state, and one for all states, which the proof does not cover."""
    least: dict[str, list[float]] = {"all policies": [], "20 in each state": [], "20, the same in all states": []}
    for case in cases(count):
        process, alpha, pi = case.process, case.alpha, case.pi
        q = soft_action_value(process, pi, alpha)
        allowed = torch.randn(20, process.states, process.actions, generator=case.generator, dtype=torch.float64).softmax(-1)
        tied = allowed[:, :1].expand_as(allowed)
        starts = {"all policies": pi, "20 in each state": allowed[0], "20, the same in all states": tied[0]}
        for name, start in starts.items():
            before = soft_action_value(process, start, alpha)
            match name:
                case "all policies":
                    new = greedy(q, alpha)
                case "20 in each state":
                    new = projected(allowed, before, alpha)
                case _:
                    costs = torch.stack([excess(one, before, alpha).sum() for one in tied])
                    new = tied[costs.argmin()]
            least[name].append(float((soft_action_value(process, new, alpha) - before).min()))
    falls = {name: sum(gain < -RIGHT for gain in gains) for name, gains in least.items()}
    deepest = -min(least["20, the same in all states"])
    text = "; ".join(f"{name}: least gain of any Q(s, a) {min(gains):.0e}, median {statistics.median(gains):.2g}"
                     for name, gains in list(least.items())[:2])  # fmt: skip
    text += (
        f" ({count} processes)<br>one distribution for all states, the least sum of divergences: some Q falls in "
        f"{falls['20, the same in all states']} of {count}, by up to {deepest:.2g}: the proof needs the least in every state"
    )
    claim = "Lemma 2, equation 4: the policy nearest to exp(Q/α) has no smaller soft Q anywhere; also within a set of policies"
    right = falls["all policies"] == falls["20 in each state"] == 0 and statistics.median(least["all policies"]) > RIGHT
    return claim, "Q_new ≥ Q_old", text, right, {"falls": falls, "least": {k: min(v) for k, v in least.items()}}


def projected(allowed: Tensor, q: Tensor, alpha: float) -> Tensor:
    """In each state the one of `allowed [n, state, action]` that is nearest to exp(Q/α)."""
    best = torch.stack([excess(one, q, alpha) for one in allowed]).argmin(0)
    return allowed[best, torch.arange(allowed.shape[1])]


def iteration(count: int) -> Claim:
    """Theorem 1."""
    gaps, shapes, rounds, others = [], [], [], []
    for case in cases(count):
        process, alpha = case.process, case.alpha
        best = optimal_action_value(process, alpha)
        pi, moved = policy_iteration(process, alpha, case.pi)
        q = soft_action_value(process, pi, alpha)
        gaps.append(float((q - best).abs().max() / best.abs().max()))
        shapes.append(float((pi - greedy(best, alpha)).abs().max()))
        rounds.append(len(moved))
        rivals = [soft_action_value(process, random_policy(process, case.generator), alpha) for _ in range(20)]
        others.append(min(float((best - rival).min()) for rival in rivals))
    text = (
        f"largest gap to the soft Bellman equation's solution {max(gaps):.0e} of the largest value, of π to exp(Q*/α)/Z "
        f"{max(shapes):.0e}; {min(rounds)} to {max(rounds)} iterations; 20 random policies a process: none has a larger Q "
        f"anywhere (least margin {min(others):.2g}; {count} processes)"
    )
    claim = "Theorem 1: soft policy iteration converges to π* with Q* ≥ Q_π everywhere, π* ∝ exp(Q*/α)"
    right = max(gaps) < RIGHT and max(shapes) < 1e-6 and min(others) > -RIGHT
    return claim, "converges", text, right, {"gap": max(gaps), "shape": max(shapes), "iterations": rounds}


def temperature(count: int) -> Claim:
    """Rewards times c are a temperature of 1/c; the limits of a cold and of a hot one."""
    scales = [10.0**k for k in range(-3, 5)]
    equal, returns, entropies = [], list[list[float]](), list[list[float]]()
    for case in cases(count):
        process = case.process
        top = float(process.start @ ordinary_optimum(process))
        floor = float(process.objective(torch.full_like(case.pi, 1 / process.actions)))
        row, spread = [], []
        for scale in scales:
            scaled = Process(process.transition, scale * process.reward, process.start, process.gamma)
            pi = greedy(optimal_action_value(process, 1 / scale), 1 / scale)
            equal.append(float((pi - greedy(optimal_action_value(scaled, 1.0), 1.0)).abs().max()))
            row.append((float(process.objective(pi)) - floor) / (top - floor))
            spread.append(float(entropy(pi).mean()) / float(torch.tensor(float(process.actions)).log()))
        returns.append(row)
        entropies.append(spread)
    mean = [statistics.fmean(column) for column in zip(*returns, strict=True)]
    share = [statistics.fmean(column) for column in zip(*entropies, strict=True)]
    rises = all(b >= a - RIGHT for row in returns for a, b in pairwise(row))
    text = (
        f"largest gap between the two optimal policies {max(equal):.0e}; as shares of what lies between the uniform policy and the "
        "best one, return / entropy: "
        + ", ".join(f"× {scale:g}: {r:.3f} / {h:.3f}" for scale, r, h in zip(scales, mean, share, strict=True))
        + f"; {'the return rises with the scale in every process' if rises else 'the return does not rise everywhere'}"
    )
    claim = "Section 3: α can be subsumed into the reward by scaling it with α⁻¹; as α → 0 the ordinary optimum is recovered"
    right = max(equal) < 1e-6 and rises and mean[-1] > 0.999 and share[0] > 0.999
    return claim, "equal; recovered", text, right, {"scales": scales, "return": mean, "entropy": share}


def ordinary_optimum(process: Process) -> Tensor:
    """V* of return alone, by policy iteration."""
    pi = torch.full_like(process.reward, 1 / process.actions)
    for _ in range(100):
        pi = torch.eye(process.actions, dtype=pi.dtype)[process.action_value(pi).argmax(-1)]
    return process.value(pi)


# -- actor and density -----------------------------------------------------------------------------------------------

DIMS = (1, 6, 17)


def same_gradient(draws: int) -> Claim:
    lines, numbers, verdicts, cheaper = [], dict[str, dict[str, float]](), list[str](), list[bool]()
    for dim in DIMS:
        graph, policy, critic = actor.known_case(dim)
        found = actor.compared(graph, actor.one_state(dim, 16), policy, draws, actor.exact_gradient(policy, critic))
        rows, numbers[f"{dim} dimensions"] = actor.by_name(found), actor.variances(found)
        verdicts += [row.verdict for row in rows.values()]
        lines.append(f"{dim} action dimension{'s' if dim > 1 else ''}: {ratios(numbers[f'{dim} dimensions'])}")
        cheaper += clearly_less(rows)
    agree = set(verdicts) == {"no bias found"}
    text = f"against the integral, {draws} gradients each, every entry of every estimator: " + (
        "no bias found" if agree else "biased"
    )
    text += "<br>variance, as multiples of the pathwise one:<br>" + "<br>".join(lines)
    claim = "Section 4.2, equation 13: the pathwise gradient is unbiased and has less variance than the likelihood ratio's (one state)"
    return claim, "lower variance", text, agree and all(cheaper), numbers


def under_way(env_id: str, steps: int, draws: int) -> Claim:
    agent, rows = actor.practised(env_id, steps)
    found = actor.compared(agent.graph, rows, agent.policy, draws)
    kinds = actor.by_name(found)
    agree = {row.verdict for row in kinds.values()} == {"no bias found"}
    text = (
        f"against {found.reference}: {'no bias found' if agree else 'biased'} in {draws} gradients each<br>variance, as multiples "
        f"of the pathwise one: {ratios(actor.variances(found))}"
    )
    claim = f"the same of an agent under way: {env_id}, {steps:,} steps, two hidden layers of 64, minibatches of 128"
    return claim, "lower variance", text, agree and all(clearly_less(kinds)), actor.variances(found)


def ratios(variances: dict[str, float]) -> str:
    base = variances[actor.PATHWISE]
    return ", ".join(f"{name} {variances[name] / base:.3g}" for name in actor.ESTIMATORS if name != actor.PATHWISE)


def clearly_less(rows: dict) -> list[bool]:
    """The pathwise interval below the likelihood ratio's, at one action and at eight."""
    pairs = ((actor.PATHWISE, actor.SCORE), (actor.PATHWISE_8, actor.OTHERS_8))
    return [rows[one].variance.high < rows[other].variance.low for one, other in pairs]


def density() -> Claim:
    errors = actor.slope_errors()
    mass, gap = actor.mass_gaps()
    text = (
        f"integral over the actions less 1: {mass:.0e}; gap to torch's transformed distribution for |a| < 0.99: {gap:.0e}; "
        f"log(1 − tanh² u) in float32, |u| ≤ 40: relative error {errors['ours, relative']:.0e}; written as log(1 − a² + 10⁻⁶), as "
        f"is usual, it is off by up to {errors['usual, nats']:.0f} nats, and by {errors['usual, nats, |u| ≤ 5']:.4f} for |u| ≤ 5"
    )
    claim = "Appendix C: log π(a|s) = log μ(u|s) − Σ log(1 − tanh² u) is the density of a = tanh u, for every u"
    right = mass < RIGHT and gap < RIGHT and errors["ours, relative"] < 1e-6
    return claim, "equation 21", text, right, {**errors, "mass": mass, "gap": gap}


JOBS: Sequence[tuple[str, Callable[[int], Claim]]] = (
    ("Lemma 1", evaluation),
    ("Lemma 2", improvement),
    ("Theorem 1", iteration),
    ("temperature", temperature),
)
