"""The replay buffer that an agent's options ask for, and rows like those that it gives."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Generator, Tensor

from scg.agents.environments.flat_space import mask_of
from scg.agents.experience.hindsight import Hindsight, PrioritisedHindsight, Strategy
from scg.agents.experience.prioritised import PrioritisedReplay
from scg.agents.experience.replay import Multistep, Replay
from scg.agents.experience.rollout import Rows
from scg.agents.networks.policy import FastPolicy


class Options(Protocol):
    """What a buffer is made from: fields of `OffPolicy`, described there."""

    @property
    def replay(self) -> int: ...
    @property
    def gamma(self) -> float: ...
    @property
    def n_step(self) -> int: ...
    @property
    def prioritised(self) -> bool: ...
    @property
    def priority_alpha(self) -> float: ...
    @property
    def priority_beta(self) -> float: ...
    @property
    def her(self) -> Literal["none"] | Strategy: ...
    @property
    def her_k(self) -> float: ...
    @property
    def mapped(self) -> str: ...


def replay_buffer(options: Options, space: gym.Space) -> Replay:
    """Uniform or prioritised, of the steps as they were or with hindsight goals; `space` is the observations'."""
    target = Multistep(options.gamma, options.n_step)
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
