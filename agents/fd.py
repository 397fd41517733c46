"""FD: central finite differences along every parameter, averaged over repetitions.

    ∂U/∂theta_j ≈ (U(mean + h e_j) − U(mean − h e_j)) / 2h          mean ← Adam(mean, ∇)

    (theta ~ N(mean, (h²/d) I)) → utility → ⟨gain⟩          theta's credit: U

The 2d points mean ± h e_j are that Gaussian's cubature of degree 3, so the differences are its score-function estimate: where U is
quadratic they are exact. Noise in U comes divided by h, and dominates: average more (`repeats`, `episodes`), or fix the randomness
(`--scenarios fixed`), which makes U a function of theta alone (PEGASUS).

Ng & Jordan (2000), "PEGASUS: a policy search method for large MDPs and POMDPs"; Kohl & Stone (2004).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import gymnasium as gym
from torch import Generator
from torch.optim import Adam

from scg.agents.common.agent import Agent, set_rate
from scg.agents.execution.options import check_options
from scg.agents.search import credits
from scg.agents.search.agent import Generation, SearchConfig, grad_norm
from scg.agents.search.distributions import DiagonalGaussian
from scg.agents.search.specification import search_graph, surrogate
from scg.agents.updates.factory import Updates
from scg.agents.updates.metrics import Metrics


@dataclass(frozen=True)
class FD(SearchConfig):
    """Hyperparameters. `scale` is the step h; a generation has 2 · d · `repeats` members, whatever `population` says."""

    repeats: int = 1
    """evaluations of each of the 2d points"""
    lr: float = 0.1
    """Adam's rate, falling linearly to a tenth"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, "repeats", "lr")

    def agent(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator, updates: Updates) -> Agent:
        search = self.search(obs_space, action_space, generator)
        dim = len(search.start)
        distribution = DiagonalGaussian(search.start, self.scale / math.sqrt(dim), learn_scale=False)
        graph = search_graph(distribution, "returns")
        optimiser = Adam([distribution.mean], self.lr)

        def step(generation: Generation, progress: float) -> Metrics:
            set_rate(optimiser, self.lr * (1 - 0.9 * progress))
            weight = credits.mirrored(generation.utility)
            optimiser.zero_grad()
            surrogate(graph, "returns", generation.theta(), generation.utility, weight).backward()
            norm = grad_norm(distribution)
            optimiser.step()
            return {"grad_norm": norm}

        size = 2 * dim * self.repeats
        return search.agent(graph, distribution, search.perturbations("axes"), step, {"optimiser": optimiser}, lambda: size)
