"""CEM: the cross-entropy method; the distribution is fitted to the best members, again and again.

    theta_e ~ N(mean, covariance);   ē: the top share of the members by return

    (mean, covariance) ← argmax Σ_ē log N(theta_ē; mean, covariance), + Z_t I          Z_t: none, constant, decreasing

    (theta ~ N(mean, covariance)) → utility → ⟨gain⟩          theta's credit: the elite indicator

The maximum is the elite's own mean and covariance: where the graph's gradient vanishes. Left alone the covariance shrinks too soon;
extra variance Z_t keeps it open, and lets it close at last when it decreases.

Rubinstein (1999); de Boer et al. (2005); noise: Szita & Lőrincz (2006), "Learning Tetris using the noisy cross-entropy method".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import gymnasium as gym
from torch import Generator

from scg.agents.common.agent import Agent
from scg.agents.execution.options import OptionError, check_options
from scg.agents.search import credits
from scg.agents.search.agent import Generation, SearchConfig
from scg.agents.search.distributions import DiagonalGaussian, FullGaussian
from scg.agents.search.specification import search_graph
from scg.agents.updates.factory import Updates
from scg.agents.updates.metrics import Metrics


@dataclass(frozen=True)
class CEM(SearchConfig):
    """Hyperparameters."""

    elite: float = 0.2
    """share of the members that the distribution is fitted to"""
    covariance: Literal["diagonal", "full"] = "diagonal"
    """full: the elite must be more members than there are parameters"""
    noise: Literal["none", "constant", "decreasing"] = "decreasing"
    """extra variance of every parameter after each fit"""
    noise_variance: float = 0.02
    """Z, at first"""
    noise_generations: int = 20
    """decreasing noise falls linearly, and is 0 from this generation on"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, "noise_generations", "noise_variance", unit="elite")
        if self.elite_members < 2:
            raise OptionError(
                f"options elite {self.elite}, population {self.population}: an elite of fewer than 2 has no spread."
            )

    @property
    def elite_members(self) -> int:
        return round(self.elite * self.population)

    def extra(self, generation: int) -> float:
        """Z_t."""
        left = max(1 - generation / self.noise_generations, 0.0)
        return self.noise_variance * {"none": 0.0, "constant": 1.0, "decreasing": left}[self.noise]

    def agent(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator, updates: Updates) -> Agent:
        search = self.search(obs_space, action_space, generator)
        if self.covariance == "full" and self.elite_members <= len(search.start):
            raise OptionError(
                f"a full covariance of {len(search.start)} parameters needs an elite of more members than that, found "
                f"{self.elite_members}. Enlarge population or elite, or take --covariance diagonal."
            )
        kind = {"diagonal": DiagonalGaussian, "full": FullGaussian}[self.covariance]
        distribution = kind(search.start, self.scale)
        graph = search_graph(distribution, "elite")

        def step(generation: Generation, progress: float) -> Metrics:
            weight = credits.elite(generation.utility, self.elite_members)
            extra = self.extra(generation.number)
            distribution.fit(generation.theta(), weight, extra + TINY)
            return {"extra_variance": extra}

        return search.agent(graph, distribution, search.perturbations(), step)


TINY = 1e-12  # a variance stays positive where all of an elite agree
