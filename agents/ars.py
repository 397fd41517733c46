"""ARS: augmented random search, basic random search with the returns' scale taken out and bad directions left out.

    theta = mean ± scale ξ_k,  k = 1 … n/2;      r_k± their returns;      the b directions of largest max(r_k+, r_k−)

    mean ← mean + rate / (b σ_R) Σ_best (r_k+ − r_k−) ξ_k            σ_R: standard deviation of the 2b returns

    (theta ~ N(mean, scale² I)) → utility → ⟨gain⟩          theta's credit: U / σ_R of the best directions

V1 observes as is, V2 (`--normalise-obs`) divides by running statistics, shared by all members and moved between generations.
The step is the graph's gradient times 2 · rate · scale. A linear policy is enough for most of MuJoCo.

Mania, Guy & Recht (2018), "Simple random search of static linear policies is competitive for reinforcement learning".
"""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium as gym
from torch import Generator
from torch.optim import SGD

from scg.agents.common.agent import Agent
from scg.agents.execution.options import OptionError, check_options
from scg.agents.search import credits
from scg.agents.search.agent import Generation, SearchConfig, check_pairs, grad_norm
from scg.agents.search.distributions import DiagonalGaussian
from scg.agents.search.specification import search_graph, surrogate
from scg.agents.updates.factory import Updates
from scg.agents.updates.metrics import Metrics


@dataclass(frozen=True)
class ARS(SearchConfig):
    """Hyperparameters. `scale` is the paper's ν, `population` its 2N."""

    rate: float = 0.1
    """step size α"""
    best: int = 8
    """directions that count, b"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, "best", "rate")
        check_pairs(self)
        if self.best > self.population // 2:
            raise OptionError(f"option best is {self.best}, of {self.population // 2} directions. Give at most as many.")

    def agent(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator, updates: Updates) -> Agent:
        search = self.search(obs_space, action_space, generator)
        distribution = DiagonalGaussian(search.start, self.scale, learn_scale=False)
        graph = search_graph(distribution, "best_directions")
        optimiser = SGD([distribution.mean], 2 * self.rate * self.scale)

        def step(generation: Generation, progress: float) -> Metrics:
            weight = credits.directions(generation.utility, self.best)
            optimiser.zero_grad()
            surrogate(graph, "best_directions", generation.theta(), generation.utility, weight).backward()
            norm = grad_norm(distribution)
            optimiser.step()
            return {"grad_norm": norm}

        return search.agent(graph, distribution, search.perturbations(mirrored=True), step, {"optimiser": optimiser})
