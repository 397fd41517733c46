"""How often a policy on MultiGoal-v0 reaches each of the four goals, and the picture of it.

On the left, the level curves of the reward and the policy's paths from the middle; then, for a few states, the level sets of Q
over all actions with samples of the policy on them. Haarnoja, Tang, Abbeel & Levine (2017), figure 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn

from scg.agents.environments import envs
from scg.agents.environments.multigoal import BORDER, GOALS, distance
from scg.agents.experience.acting import sampler
from scg.agents.experience.rollout import Rollout
from scg.files import whole_file

STATES = ((0.0, 0.0), (2.5, 2.5), (-2.5, 0.0))  # states at which Q is drawn: between four goals, between two, and near one


def reached(policy: nn.Module, episodes: int = 100, seed: int = 0) -> tuple[list[int], list[np.ndarray]]:
    """How many of the policy's sampled episodes ended at each goal; and their paths, `[steps + 1, 2]` each."""
    with envs.make("MultiGoal-v0", episodes) as vector:
        generator = Generator().manual_seed(envs.seeds(seed, "multi-goal actions", 1)[0])
        rollout = Rollout(vector, envs.seeds(seed, "multi-goal", episodes), generator)
        block = rollout.episodes(policy, log_prob=False)
    starts = [*np.flatnonzero(block.first[:, 0].numpy()), len(block.first)]
    paths, counts = [], [0] * len(GOALS)
    for begin, end in pairwise(starts):
        path = np.concatenate([block.obs[begin:end, 0].numpy(), block.next_obs[end - 1 : end, 0].numpy()])
        paths.append(path)
        if bool(block.terminated[end - 1, 0]):
            counts[int(np.linalg.norm(path[-1] - GOALS, axis=-1).argmin())] += 1
    return counts, paths


def action_values(critics: nn.Module, state: Sequence[float], side: int = 81) -> tuple[np.ndarray, np.ndarray]:
    """The axis of a grid over each action, and Q at `state` on it, `[second action, first action]`."""
    axis = torch.linspace(-1.0, 1.0, side)
    first, second = torch.meshgrid(axis, axis, indexing="xy")
    action = torch.stack([first, second], -1).reshape(-1, 2)
    with torch.no_grad():
        q: Tensor = critics(torch.tensor(state).expand(len(action), 2), action).amin(-1)
    return axis.numpy(), q.reshape(side, side).numpy()


def picture(
    policy: nn.Module, critics: nn.Module, out: Path, episodes: int = 40, samples: int = 200, seed: int = 0
) -> list[int]:
    """Write the picture to `out` (by its ending); how many of the episodes drawn there reached each goal."""
    from matplotlib.figure import Figure

    counts, paths = reached(policy, episodes, seed)
    figure = Figure(figsize=(4 * (1 + len(STATES)), 4), layout="constrained")
    axes = figure.subplots(1, 1 + len(STATES))
    grid = np.linspace(-BORDER, BORDER, 141)
    where = np.stack(np.meshgrid(grid, grid), -1)
    axes[0].contour(grid, grid, -(distance(where) ** 2), 12, linestyles="solid", colors="0.75", linewidths=0.7)
    for path in paths:
        axes[0].plot(*path.T, linewidth=0.8, alpha=0.7)
    axes[0].plot(*GOALS.T, "o", color="red")
    axes[0].set(title=f"reward, and {episodes} paths", xlabel="x", ylabel="y", aspect="equal")
    generator = Generator().manual_seed(envs.seeds(seed, "multi-goal picture", 1)[0])
    for axis, state in zip(axes[1:], STATES, strict=True):
        ticks, q = action_values(critics, state)
        axis.contourf(ticks, ticks, q, 20, cmap="viridis")
        obs = np.tile(np.asarray(state, np.float32), (samples, 1))
        drawn = sampler(policy, generator, 1, samples)(obs)
        axis.plot(*drawn.T, ".", color="white", markersize=3)
        axis.set(title=f"Q and policy at {state}", xlabel="velocity in x", ylabel="velocity in y", aspect="equal")
        axis.set(xlim=(-1, 1), ylim=(-1, 1))
    with whole_file(out) as file:
        figure.savefig(file, format=out.suffix.removeprefix(".") or "png", dpi=110)
    return counts
