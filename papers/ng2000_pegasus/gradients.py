"""Finite differences under fresh and fixed randomness: what is exact on a small process, and what the helicopter's do.

    process    s₀ = 1,  s_{t+1} = θ s_t + ½ ε_t,  ε ~ N(0, 1);   U = −Σ_{t ≤ 3} s_t²

    fresh      g = (U(θ + h, ε) − U(θ − h, ε′)) / 2h        Var g = (Var U(θ + h) + Var U(θ − h)) / 4h²
    fixed      g = (U(θ + h, ε) − U(θ − h, ε)) / 2h         Var g → Var ∂U/∂θ as h → 0

Both have the mean (E U(θ + h) − E U(θ − h)) / 2h. U is a polynomial of degree 2 in each ε, so four nodes a step integrate it and
its square exactly.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from torch import Generator

from scg.agents.environments import envs
from scg.agents.experience.rollout import Rollout
from scg.agents.fd import FD
from scg.agents.search.controllers import HAND

HORIZON = 3


def utility(theta: np.ndarray | float, noise: np.ndarray) -> np.ndarray:
    """U `[n]` for noise `[n, HORIZON]`."""
    s = np.ones(len(noise))
    total = np.zeros(len(noise))
    for t in range(HORIZON):
        s = theta * s + 0.5 * noise[:, t]
        total -= s * s
    return total


def grid() -> tuple[np.ndarray, np.ndarray]:
    """Nodes `[n, HORIZON]` of the noise and their mass."""
    x, w = np.polynomial.hermite_e.hermegauss(4)
    w = w / w.sum()
    nodes = np.array(list(product(x, repeat=HORIZON)))
    return nodes, np.array(list(product(w, repeat=HORIZON))).prod(-1)


def exact(theta: float, h: float) -> dict[str, float]:
    """Mean, and variance under fresh and fixed noise."""
    nodes, mass = grid()
    plus, minus = utility(theta + h, nodes), utility(theta - h, nodes)

    def variance(value: np.ndarray) -> float:
        return float(mass @ np.square(value - mass @ value))

    return {
        "mean": float(mass @ (plus - minus)) / (2 * h),
        "fresh": (variance(plus) + variance(minus)) / (4 * h * h),
        "fixed": variance((plus - minus) / (2 * h)),
    }


def drawn(theta: float, h: float, draws: int, seed: int) -> dict[str, np.ndarray]:
    """Differences `[draws]` under fresh and fixed noise."""
    generator = np.random.default_rng(seed)
    one, other = generator.standard_normal((2, draws, HORIZON))
    plus = utility(theta + h, one)
    return {
        "fresh": (plus - utility(theta - h, other)) / (2 * h),
        "fixed": (plus - utility(theta - h, one)) / (2 * h),
    }


def helicopter(scenarios: str, h: float, count: int, seed: int, slots: int = 96) -> np.ndarray:
    """`count` gradients `[count, 12]` of the return at HAND, as the agent `fd` estimates them, two episodes a member. Winds are
    new for every member ("fresh"), or the same for all members of a gradient and new for the next ("common"): how a gradient
    under fixed winds depends on which winds were fixed."""
    config = FD(policy="hover", scale=h, episodes=2, scenarios=scenarios, lr=0.0)  # type: ignore[arg-type]
    found = []
    with envs.make("Helicopter-v0", slots) as vector:
        agent = config.build(vector.obs_space, vector.action_space, Generator().manual_seed(seed))
        rollout = Rollout(vector, list(range(slots)), Generator().manual_seed(seed))
        mean = agent.state["distribution"].mean  # type: ignore[attr-defined]
        for _ in range(count):
            agent.update(agent.collect(rollout, 1), 0.0)
            found.append(-mean.grad.numpy())
            assert torch.equal(mean.detach(), torch.tensor(HAND, dtype=torch.float64))
    return np.stack(found)


def total_variance(gradients: np.ndarray) -> float:
    """The sum of the variances of its entries, of `[count, d]`."""
    return float(gradients.var(0, ddof=1).sum())
