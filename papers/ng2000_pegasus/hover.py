"""The helicopter learns to hover by five searches on one budget, and flies in winds that it has not met.

held       released at the target, level, at rest: never half a metre away, for 60 s
settled    released up to a metre away along each axis: never half a metre away from second 5 to 60
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.ticker import EngFormatter

from scg.agents.environments import envs
from scg.agents.environments.helicopter import DT, INNER, STEPS, Helicopter, observe
from scg.agents.search.controllers import HAND, HoverPolicy
from scg.agents.training.run_directory import RunDirectory
from scg.papers.figures import panels, save
from scg.papers.learning import Learned

NEAR, CALMED = 0.5, 5.0  # metres; seconds
VERDICT = "winds of the verdict"
FRESH, COMMON, FIXED = "finite differences, fresh wind", "finite differences, one wind a step", "finite differences, fixed wind"
_FD: dict[str, Any] = {"agent": "fd", "scale": 0.02}
METHODS: dict[str, dict[str, Any]] = {
    FRESH: {**_FD, "scenarios": "fresh"},
    COMMON: {**_FD, "scenarios": "common"},
    FIXED: {**_FD, "scenarios": "fixed"},
    "ES": {"agent": "es", "population": 16},
    "CEM": {"agent": "cem", "scale": 0.5, "noise_variance": 0.05},
    "CMA-ES": {"agent": "cma-es"},
}


@dataclass(frozen=True)
class Flights:
    """Of one controller: how many it `held` and `settled`, and the `worst` distances `[flights]` of each, in metres."""

    held: list[float]
    settled: list[float]

    @property
    def counts(self) -> tuple[int, int]:
        return sum(d < NEAR for d in self.held), sum(d < NEAR for d in self.settled)


def distances(theta: np.ndarray, seeds: list[int], at_target: bool) -> np.ndarray:
    """Metres from the target after each step, `[STEPS, flights]`; as it was at a crash, from there on."""
    fleet = [Helicopter() for _ in seeds]
    crowd = HoverPolicy(Helicopter.observation_space, Helicopter.action_space).crowd(len(seeds))
    for slot, (one, seed) in enumerate(zip(fleet, seeds, strict=True)):
        one.reset(seed=seed)
        crowd.load(slot, theta)
        if at_target:
            one.state[:3] = 0.0
    obs = observe(np.stack([one.state for one in fleet]))
    found, flying, last = np.zeros((STEPS, len(seeds))), np.ones(len(seeds), bool), np.zeros(len(seeds))
    for t in range(STEPS):
        obs, _, crashed = Helicopter.step_many(fleet, np.clip(crowd.act(obs), -1.0, 1.0))
        last = np.where(flying, np.linalg.norm(obs[:, :3], axis=-1), last)
        flying &= ~crashed
        found[t] = np.where(flying, last, np.maximum(last, 10 * NEAR))
    return found


def flights(theta: np.ndarray, count: int = 20, winds: str = VERDICT) -> Flights:
    """In `count` winds that have their own name: no search is judged in winds in which its settings were chosen."""
    seeds = envs.seeds(0, winds, count)
    settled = distances(theta, seeds, at_target=False)[round(CALMED / (DT * INNER)) :]
    return Flights(distances(theta, seeds, at_target=True).max(0).tolist(), settled.max(0).tolist())


def look(run: RunDirectory) -> dict[str, Any]:
    """The controller of a finished run, and its flights."""
    saved = torch.load(run.checkpoints.paths()[-1], weights_only=True)
    return flown(saved["agent"]["policy"]["theta"].numpy())


def flown(theta: np.ndarray) -> dict[str, Any]:
    """A controller, and its flights."""
    found = flights(theta)
    return {"theta": theta.tolist(), "held": found.held, "settled": found.settled}


def by_hand() -> Flights:
    return flights(np.array(HAND))


def draw(runs: dict[str, list[Learned]], ratios: dict[float, dict[str, float]], path: Path) -> None:
    """Cost against simulator steps; variance of a finite-difference gradient against the step h."""
    figure, axes = panels(1, 2, (4.6, 3.2))
    for name, found in runs.items():
        points = np.array([run.evaluations for run in found])  # [seeds, evaluations, 2]
        (line,) = axes[0, 0].plot(points[..., 0].mean(0), -points[..., 1].mean(0), label=name, linewidth=1.2)
        for run in points:
            axes[0, 0].plot(run[:, 0], -run[:, 1], color=line.get_color(), linewidth=0.5, alpha=0.5)
    axes[0, 0].set(yscale="log", xlabel="environment steps (ten of the simulator's each)", ylabel="cost of a minute")
    axes[0, 0].xaxis.set_major_formatter(EngFormatter(sep=""))
    for kind, label in (("fresh", "fresh wind"), ("common", "fixed wind")):
        axes[0, 1].plot(
            list(ratios), [found[kind] for found in ratios.values()], "o-", label=label, linewidth=1.2, markersize=3
        )
    axes[0, 1].set(xscale="log", yscale="log", xlabel="step h", ylabel="variance of the gradient")
    axes[0, 1].legend(fontsize=8, frameon=False)
    save(figure, path, axes[0, 0])
