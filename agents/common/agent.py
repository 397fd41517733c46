"""What an agent is to the training loop: a graph, a policy that acts, and an update.

    block ─update→ metrics            progress ∈ [0, 1] is the share of the step budget that is spent

A config dataclass (its fields are the command line's flags) builds one from the environment's spaces; everything that
must survive a restart is in `state` (modules, optimisers, normalisers, generators) and in `memory`, the replay buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import gymnasium as gym
import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

import scg
from scg.agents.experience.replay import Replay
from scg.agents.experience.rollout import Experience, Rollout
from scg.agents.updates.metrics import Metrics, NotFinite


class Stateful(Protocol):
    """Modules, optimisers, buffers: anything with these two."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any) -> Any: ...


@dataclass(frozen=True)
class Agent:
    graph: scg.Graph
    policy: nn.Module
    collect: Callable[[Rollout, int], Experience]  # at most so many environment steps, where it can choose
    update: Callable[[Any, float], Metrics]  # (what was collected, progress)
    state: Mapping[str, Stateful]
    memory: Replay | None = None  # saved piece by piece beside the checkpoints
    report: int = 1  # environment steps of blocks that make one row of metrics; at least one block

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.state.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self.state.items():
            part.load_state_dict(state[name])

    def check_finite(self) -> None:
        """NotFinite, with its name, if a parameter is NaN or infinite."""
        for name, part in self.state.items():
            if isinstance(part, nn.Module):
                for parameter, value in part.named_parameters():
                    if not torch.isfinite(value).all():
                        raise NotFinite(f"parameter {name}.{parameter} has {_first_bad(value)}.")


class Config(Protocol):
    """A frozen dataclass of hyperparameters."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def build(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator) -> Agent: ...


def descend(name: str, optimiser: Optimizer, loss: Tensor, max_norm: float = float("inf")) -> float:
    """One step down `loss`, its gradient clipped to `max_norm`. Returns the norm before clipping.

    A NaN or infinite gradient stops here with the name of the parameter, before the step.
    """
    optimiser.zero_grad()
    loss.backward()
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    norm = float(nn.utils.clip_grad_norm_(parameters, max_norm))
    if not norm < float("inf"):
        for i, parameter in enumerate(parameters):
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                shape = list(parameter.shape)
                raise NotFinite(f"objective {name!r}: gradient of parameter {i} {shape}, loss {loss.item()}.")
        raise NotFinite(f"objective {name!r}: gradient norm {norm}, loss {loss.item()}. Lower the learning rate.")
    optimiser.step()
    return norm


def set_rate(optimiser: Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def _first_bad(value: Tensor) -> float:
    return value[~torch.isfinite(value)].flatten()[0].item()
