"""PGPE: policy gradients with parameter-based exploration; mean and scale both follow the gradient.

    theta ~ N(mean, scale²), in mirrored pairs;   weight = centred rank

    mean       ← ClipUp(mean, 1/n Σ_e weight_e (theta_e − mean) / scale²)
    log scale  ← log scale + clip(scale_rate · 1/n Σ_e weight_e ((theta_e − mean)²/scale² − 1), ±0.2)

    (theta ~ N(mean, diag(scale²))) → utility → ⟨gain⟩          theta's credit: the centred rank

Both sums are the graph's gradient. The policy is deterministic: exploration is in its parameters alone, one draw an episode.

Sehnke et al. (2010), "Parameter-exploring policy gradients"; ClipUp: Toklu, Liskowski & Srivastava (2020).
"""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium as gym
import torch
from torch import Generator

from scg.agents.common.agent import Agent
from scg.agents.execution.options import check_options
from scg.agents.search import credits
from scg.agents.search.agent import Generation, SearchConfig, check_pairs, grad_norm
from scg.agents.search.clip_up import ClipUp
from scg.agents.search.distributions import DiagonalGaussian
from scg.agents.search.specification import search_graph, surrogate
from scg.agents.updates.factory import Updates
from scg.agents.updates.metrics import Metrics

MOST = 0.2  # of the logarithm of a scale in one step


@dataclass(frozen=True)
class PGPE(SearchConfig):
    """Hyperparameters."""

    lr: float = 0.1
    """length of ClipUp's steps; its speed limit is twice that"""
    momentum: float = 0.9
    """ClipUp's"""
    scale_rate: float = 0.1
    """step size of the log-scales"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, at_least_zero="scale_rate", unit="momentum")
        check_pairs(self)

    def agent(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator, updates: Updates) -> Agent:
        search = self.search(obs_space, action_space, generator)
        distribution = DiagonalGaussian(search.start, self.scale)
        graph = search_graph(distribution, "centred_rank")
        optimiser = ClipUp([distribution.mean], self.lr, self.momentum)

        def step(generation: Generation, progress: float) -> Metrics:
            rank = credits.centred_ranks(generation.utility)
            distribution.zero_grad()
            surrogate(graph, "centred_rank", generation.theta(), generation.utility, rank).backward()
            norm = grad_norm(distribution)
            optimiser.step()
            slope = distribution.log_scale.grad
            assert slope is not None
            with torch.no_grad():
                distribution.log_scale.sub_((self.scale_rate * slope).clamp(-MOST, MOST))
            return {"grad_norm": norm}

        return search.agent(graph, distribution, search.perturbations(mirrored=True), step, {"optimiser": optimiser})
