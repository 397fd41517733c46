"""ES: evolution strategies, the gradient of a smoothed return by mirrored perturbations and ranks.

    theta_e = mean ± scale ξ_e → U(theta_e) → rank(U) ∈ [−½, ½]

    ∇ E[rank] = 1/n Σ_e rank_e ξ_e / scale          mean ← Adam(mean, ∇ − weight_decay · mean)

    (theta ~ N(mean, scale² I)) → utility → ⟨gain⟩          theta's credit: the centred rank

With U itself in the rank's place this is the gradient of `E_ξ[U(mean + scale ξ)]`, the return smoothed by the noise, and not of U:
it exists where U has steps. Ranks make it blind to the size of returns. A pair ±ξ cancels the even part of U, constants included.

Salimans, Ho, Chen, Sidor & Sutskever (2017), "Evolution strategies as a scalable alternative to reinforcement learning".
"""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium as gym
from torch import Generator
from torch.optim import Adam

from scg.agents.common.agent import Agent, set_rate
from scg.agents.execution.options import check_options
from scg.agents.search import credits
from scg.agents.search.agent import Generation, SearchConfig, check_pairs, grad_norm
from scg.agents.search.distributions import DiagonalGaussian
from scg.agents.search.specification import search_graph, surrogate
from scg.agents.updates.factory import Updates
from scg.agents.updates.metrics import Metrics


@dataclass(frozen=True)
class ES(SearchConfig):
    """Hyperparameters."""

    lr: float = 0.1
    """Adam's rate, falling linearly to a tenth"""
    weight_decay: float = 0.005
    """pull of the parameters towards 0, added to the gradient"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, at_least_zero="lr weight_decay")
        check_pairs(self)

    def agent(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator, updates: Updates) -> Agent:
        search = self.search(obs_space, action_space, generator)
        distribution = DiagonalGaussian(search.start, self.scale, learn_scale=False)
        graph = search_graph(distribution, "centred_rank")
        optimiser = Adam([distribution.mean], self.lr, weight_decay=self.weight_decay)

        def step(generation: Generation, progress: float) -> Metrics:
            set_rate(optimiser, self.lr * (1 - 0.9 * progress))
            rank = credits.centred_ranks(generation.utility)
            optimiser.zero_grad()
            surrogate(graph, "centred_rank", generation.theta(), generation.utility, rank).backward()
            norm = grad_norm(distribution)
            optimiser.step()
            return {"grad_norm": norm}

        return search.agent(graph, distribution, search.perturbations(mirrored=True), step, {"optimiser": optimiser})
