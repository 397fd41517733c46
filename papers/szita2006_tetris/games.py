"""The agent `cem` on Tetris, its generations played by the compiled games: the same members, games and fits, ten times as fast.

theta_e ~ N(mean, scale²),  e = 1 … 100;   one game each;   fit to the ten best, + Z_t;   every few generations the mean plays
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Generator

from scg.agents.cem import CEM, TINY
from scg.agents.environments import envs
from scg.agents.environments.tetris import FEATURES, Tetris, games
from scg.agents.search import credits
from scg.agents.search.distributions import DiagonalGaussian

Noise = Literal["none", "constant", "decreasing"]
VARIANCE: dict[Noise, float] = {"none": 0.0, "constant": 4.0, "decreasing": 5.0}  # Z, at first; decreasing: max(5 − t/10, 0)
LIMIT = 10_000_000  # placements of a game


@dataclass
class Course:
    """A run. `points`: generation, placements so far, mean lines of the mean's games, their standard error, mean scale."""

    points: list[tuple[int, int, float, float, float]] = field(default_factory=list)
    theta: np.ndarray = field(default_factory=lambda: np.zeros(FEATURES))

    @property
    def final(self) -> float:
        return self.points[-1][2]

    @property
    def best(self) -> float:
        return max(point[2] for point in self.points)


def config(noise: Noise) -> CEM:
    """The paper's: 100 members, an elite of 10, N(0, 100) at first."""
    return CEM(
        population=100,
        elite=0.1,
        noise=noise,
        noise_variance=VARIANCE[noise],
        noise_generations=50,
        policy="scores",
        scale=10.0,
        scenarios="fresh",
    )


def played(theta: np.ndarray, seeds: list[int], height: int) -> np.ndarray:
    """`[n, 2]` lines and placements."""
    return games(theta, seeds, height, LIMIT)


def course(noise: Noise, height: int, seed: int, generations: int, every: int, judged: int, budget: int = 0) -> Course:
    """`generations` of the search, the mean judged by `judged` games after each `every`. It ends earlier, judged a last time, when
    members have made more than `budget` placements (0: no limit)."""
    board, chosen, found = Tetris(height), config(noise), Course()
    search = chosen.search(board.observation_space, board.action_space, Generator().manual_seed(seed))
    distribution, unit, spent = DiagonalGaussian(search.start, chosen.scale), search.perturbations(), 0
    for generation in range(1, generations + 1):
        number, members = search.generations.done, range(chosen.population)
        theta = distribution.members(unit.rows(number, members))
        lines = played(theta.numpy(), [job.seed for job in search.jobs(chosen.population)], height)
        spent += int(lines[:, 1].sum())
        weight = credits.elite(torch.from_numpy(lines[:, 0].astype(np.float64)), chosen.elite_members)
        distribution.fit(theta, weight, chosen.extra(number) + TINY)
        search.generations.done += 1
        last = generation == generations or (budget > 0 and spent > budget)
        if generation % every == 0 or last:
            found.theta = distribution.mean.detach().numpy().copy()
            mean, error = judge(found.theta, height, judged, seed, generation)
            found.points.append((generation, spent, mean, error, float(distribution.scale.mean())))
        if last:
            break
    return found


def judge(theta: np.ndarray, height: int, count: int, seed: int, generation: int) -> tuple[float, float]:
    """Mean lines of `count` games that no member has played, and its standard error."""
    lines = played(np.tile(theta, (count, 1)), envs.seeds(seed, "judged", count, generation), height)[:, 0]
    return float(lines.mean()), float(lines.std(ddof=1) / count**0.5)
