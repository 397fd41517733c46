"""RWR: reward-weighted regression; the distribution is fitted to all members, each weighted by its return, exponentially.

    w_e = exp(sharpness (U_e − max U) / std U)          (mean, scale) ← argmax Σ_e w_e log N(theta_e; mean, scale²)

    (theta ~ N(mean, diag(scale²))) → utility → ⟨gain⟩          theta's credit: exp(λ U)

An expectation-maximisation step: treat the transformed return as a probability, and maximise its expected logarithm's lower bound.
No step size; the weights make it. `least_scale` keeps the spread from closing too soon.

Dayan & Hinton (1997); Peters & Schaal (2007), "Reinforcement learning by reward-weighted regression".
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
class RWR(SearchConfig):
    """Hyperparameters."""

    sharpness: float = 2.0
    """how fast a weight grows with the return, in standard deviations of the returns"""
    least_scale: float = 0.05
    """smallest standard deviation of a parameter"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, at_least_zero="sharpness least_scale")

    def agent(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator, updates: Updates) -> Agent:
        search = self.search(obs_space, action_space, generator)
        distribution = DiagonalGaussian(search.start, self.scale)
        graph = search_graph(distribution, "exponential")

        def step(generation: Generation, progress: float) -> Metrics:
            weight = credits.exponential(generation.utility, self.sharpness, "std")
            distribution.fit(generation.theta(), weight)
            with torch.no_grad():
                distribution.log_scale.clamp_min_(math.log(max(self.least_scale, 1e-12)))
            return {"effective_members": credits.effective(weight)}

        return search.agent(graph, distribution, search.perturbations(), step)
