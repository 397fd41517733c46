"""Gradients through the dynamics of a regulator: likelihood ratio, pathwise, blends, SVG(k) and SVG(0), each the Riccati oracle's.

Expectations are sums over grids of noise, exact to rounding (`scg/testing/lqr.py`). Paths are replayed: at pathwise nodes the noise
is inferred from what was recorded.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import scg
from scg import ScoreFunction
from scg.agents.bptt import bptt
from scg.agents.dynamics.classic import LinearQuadratic
from scg.agents.shac import lambda_targets, shac
from scg.estimators import Mixed, Pathwise
from scg.testing.lqr import LQR, Noise, Policy, Quadratic, close
from scg.testing.per_path import gradients

pytestmark = pytest.mark.usefixtures("double")


def case(seed: int = 0) -> tuple[LQR, Policy, Noise]:
    lqr = LQR.random(seed, states=1, horizon=3)
    return lqr, Policy.random(seed + 10, 1, 1), Noise.grid(lqr)


def recorded(lqr: LQR, policy: Policy, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
    """Actions, next states, and the states before them, `[time, paths, 1]`."""
    with torch.no_grad():
        given = lqr.rollout(policy, noise)
    return given["action"], given["next_obs"][..., :1], given["obs"][..., :1]


def expected(graph: scg.Graph, copies: Policy, noise: Noise, given: dict[str, Tensor], *costs: str, **inputs: float) -> Tensor:
    copies.zero_grad()
    graph.replay(given, **inputs).surrogate(*costs).backward()
    return (noise.weight[:, None] * gradients(copies)).sum(0) * len(noise.weight)


def whole_path(lqr: LQR, policy: Policy, noise: Noise, estimator: scg.Estimator, model: LQR | None = None) -> Tensor:
    copies = policy.copies(len(noise.weight))
    action, state, before = recorded(lqr, policy, noise)
    graph = bptt(copies, LinearQuadratic(model or lqr), action=estimator)
    weight = lqr.gamma ** torch.arange(float(lqr.horizon))[:, None]
    return expected(graph, copies, noise, {"action": action, "state": state, "start": before[0], "weight": weight}, "gain")


@pytest.mark.parametrize("estimator", [ScoreFunction(), Pathwise(), Mixed(0.3)], ids=["LR", "pathwise", "mixed"])
@pytest.mark.parametrize("seed", range(2))
def test_the_gradient_of_the_whole_path_is_the_oracles(estimator: scg.Estimator, seed: int) -> None:
    lqr, policy, noise = case(seed)
    assert close(whole_path(lqr, policy, noise, estimator), lqr.gradient(policy, leading=True))


def windows(lqr: LQR, policy: Policy, noise: Noise, k: int, values: list[Quadratic], model: LQR | None = None) -> Tensor:
    """SVG(k) at every recorded step `t`: k steps of the model's derivatives, then V_{t+k}; γ^t counts the step."""
    action, state, before = recorded(lqr, policy, noise)
    total = torch.zeros(2)
    for t in range(lqr.horizon - k + 1):
        copies = policy.copies(len(noise.weight))
        value = Quadratic(values[t + k].m.detach(), torch.as_tensor(values[t + k].p).detach())
        graph = shac(copies, value, LinearQuadratic(model or lqr))  # type: ignore[arg-type]
        weight = lqr.gamma ** torch.arange(float(k))[:, None]
        given = {"action": action[t : t + k], "state": state[t : t + k], "start": before[t], "weight": weight}
        total += lqr.gamma**t * expected(graph, copies, noise, given, "gain", "tail", after=lqr.gamma**k)
    return total


def test_svg_1_with_the_right_value_is_the_oracles() -> None:
    lqr, policy, noise = case()
    assert close(windows(lqr, policy, noise, 1, lqr.values(policy)), lqr.gradient(policy, leading=True))


def test_svg_3_needs_no_value() -> None:
    lqr, policy, noise = case()
    nothing = [0.0 * v for v in lqr.values(policy)]
    assert close(windows(lqr, policy, noise, 3, nothing), lqr.gradient(policy, leading=True))


def test_svg_2_is_the_gradient_for_the_actions_of_two_steps() -> None:
    lqr, policy, noise = case(1)
    q = lqr.q_values(policy)
    found = windows(lqr, policy, noise, 2, lqr.values(policy))
    assert close(found, pairs(lqr, policy, q))


def pairs(lqr: LQR, policy: Policy, q: list[Quadratic]) -> Tensor:
    """Σ_t γ^t (g_t + γ g_{t+1}), g_t the policy gradient of Q_t at step t."""
    nothing = 0.0 * q[0]
    each = [lqr.policy_gradient(policy, [nothing] * t + [q[t]]) for t in range(lqr.horizon)]
    return sum((lqr.gamma**t * (each[t] + lqr.gamma * each[t + 1]) for t in range(lqr.horizon - 1)), torch.zeros(2))


def test_svg_0_and_dpg_with_the_right_action_values_are_the_oracles() -> None:
    lqr, policy, noise = case()
    q = [Quadratic(x.m.detach(), x.p.detach()) for x in lqr.q_values(policy)]
    action, _, before = recorded(lqr, policy, noise)
    total = torch.zeros(2)
    for t in range(lqr.horizon):
        copies = policy.copies(len(noise.weight))
        graph = scg.Graph()
        graph.stochastic(Pathwise(), copies, name="action", parents=["obs"])
        graph.cost(lambda obs, action, t=t: q[t](torch.cat([obs, action], -1)), name="cost", parents=["obs", "action"])
        total += lqr.gamma**t * expected(graph, copies, noise, {"action": action[t]}, "cost", obs=before[t])  # type: ignore[arg-type]
    assert close(total, lqr.gradient(policy, leading=True))


def test_a_wrong_model_a_wrong_value_and_a_cut_path_are_found() -> None:
    lqr, policy, noise = case()
    exact, wrong = lqr.gradient(policy, leading=True), replace(lqr, b=1.2 * lqr.b)
    assert not close(whole_path(lqr, policy, noise, Pathwise(), wrong), exact, to=0.01)
    assert close(whole_path(lqr, policy, noise, ScoreFunction(), wrong), exact)  # which asks no model
    assert not close(windows(lqr, policy, noise, 1, [1.2 * v for v in lqr.values(policy)]), exact, to=0.01)
    cut = [0.0 * v for v in lqr.values(policy)]  # truncated backpropagation: one step, and nothing after it
    assert not close(windows(lqr, policy, noise, 1, cut), exact, to=0.1)


def test_the_critics_targets_are_the_mixture_of_all_lookaheads() -> None:
    cost, after = torch.randn(4, 2), torch.randn(4, 2)
    gamma, lam = 0.9, 0.7
    found, y = lambda_targets(cost, after, gamma, lam), after[-1]
    for t in reversed(range(4)):
        y = cost[t] + gamma * (after[t] if t == 3 else (1 - lam) * after[t] + lam * y)
        torch.testing.assert_close(found[t], y)
