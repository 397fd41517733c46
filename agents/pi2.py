"""PI²: policy improvement with path integrals; the mean moves to the members' average, weighted by exponential returns.

    w_e = exp(λ U_e),  λ = sharpness / (max U − min U)          mean ← argmax Σ_e w_e log N(theta_e; mean, scale²) = Σ w θ / Σ w

    (theta ~ N(mean, scale² I)) → utility → ⟨gain⟩          theta's credit: exp(λ U)

The path integral of stochastic optimal control says that the optimal control is this average over noisy paths, λ the inverse of
their temperature. The exploration's scale is given, and shrinks by `decay` a generation; with `--adapt` it is fitted with the same
weights (PI²-CMA). Here the perturbation is one for an episode, so one weight a member, and not one a time step.

Kappen (2007); Theodorou, Buchli & Schaal (2010); PI²-CMA: Stulp & Sigaud (2012).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import gymnasium as gym
import torch
from torch import Generator

from scg.agents.common.agent import Agent
from scg.agents.execution.options import check_options
from scg.agents.search import credits
from scg.agents.search.agent import Generation, SearchConfig
from scg.agents.search.distributions import DiagonalGaussian
from scg.agents.search.specification import search_graph
from scg.agents.updates.factory import Updates
from scg.agents.updates.metrics import Metrics


@dataclass(frozen=True)
class PI2(SearchConfig):
    """Hyperparameters."""

    sharpness: float = 10.0
    """λ times the range of the returns: the best member weighs exp(sharpness) times the worst"""
    decay: float = 0.98
    """the scale's factor from one generation to the next"""
    adapt: bool = False
    """fit the scale too"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, at_least_zero="sharpness", unit="decay")

    def agent(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator, updates: Updates) -> Agent:
        search = self.search(obs_space, action_space, generator)
        distribution = DiagonalGaussian(search.start, self.scale)
        graph = search_graph(distribution, "exponential")

        def step(generation: Generation, progress: float) -> Metrics:
            theta, weight = generation.theta(), credits.exponential(generation.utility, self.sharpness)
            (distribution.fit if self.adapt else distribution.fit_mean)(theta, weight)
            with torch.no_grad():
                distribution.log_scale.add_(math.log(max(self.decay, 1e-12))).clamp_min_(math.log(1e-6))
            return {"effective_members": credits.effective(weight)}

        return search.agent(graph, distribution, search.perturbations(), step)
