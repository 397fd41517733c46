"""The replay buffer that an agent's options ask for, and rows like those that it gives."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import gymnasium as gym
import torch
from torch import Generator, Tensor

from scg.agents.experience.hindsight import Hindsight, PrioritisedHindsight, Strategy
from scg.agents.experience.prioritised import PrioritisedReplay
from scg.agents.experience.replay import Multistep, Replay
from scg.agents.experience.rollout import Rows
from scg.agents.networks.encoder import Encoder
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
        encoder = Encoder(space)
        if encoder.start is not None:
            return encoder.start + torch.randint(encoder.features, (rows,), generator=generator)
        return torch.randn(rows, *(space.shape or ()), generator=generator)

    made = {
        "obs": obs(),
        "action": torch.from_numpy(random.noise((rows,), generator)),
        "reward": torch.randn(rows, generator=generator),
        "next_obs": obs(),
        "discount": torch.full((rows,), 0.9),
    }
    return {**made, "importance": torch.rand(rows, generator=generator)} if importance else made
