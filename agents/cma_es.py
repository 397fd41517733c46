"""CMA-ES: covariance matrix adaptation; a Gaussian that learns the return's shape from ranks alone.

    theta_e = mean + σ y_e,  y_e ~ N(0, C)          weights w_e by rank, log((λ+1)/2) − log rank

    mean ← Σ_e w_e theta_e                                            weighted maximum likelihood: the natural gradient
    C    ← (1 − …) C + c₁ p pᵀ + c_μ Σ_e w_e y_e y_eᵀ                 rank one, along the mean's path p, and rank μ
    σ    ← σ exp(… (‖p_σ‖ / E‖N(0, I)‖ − 1))                          longer while steps go one way, shorter while they turn

    (theta ~ N(mean, σ² C)) → utility → ⟨gain⟩          theta's credit: the log-rank weight

Invariant to monotone changes of the return, and to scale and rotation of the parameters. `separable` keeps C diagonal: for the
hundreds or thousands of parameters of a network. `restarts` begins again with twice the population when it stalls.

Hansen & Ostermeier (1996, 2001); Hansen (2016), a tutorial; separable: Ros & Hansen (2008); restarts: Auger & Hansen (2005).
"""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium as gym
from torch import Generator, Tensor

from scg.agents.common.agent import Agent
from scg.agents.execution.options import check_options
from scg.agents.search.agent import Generation, SearchConfig
from scg.agents.search.cma import CMA
from scg.agents.search.restarts import Restarting
from scg.agents.search.specification import search_graph
from scg.agents.updates.factory import Updates
from scg.agents.updates.metrics import Metrics


@dataclass(frozen=True)
class CMAES(SearchConfig):
    """Hyperparameters. `scale` is the first σ."""

    separable: bool = False
    """a diagonal C"""
    active: bool = True
    """the worst half shrinks C along its directions"""
    restarts: bool = False
    """when it stalls, begin again at a random mean with twice the population"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, "population")

    def agent(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator, updates: Updates) -> Agent:
        search = self.search(obs_space, action_space, generator)
        cma = CMA(search.start, self.scale, self.population, self.separable, self.active)
        graph = search_graph(cma, "log_rank")
        noise = search.perturbations()

        def start(restart: int) -> Tensor:
            """Means of restarts are drawn as members of a generation that never comes."""
            return search.start + self.scale * noise.rows(2**31 + restart, [0])[0]

        again = Restarting(cma, start)

        def step(generation: Generation, progress: float) -> Metrics:
            if self.restarts:
                again.update(generation.theta(), generation.utility)
            else:
                cma.update(generation.theta(), cma.credit(generation.utility))
            return {"sigma": float(cma.sigma), "condition": cma.shape.condition(), "restarts": float(again.restarts)}

        return search.agent(graph, cma, noise, step, {"restarts": again}, lambda: cma.rates.members)
