"""Gradient critics are graphs: a critic that is the action's cost, and a pathwise (or deterministic) action.

A linear system with quadratic costs over three steps, x' = x + a + ξ, its critic exact; Gauss–Hermite quadrature over
all noise is exact for polynomials, so means of gradients are compared to rounding.
"""

import itertools

import numpy as np
import pytest
import torch
from torch.distributions import Normal

import scg
from scg.estimators import Pathwise, ScoreFunction
from scg.estimators.credit import QCritic

STEPS, SIGMA, NOISE = 2, 0.4, 0.5
GAIN = torch.tensor([-0.6, 0.2], dtype=torch.float64)  # a ~ N(k x + l, σ)
POINTS, WEIGHTS = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(4))
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def step_cost(x, a):
    return x**2 + 0.5 * a**2 + 0.3 * a * x


def value(x, k, t):
    """V of `k`'s policy, x at step t: its noise integrated one step at a time."""
    if t == STEPS:
        return x**2
    total = 0.0
    for e, w in zip(POINTS, WEIGHTS, strict=True):
        total = total + w * action_value(x, k[0] * x + k[1] + SIGMA * e, k, t)
    return total


def action_value(x, a, k, t):
    following = sum(w * value(x + a + NOISE * e, k, t + 1) for e, w in zip(POINTS, WEIGHTS, strict=True))
    return step_cost(x, a) + following


def paths(k):
    """States and noises of every path of the quadrature, one batch: `x [time, N]`, `ε [time, N]`, and weights."""
    rows = list(itertools.product(range(4), repeat=2 * STEPS - 1))
    eps = POINTS[torch.tensor(rows)].T  # action and process noise, in turns
    p = WEIGHTS[torch.tensor(rows)].prod(1)
    x, xs = torch.full((len(rows),), 0.7), []
    for t in range(STEPS):
        xs.append(x)
        if t < STEPS - 1:
            x = x + (k[0] * x + k[1] + SIGMA * eps[2 * t]) + NOISE * eps[2 * t + 1]
    return torch.stack(xs), eps[::2], p


def exact():
    k = GAIN.clone().requires_grad_()
    return torch.autograd.grad(value(torch.tensor(0.7), k, 0), k)[0]


def q(t, x, a, wrong=0.0):
    both = (
        torch.stack([action_value(x[i], a[i], GAIN, int(i)) for i in range(STEPS)])
        if x.ndim == 2
        else action_value(x, a, GAIN, int(t))
    )
    return both + wrong * a


def graph_of(kind, wrong=0.0):
    graph = scg.Graph()
    with graph.sequence():
        graph.observed("t")
        graph.observed("x")
        if kind == "score":
            graph.stochastic(
                ScoreFunction(), lambda x, k: Normal(k[..., 0] * x + k[..., 1], SIGMA), name="a", credit=QCritic("q")
            )
            graph.deterministic(lambda t, x, a: q(t, x, a, wrong), name="q")
            graph.observed("reward", parents=["x", "a"])
            graph.reward(lambda reward: reward, name="gain")
        else:
            graph.stochastic(Pathwise(), lambda x, k: Normal(k[..., 0] * x + k[..., 1], SIGMA), name="a")
            graph.cost(lambda t, x, a: q(t, x, a, wrong), name="expected_cost")
    return graph


def gradients(kind, wrong=0.0):
    """Mean and variance over all paths; the action is recorded, its noise inferred: SVG(1)."""
    x, eps, p = paths(GAIN)
    k = GAIN.expand(p.numel(), 2).clone().requires_grad_()
    given = {"t": torch.arange(STEPS), "x": x, "a": GAIN[0] * x + GAIN[1] + SIGMA * eps}
    if kind == "score":
        given["reward"] = torch.zeros_like(x)  # nothing that was seen is used: the critic is all the credit
    each = torch.autograd.grad(graph_of(kind, wrong).replay(given, k=k).surrogate() * p.numel(), k)[0]
    mean = p @ each
    return mean, float(p @ ((each - mean) ** 2).sum(1))


@pytest.mark.parametrize("kind", ["score", "pathwise"])
def test_an_exact_critic_has_the_exact_gradient_either_way(kind):
    mean, _ = gradients(kind)
    assert torch.allclose(mean, exact(), rtol=0, atol=1e-10)


def test_the_gradient_critic_is_the_quieter():
    assert gradients("pathwise")[1] < 0.2 * gradients("score")[1]


@pytest.mark.parametrize("kind", ["score", "pathwise"])
def test_a_critic_with_a_wrong_slope_is_caught(kind):
    """Both estimators lean on it alike: the same bias."""
    mean, _ = gradients(kind, wrong=0.5)
    assert (mean - exact()).abs().max() > 0.1
    assert torch.allclose(mean, gradients("pathwise", wrong=0.5)[0], atol=1e-10)


def test_a_deterministic_action_is_dpg():
    """∇_θ μ(x) ∇_a Q(x, a): the limit σ → 0 of both, with a critic of the noiseless policy's own."""
    k = GAIN.clone().requires_grad_()
    graph = scg.Graph()
    graph.deterministic(lambda x, k: k[0] * x + k[1], name="a")
    graph.cost(lambda x, a: step_cost(x, a), name="expected_cost", trains=["k"])
    x = torch.randn(5)
    ours = torch.autograd.grad(graph.surrogate(x=x, k=k), k)[0]
    a = GAIN[0] * x + GAIN[1]
    slope = a + 0.3 * x
    assert torch.allclose(ours, torch.stack([(slope * x).mean(), slope.mean()]))


def test_the_gradient_goes_through_the_critic_and_leaves_nothing_in_it():
    policy, critic = torch.nn.Linear(2, 1), torch.nn.Linear(3, 1)
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda obs: Normal(policy(obs).squeeze(-1), 0.3), name="action")
    graph.cost(
        lambda obs, action: critic(torch.cat([obs, action.unsqueeze(-1)], -1)).squeeze(-1), name="expected_cost", trains=policy
    )
    graph.surrogate(obs=torch.randn(4, 2)).backward()
    assert all(p.grad is None or not p.grad.any() for p in critic.parameters())
    assert all(p.grad.any() for p in policy.parameters())
