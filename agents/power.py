"""PoWER: policy learning by weighting exploration with the returns, which reuses the samples of earlier generations.

    mean ← mean + Σ_e r_e U_e (theta_e − mean) / Σ_e r_e U_e = argmax Σ_e r_e U_e log N(theta_e; mean, scale²)

    r_e = p(theta_e) / Σ_g (n_g/n) p_g(theta_e)          p now, over what the pooled generations g were drawn from

    (theta ~ N(mean, scale² I)) → utility → ⟨gain⟩          theta's credit: r U

Without reuse r is 1 and this is the formula of the seed notes. With it, earlier members count as often as the present distribution
would have drawn them: the balance heuristic, whose weights never exceed n/n_now. Returns are probabilities up to a factor here, so they
must not be negative; `--weights above-worst` takes the pool's worst as 0.

Kober & Peters (2009), "Policy search for motor primitives in robotics"; the balance heuristic: Veach & Guibas (1995).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import torch
from torch import Generator, Tensor

from scg.agents.common.agent import Agent
from scg.agents.execution.options import OptionError, check_options
from scg.agents.search import credits
from scg.agents.search.agent import Generation, SearchConfig
from scg.agents.search.distributions import DiagonalGaussian
from scg.agents.search.perturbations import Perturbations
from scg.agents.search.specification import search_graph
from scg.agents.updates.factory import Updates
from scg.agents.updates.metrics import Metrics


class Pool:
    """The last generations: what they were drawn from and their returns. Their members are made again from their seeds."""

    def __init__(self, noise: Perturbations, kept: int) -> None:
        self.noise, self.kept = noise, kept
        self.generations: list[dict[str, Any]] = []

    def add(self, number: int, distribution: DiagonalGaussian, utility: Tensor) -> None:
        drawn = {"mean": distribution.mean.detach().clone(), "log_scale": distribution.log_scale.detach().clone()}
        self.generations = [*self.generations, {"number": number, "utility": utility.clone(), **drawn}][-self.kept :]

    def theta(self) -> Tensor:
        """`[n, d]`."""
        rows = [(g, self.noise.rows(g["number"], range(len(g["utility"])))) for g in self.generations]
        return torch.cat([g["mean"] + g["log_scale"].exp() * row for g, row in rows])

    def utility(self) -> Tensor:
        return torch.cat([g["utility"] for g in self.generations])

    def ratio(self, theta: Tensor) -> Tensor:
        """Density of the last generation's distribution over the mixture of all, `[n]`."""
        count = sum(len(g["utility"]) for g in self.generations)
        densities = []
        for g in self.generations:
            z = (theta - g["mean"]) / g["log_scale"].exp()
            densities.append(-0.5 * z.square().sum(-1) - g["log_scale"].sum())
        shares = [math.log(len(g["utility"]) / count) for g in self.generations]
        mixture = torch.stack([d + share for d, share in zip(densities, shares, strict=True)]).logsumexp(0)
        return (densities[-1] - mixture).exp()

    def state_dict(self) -> dict[str, Any]:
        return {"generations": self.generations}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generations = state["generations"]


@dataclass(frozen=True)
class PoWER(SearchConfig):
    """Hyperparameters."""

    reuse: int = 2
    """earlier generations whose members are used again"""
    weights: Literal["return", "above-worst"] = "return"
    """what a member weighs: its return, which must not be negative, or how far it is above the worst of the pool"""
    decay: float = 0.98
    """the scale's factor from one generation to the next"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, at_least_zero="reuse", unit="decay")

    def weight(self, utility: Tensor) -> Tensor:
        if self.weights == "above-worst":
            return credits.above_worst(utility)
        found = credits.alive(utility)
        if float(utility[found].min()) < 0:
            raise OptionError(
                f"a member returned {float(utility[found].min()):.4g}, and a weight cannot be negative. Take --weights above-worst."
            )
        weight = torch.where(found, utility, 0.0)
        return weight if float(weight.sum()) > 0 else found.double()

    def agent(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator, updates: Updates) -> Agent:
        search = self.search(obs_space, action_space, generator)
        distribution = DiagonalGaussian(search.start, self.scale)
        graph = search_graph(distribution, "weighted_return")
        noise = search.perturbations()
        pool = Pool(noise, 1 + self.reuse)

        def step(generation: Generation, progress: float) -> Metrics:
            pool.add(generation.number, distribution, generation.utility)
            theta = pool.theta()
            weight = self.weight(pool.utility()) * pool.ratio(theta)
            distribution.fit_mean(theta, weight)
            with torch.no_grad():
                distribution.log_scale.add_(math.log(max(self.decay, 1e-12))).clamp_min_(math.log(1e-6))
            return {"effective_members": credits.effective(weight)}

        return search.agent(graph, distribution, noise, step, {"pool": pool})
