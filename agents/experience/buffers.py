"""The options of replay, the buffer that they ask for, and rows like those that it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Generator, Tensor

from scg.agents.environments.flat_space import mask_of
from scg.agents.execution.options import check_options
from scg.agents.experience.hindsight import Hindsight, PrioritisedHindsight, Strategy
from scg.agents.experience.prioritised import PrioritisedReplay
from scg.agents.experience.replay import Multistep, Replay
from scg.agents.experience.rollout import Rows
from scg.agents.networks.policy import FastPolicy


@dataclass(frozen=True)
class ReplayOptions:
    """Hyperparameters of a replay buffer."""

    replay: int = 1_000_000
    """environment steps that the buffer holds"""
    prioritised: bool = False
    """draw in proportion to the critics' errors"""
    priority_alpha: float = 0.6
    """exponent of the priorities; 0 is uniform"""
    priority_beta: float = 0.4
    """exponent of the importance weights at first; 1 at the end"""
    her: Literal["none"] | Strategy = "none"
    """hindsight: goals that an episode reached, chosen so, in place of those that it had; needs a goal environment"""
    her_k: float = 4.0
    """rows with another goal to each with its own"""
    mapped: str = ""
    """directory for a memory-mapped buffer, larger than memory; empty keeps it in memory"""

    def __post_init__(self) -> None:
        check_options(self, "replay", "priority_alpha her_k", "priority_beta")


def replay_buffer(options: ReplayOptions, target: Multistep, space: gym.Space) -> Replay:
    """Uniform or prioritised, of the steps as they were or with hindsight goals; `space` is the observations'."""
    priorities: dict[str, Any] = {}
    if options.prioritised:
        priorities = {"alpha": options.priority_alpha, "beta": options.priority_beta}
    if options.her != "none":
        buffer = PrioritisedHindsight if options.prioritised else Hindsight
        goals: dict[str, Any] = {"space": space, "strategy": options.her, "k": options.her_k}
        return buffer(options.replay, target, options.mapped, **goals, **priorities)
    if options.prioritised:
        return PrioritisedReplay(options.replay, target, options.mapped, **priorities)
    return Replay(options.replay, target, options.mapped)


def example_rows(space: gym.Space, random: FastPolicy, generator: Generator, importance: bool = False, rows: int = 8) -> Rows:
    """Rows that look like a minibatch, to try a graph on; `random` draws the actions."""

    def obs() -> Tensor:
        if isinstance(space, spaces.Discrete):
            return int(space.start) + torch.randint(int(space.n), (rows,), generator=generator)
        if space.dtype == np.uint8:
            return torch.randint(256, (rows, *(space.shape or ())), generator=generator, dtype=torch.uint8)
        found, masked = torch.randn(rows, *(space.shape or ()), generator=generator), mask_of(space)
        if masked is not None:
            masked.mask(found).fill_(1.0)
        return found

    here = obs()
    made = {
        "obs": here,
        "action": torch.from_numpy(random.numpy_actor()(here.numpy(), random.noise((rows,), generator))),
        "reward": torch.randn(rows, generator=generator),
        "next_obs": obs(),
        "discount": torch.full((rows,), 0.9),
    }
    return {**made, "importance": torch.rand(rows, generator=generator)} if importance else made
