"""The actor's gradient by several estimators of one graph, `scg.agents.sac`, and the density that all of them rest on.

    J(θ) = E_s E_{a ~ π(·|s)} [α log π(a|s) − min Q(s, a)]

    pathwise            E[∇_θ α log π(a|s) + (∇_a α log π(a|s) − ∇_a Q(s, a)) ∇_θ f(ε; s)],   a = f(ε; s) = tanh u    eq. 13
    likelihood ratio    E[(α log π(a|s) − Q(s, a) − b) ∇_θ log π(a|s)]

    log π(a|s) = log N(u; loc, scale²) − log(1 − tanh² u)                                                       appendix C

On one state with known critics the gradient is an integral, which Gauss–Legendre nodes give to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

import scg
from scg.agents.common.agent import Agent
from scg.agents.environments import envs
from scg.agents.experience.rollout import Rollout
from scg.agents.networks.critics import Temperature
from scg.agents.networks.squashed_normal import SquashedNormal, log_slope
from scg.agents.sac import SAC, sac
from scg.comparison.result import Comparison
from scg.estimators import LeaveOneOut, Pathwise, ScoreFunction

ALPHA = 0.25
PATHWISE, PATHWISE_8, SCORE, OTHERS_8 = "pathwise", "pathwise, 8 actions", "likelihood ratio", "leave-one-out, 8 actions"
ESTIMATORS: dict[str, Any] = {
    PATHWISE: Pathwise(smooth=True),
    PATHWISE_8: Pathwise(samples=8, smooth=True),
    SCORE: ScoreFunction(),
    OTHERS_8: LeaveOneOut(samples=8),
}


def compared(graph: scg.Graph, given: Mapping[str, Tensor], policy: nn.Module, draws: int, reference: Any = None) -> Comparison:
    """Every estimator at the node `new_action`, and nothing else changed."""
    choices = {"new_action": list(ESTIMATORS.values())}
    return scg.compare(graph, dict(given), choices, wrt={"policy": policy}, draws=draws, reference=reference)


def variances(comparison: Comparison) -> dict[str, float]:
    """Of the gradient, summed over parameters."""
    return {name: row.variance.value for name, row in by_name(comparison).items()}


def by_name(comparison: Comparison) -> dict[str, Any]:
    known = {str(estimator): name for name, estimator in ESTIMATORS.items()}
    return {known[str(row.estimators["new_action"])]: row for row in comparison.rows}


# -- one state, a known critic ---------------------------------------------------------------------------------------


class OnePolicy(nn.Module):
    """The same squashed Gaussian in every state, and the same in every dimension."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.full((dim,), 0.5, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.full((dim,), -1.0, dtype=torch.float64))

    def forward(self, obs: Tensor) -> SquashedNormal:
        shape = (*obs.shape[:-1], len(self.loc))
        return SquashedNormal(self.loc.expand(shape), self.log_scale.expand(shape))


class QuadraticCritic(nn.Module):
    """One critic, a sum over dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = nn.Parameter(torch.tensor(-0.2, dtype=torch.float64))

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        return -2 * (action - self.peak).square().sum(-1, keepdim=True)


def one_state(dim: int, rows: int) -> dict[str, Tensor]:
    """A minibatch of `rows` draws in the one state."""
    flat = torch.zeros(rows, dtype=torch.float64)
    obs, action = torch.zeros(rows, 1, dtype=torch.float64), torch.zeros(rows, dim, dtype=torch.float64)
    return {"obs": obs, "action": action, "reward": flat, "discount": flat, "next_obs": obs}


def known_case(dim: int) -> tuple[scg.Graph, OnePolicy, QuadraticCritic]:
    policy, critic = OnePolicy(dim), QuadraticCritic()
    return sac(policy, critic, critic, Temperature(ALPHA)), policy, critic


def exact_gradient(policy: OnePolicy, critic: QuadraticCritic) -> dict[str, Tensor]:
    """∇ ∫ π (α log π − Q) da through the density alone: of one dimension, and so of each."""
    one = OnePolicy(1)
    action, weight = legendre(600)
    log_prob = one(action).log_prob(action)
    objective = (weight * log_prob.exp() * (ALPHA * log_prob - critic(action, action).squeeze(-1))).sum()
    found = torch.autograd.grad(objective, list(one.parameters()))
    return {
        f"policy.{name}": gradient.expand(parameter.shape)
        for (name, parameter), gradient in zip(policy.named_parameters(), found, strict=True)
    }


def legendre(nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes `[n, 1]` and weights `[n]` on (−1, 1)."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    return torch.from_numpy(x).unsqueeze(-1), torch.from_numpy(w)


# -- an agent under way ----------------------------------------------------------------------------------------------


def practised(env_id: str, steps: int, seed: int = 0, hidden: tuple[int, ...] = (64, 64)) -> tuple[Agent, dict[str, Tensor]]:
    """SAC after `steps` of learning, with small nets, and a minibatch from its buffer."""
    config = SAC(warmup=500, lr=1e-3, batch=128, hidden=hidden)
    with envs.make(env_id, 1) as vector:
        agent = config.build(vector.obs_space, vector.action_space, Generator().manual_seed(seed))
        rollout = Rollout(vector, envs.seeds(seed, "environments", 1), Generator().manual_seed(seed))
        done = 0
        while done < steps:
            block = agent.collect(rollout, steps - done)
            agent.update(block, done / steps)
            done += block.steps
    assert agent.memory is not None
    return agent, agent.memory.sample(128, Generator().manual_seed(seed)).rows


# -- the density -----------------------------------------------------------------------------------------------------

USUAL = 1e-6  # what many programs add below the logarithm


def slope_errors(furthest: float = 40.0) -> dict[str, float]:
    """Largest errors of log(1 − tanh² u) in float32, for |u| up to `furthest`: ours, and the usual form's."""
    u = torch.linspace(-furthest, furthest, 8001, dtype=torch.float32)
    far = u.double().abs()
    exact = 2 * (math.log(2.0) - far - torch.log1p(torch.exp(-2 * far)))
    usual = torch.log(1 - u.tanh().square() + USUAL)
    scale = exact.abs().clamp_min(1.0)
    return {
        "ours, relative": float(((log_slope(u).double() - exact) / scale).abs().max()),
        "usual, nats": float((usual.double() - exact).abs().max()),
        "usual, nats, |u| ≤ 5": float((usual.double() - exact).abs()[far <= 5].max()),
    }


def mass_gaps() -> tuple[float, float]:
    """How far the density's integral lies from 1, and its logarithm from torch's transformed distribution, at most."""
    action, weight = legendre(2000)
    masses, gaps = [], []
    for loc in (-0.7, 0.0, 1.2):
        for log_scale in (-2.0, -1.0, -0.4):
            one = torch.full_like(action, loc), torch.full_like(action, log_scale)
            ours = SquashedNormal(*one).log_prob(action)
            masses.append(float((weight * ours.exp()).sum()) - 1)
            inside = action.abs() < 0.99
            normal = Normal(one[0][inside], one[1][inside].exp())
            torchs = TransformedDistribution(normal, [TanhTransform()]).log_prob(action[inside])
            gaps.append(float((ours.unsqueeze(-1)[inside] - torchs).abs().max()))
    return max(abs(m) for m in masses), max(gaps)
