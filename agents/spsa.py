"""SPSA: simultaneous perturbation, all parameters at once along random signs.

    g = (U(mean + c_k Δ) − U(mean − c_k Δ)) / 2 c_k Δ,   Δ_j = ±1          mean ← mean + a_k g / std U

    a_k = rate / (1 + k/settle)^0.602,   c_k = scale / (1 + k)^0.101

    (theta ~ N(mean, c_k² I)) → utility → ⟨gain⟩          theta's credit: U

Two evaluations give one estimate, whatever the number of parameters; `population` / 2 of them are averaged. Signs have the
Gaussian's first three moments, so this is its score-function estimate, exact in the mean where U is quadratic. The gains fall as
Spall recommends; the returns' standard deviation takes their unit out.

Spall (1992); Spall (1998), "Implementation of the simultaneous perturbation algorithm for stochastic optimization".
"""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium as gym
import torch
from torch import Generator
from torch.optim import SGD

from scg.agents.common.agent import Agent, set_rate
from scg.agents.execution.options import check_options
from scg.agents.search import credits
from scg.agents.search.agent import Generation, SearchConfig, check_pairs, grad_norm
from scg.agents.search.distributions import DiagonalGaussian
from scg.agents.search.specification import search_graph, surrogate
from scg.agents.updates.factory import Updates
from scg.agents.updates.metrics import Metrics

FALL, SHRINK = 0.602, 0.101  # Spall's exponents, the smallest that the theory allows


@dataclass(frozen=True)
class SPSA(SearchConfig):
    """Hyperparameters. `scale` is c, the first step of the differences."""

    rate: float = 0.1
    """a, the first step size"""
    settle: float = 50.0
    """generations after which the step size begins to fall"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, "settle", "rate")
        check_pairs(self)

    def agent(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator, updates: Updates) -> Agent:
        search = self.search(obs_space, action_space, generator)
        distribution = DiagonalGaussian(search.start, self.scale, learn_scale=False)
        graph = search_graph(distribution, "returns")
        optimiser = SGD([distribution.mean], self.rate)

        def step(generation: Generation, progress: float) -> Metrics:
            k = generation.number
            set_rate(optimiser, self.rate / (1 + k / self.settle) ** FALL)
            weight = credits.mirrored(generation.utility)
            spread = weight.std(correction=0)
            optimiser.zero_grad()
            surrogate(graph, "returns", generation.theta(), generation.utility, weight / spread.clamp_min(1e-12)).backward()
            norm = grad_norm(distribution)
            optimiser.step()
            with torch.no_grad():
                distribution.log_scale.fill_(self.scale / (2 + k) ** SHRINK).log_()  # the next generation's
            return {"grad_norm": norm}

        return search.agent(graph, distribution, search.perturbations("signs", mirrored=True), step, {"optimiser": optimiser})
