"""Agents that learn from what another policy did, on a linear-quadratic regulator: PPO's clip, importance weights.

Ratios are exponentials of the noise: 16 Gauss–Hermite nodes for each action integrate their products to 1e-12. Clipped and
truncated ones have kinks, so there the grid of actions has edges at them, and what is expected at each state is an integral
of a truncated normal distribution in closed form.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scg.agents.a2c import a2c
from scg.agents.common.on_policy import advantages
from scg.agents.off_policy_gradient import OffPolicyGradient
from scg.agents.ppo import ppo
from scg.estimators import Clipped
from scg.estimators.credit import GAE
from scg.testing.lqr import LQR, Critic, Noise, Policy, close, expected_gradient, hermite

pytestmark = pytest.mark.usefixtures("double")


def scalar_case(same_scale: bool = False, difference: float = 0.25) -> tuple[LQR, Policy, Policy]:
    """One state, one action, two steps; the policy that learns and the one that acted."""
    a, b, q, r, noise, start, spread = torch.tensor([0.9, 0.8, 1.0, 0.3, 0.4, -1.2, 0.3]).unbind()
    lqr = LQR(*(x.view(1, 1) for x in (a, b, q, r)), *(x.view(1) for x in (noise, start, spread)), horizon=2)
    policy = Policy(torch.tensor([[0.3]]), torch.tensor([-0.4]))
    acted = Policy(torch.tensor([[0.3 - difference]]), torch.tensor([-0.4 if same_scale else -0.3]))
    return lqr, policy, acted


# -- PPO -------------------------------------------------------------------------------------------------------


def test_ppo_at_ratio_one_has_the_policy_gradient() -> None:
    lqr, policy = LQR.random(1), Policy.random(11)
    noise = Noise.grid(lqr)
    value, copies = Critic(lqr.values(policy)), policy.copies(len(noise.weight))
    given = lqr.recorded(policy, noise, value)
    found = expected_gradient(ppo(copies, value, GAE(discount=lqr.gamma, lam=0.6)), given, copies, noise.weight)
    assert close(found, lqr.gradient(policy))


def test_the_penalty_of_ppo_and_of_trpo_by_dual_ascent_has_the_exact_gradient_of_the_divergence() -> None:
    """Row by row, as minibatches are: at the states of the policy before. Two nodes have equal weights, so rows do too."""
    lqr, policy, before, beta = LQR.random(1), Policy.random(11), Policy.random(4), 0.7
    value = Critic.wrong(lqr)
    graph = ppo(policy, value, GAE(), penalty=(before, torch.tensor(beta)))
    rows = advantages(graph, value, lqr.recorded(before, Noise.grid(lqr, action=hermite(2)), value))
    graph.replay(rows).surrogate("nearness", reduce="mean").backward()
    exact = torch.autograd.grad(lqr.divergence(policy, before) / lqr.horizon, [policy.gain, policy.log_scale])
    assert close(policy.gradients(), beta * torch.cat([g.flatten() for g in exact]))


class Optimistic(Clipped):
    """The twin with the sign wrong: the minimum, as in reward units, on costs."""

    def combine(self, weight: Tensor, credit: Tensor) -> Tensor:
        return torch.minimum(weight * credit, weight.clamp(1 - self.clip, 1 + self.clip) * credit)


def test_ppo_away_from_ratio_one_has_the_clipped_gradient_and_no_other() -> None:
    """∫ π(a|s) δ(a) ∇log π(a|s) da over the actions where the clip lets go, for states s and noises w of the next state.

    With λ = 0 the advantage is δ = c + γ V(s') − V(s), which is worse than expected (> 0) between or beyond its two roots:
    there the gradient lives where π/μ ≥ 1 − ε, elsewhere where π/μ ≤ 1 + ε.
    """
    lqr, policy, acted = scalar_case(same_scale=True, difference=0.5)
    value, clip, kinds = Critic(lqr.values(acted)), 0.2, set()
    documented, found, twin = [], [], []
    for s, w in np.stack(np.meshgrid(np.linspace(-2, 2, 9), [-1.0, 0.2, 1.5]), -1).reshape(-1, 2):
        loc, old, scale = policy.gain.item() * s, acted.gain.item() * s, policy.scale.item()
        error = error_by_action(lqr, value, s, w)
        edges = {root.real for root in np.roots(error.coef[::-1]) if abs(root.imag) < 1e-12}
        for level in (1 - clip, 1 + clip) if s else ():
            edges.add((loc + old) / 2 + scale**2 * math.log(level) / (loc - old))
        pieces = list(pairwise([min(loc, old) - 9 * scale, *sorted(edges), max(loc, old) + 9 * scale]))
        expected = torch.zeros(2)
        for low, high in pieces:
            middle = (low + high) / 2
            ratio = math.exp(((middle - old) ** 2 - (middle - loc) ** 2) / (2 * scale**2))
            worse = error(middle) > 0
            kinds.add((bool(worse), ratio < 1 - clip, ratio > 1 + clip))
            if ratio >= 1 - clip if worse else ratio <= 1 + clip:
                expected += score_integral(error, s, loc, scale, low, high)
        documented.append(expected)
        action, mass = panels(pieces)
        given, weight = one_step(lqr, acted, value, s, w, action, mass)
        copies = policy.copies(len(weight))
        graph = ppo(copies, value, GAE(discount=lqr.gamma, lam=0.0), clip)
        found.append(expected_gradient(graph, given, copies, weight))
        twin.append(expected_gradient(graph.with_estimators(action=Optimistic(clip)), given, copies, weight))
    assert len(kinds) == 6  # better and worse, each below, inside and above the clip's range
    assert close(torch.stack(found), torch.stack(documented))
    assert not close(torch.stack(twin), torch.stack(documented), to=0.05)


# -- the off-policy gradient -----------------------------------------------------------------------------------


def off_policy(weights: Any, lqr: LQR, policy: Policy, acted: Policy, noise: Noise, critic: Critic, lam: float = 1.0) -> Tensor:
    config = OffPolicyGradient(weights=weights, gamma=lqr.gamma, lam=lam)
    copies = policy.copies(len(noise.weight))
    graph = a2c(copies, critic, config.credit())
    return expected_gradient(graph, lqr.recorded(acted, noise, critic), copies, noise.weight)


def fine(lqr: LQR) -> Noise:
    return Noise.grid(lqr, action=hermite(16), state=hermite(12), last=hermite(1))


@pytest.mark.parametrize("same_scale", [True, False])
def test_per_decision_weights_have_the_exact_gradient_of_the_policy_that_did_not_act(same_scale: bool) -> None:
    lqr, policy, acted = scalar_case(same_scale)
    exact = lqr.gradient(policy)
    assert close(off_policy("per-decision", lqr, policy, acted, fine(lqr), Critic.wrong(lqr)), exact)
    assert not close(off_policy("first-order", lqr, policy, acted, fine(lqr), Critic.wrong(lqr)), exact, to=0.02)


@pytest.mark.parametrize("lam", [1.0, 0.6])
def test_the_first_order_form_sees_the_states_and_returns_of_the_policy_that_acted(lam: float) -> None:
    """Σ_t E_{s_t ∼ μ}[∇_θ E_{a ∼ π} Q^μ_t(s_t, a)], in closed form."""
    lqr, policy, acted = scalar_case()
    found = off_policy("first-order", lqr, policy, acted, fine(lqr), Critic(lqr.values(acted)), lam)
    assert close(found, lqr.policy_gradient(policy, lqr.q_values(acted), acting=acted))
    assert not close(found, lqr.gradient(policy), to=0.02)


def test_v_trace_has_the_states_of_the_one_and_returns_between_both() -> None:
    """After the first step follows E_μ[V + min(1, π/μ) (c − V)] = V + ∫ min(μ, π) (c − V) da, at each second state.

    The last step has no later ratio: there it is the exact ∇_θ E_{a ∼ π} c, at the states of μ.
    """
    lqr, policy, acted = scalar_case(same_scale=True)
    value, scale = Critic.wrong(lqr), policy.scale.item()
    first, second = value.quadratics()[:2]
    outer = Noise.grid(lqr, action=hermite(9), state=hermite(4), last=hermite(1))
    pick = outer.action[1, :, 0] == outer.action[1, 0, 0]  # one last action of each: the panels take its place
    start, action, state = outer.start[pick], outer.action[0, pick], outer.state[0, pick]
    mass = outer.weight[pick] / outer.weight[pick].sum()
    given = lqr.recorded(acted, Noise(start, outer.action[:, pick], outer.state[:, pick], mass), value)
    s_0, s_1, a_0 = given["obs"][0, :, 0], given["obs"][1, :, 0], given["action"][0, :, 0]

    documented, inner, weights = torch.zeros(2), [], []
    for i, s in enumerate(s_1.tolist()):
        loc, old = policy.gain.item() * s, acted.gain.item() * s
        middle, far = (loc + old) / 2, max(abs(loc), abs(old)) + 9 * scale
        here = second(s_1[i : i + 1]).item()
        excess = np.polynomial.Polynomial([lqr.q.item() * s**2 - here, 0.0, lqr.r.item()])
        lower, upper = (old, loc) if loc < old else (loc, old)  # which of the two is the smaller density on either side
        follows = here + integral(excess, lower, scale, -far, middle) + integral(excess, upper, scale, middle, far)
        ratio = torch.exp(policy(given["obs"][0, i]).log_prob(given["action"][0, i]) - given["action.log_prob"][0, i])
        credit = -given["reward"][0, i] + lqr.gamma * follows - first(s_0[i : i + 1])
        z = (a_0[i] - policy.gain.item() * s_0[i]) / scale
        score = torch.stack([z / scale * s_0[i], z.square() - 1])
        q = lqr.q_values(policy)[1].m
        last = torch.stack([2 * q[1, 1] * policy.gain[0, 0] * s**2, 2 * q[1, 1] * scale**2])
        documented += mass[i] * (ratio * credit * score + last).detach()
        a, share = panels([(-far, middle), (middle, far)])
        inner.append((a - old) / scale)
        weights.append(mass[i] * share * torch.exp(-((a - old) ** 2) / (2 * scale**2)) / (scale * math.sqrt(2 * math.pi)))
    count = len(inner[0])
    last_action = torch.cat(inner)[:, None]
    many = Noise(
        start.repeat_interleave(count, 0),
        torch.stack([action.repeat_interleave(count, 0), last_action]),
        torch.stack([state.repeat_interleave(count, 0), torch.zeros_like(last_action)]),
        torch.cat(weights),
    )
    assert many.weight.sum().item() == pytest.approx(1.0, abs=1e-12)
    found = off_policy("v-trace", lqr, policy, acted, many, value)
    assert close(found, documented)
    assert not close(off_policy("first-order", lqr, policy, acted, many, value), documented, to=0.02)


@pytest.mark.parametrize("weights", ["per-decision", "first-order", "v-trace"])
def test_where_the_policy_acted_itself_all_three_are_exact(weights: Any) -> None:
    lqr, policy = LQR.random(2), Policy.random(12)
    found = off_policy(weights, lqr, policy, policy, Noise.grid(lqr), Critic(lqr.values(policy)))
    assert close(found, lqr.gradient(policy))


# -- integrals over actions ------------------------------------------------------------------------------------


def panels(pieces: list[tuple[float, float]], nodes: int = 40) -> tuple[Tensor, Tensor]:
    """Gauss–Legendre on every piece: nodes, and the length that each stands for."""
    x, w = (torch.from_numpy(found) for found in np.polynomial.legendre.leggauss(nodes))
    return (
        torch.cat([(low + high) / 2 + (high - low) / 2 * x for low, high in pieces]),
        torch.cat([(high - low) / 2 * w for low, high in pieces]),
    )


def one_step(
    lqr: LQR, acted: Policy, value: Critic, s: float, w: float, action: Tensor, mass: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """A block of one step from state `s`: a path for each action, weighed with the density that it was drawn from."""
    count = len(action)
    noise = Noise(
        ((s - lqr.start) / lqr.spread).expand(count, 1),
        ((action - acted.gain.item() * s) / acted.scale.item())[None, :, None].expand(2, count, 1),
        torch.full((2, count, 1), w),
        mass,
    )
    given = lqr.recorded(acted, noise, value, steps=1)
    return given, mass * given["action.log_prob"][0].exp()


def error_by_action(lqr: LQR, value: Critic, s: float, w: float) -> np.polynomial.Polynomial:
    """δ = c + γ V_1(s') − V_0(s) as a polynomial in a."""
    here, following = value.quadratics()[:2]
    next_state = np.polynomial.Polynomial([lqr.a.item() * s + lqr.noise.item() * w, lqr.b.item()])
    cost = np.polynomial.Polynomial([lqr.q.item() * s**2, 0.0, lqr.r.item()])
    later = following.m.item() * next_state**2 + following.p.item()
    return cost + lqr.gamma * later - (here.m.item() * s**2 + here.p.item())


def truncated(loc: float, scale: float, low: float, high: float) -> list[float]:
    """∫ z^k N(z) dz for k ≤ 4 over the standardised piece: E[z^k; low < a < high], by parts."""
    x, y = (low - loc) / scale, (high - loc) / scale
    at_x, at_y = (math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) for z in (x, y))
    found = [(math.erf(y / math.sqrt(2)) - math.erf(x / math.sqrt(2))) / 2, at_x - at_y]
    for k in range(2, 5):
        found.append((k - 1) * found[k - 2] + x ** (k - 1) * at_x - y ** (k - 1) * at_y)
    return found


def standardised(f: np.polynomial.Polynomial, loc: float, scale: float) -> list[float]:
    """The coefficients of `f(loc + scale · z)`."""
    return list(f(np.polynomial.Polynomial([loc, scale])).coef)


def integral(f: np.polynomial.Polynomial, loc: float, scale: float, low: float, high: float) -> float:
    """∫ N(a; loc, scale²) f(a) da over the piece."""
    return sum(c * m for c, m in zip(standardised(f, loc, scale), truncated(loc, scale, low, high), strict=False))


def score_integral(f: np.polynomial.Polynomial, s: float, loc: float, scale: float, low: float, high: float) -> Tensor:
    """∫ π f ∇log π over the piece: ∇log π is z s/σ for K and z² − 1 for log σ."""
    m, c = truncated(loc, scale, low, high), standardised(f, loc, scale)
    gain = sum(ck * m[k + 1] for k, ck in enumerate(c)) * s / scale
    return torch.tensor([gain, sum(ck * (m[k + 2] - m[k]) for k, ck in enumerate(c))])
