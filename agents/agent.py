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
from scg.agents.replay import Replay
from scg.agents.rollout import Experience, Rollout

Metrics = dict[str, float]


class NotFinite(ArithmeticError):
    """A NaN or an infinity, named. It is raised before it can reach a parameter or a checkpoint."""


class OptionError(ValueError):
    """A hyperparameter that makes no sense. The message says which, what was found, what it may be."""


def check_options(config: Any, at_least_one: str = "", at_least_zero: str = "", unit: str = "") -> None:
    """OptionError unless the named fields are ≥ 1, ≥ 0, or in [0, 1]."""
    bounds = [(at_least_one, 1, float("inf")), (at_least_zero, 0, float("inf")), (unit, 0, 1)]
    for names, low, high in bounds:
        for name in names.split():
            value = getattr(config, name)
            if not low <= value <= high:
                span = f"between {low} and {high}" if high == 1 else f"at least {low}"
                raise OptionError(f"option {name} is {value}. Give a number {span}.")


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


class Means:
    """Running means of metrics, each over the times that it was there."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, metrics: Metrics) -> None:
        for name, value in metrics.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + value, count + 1)

    def take(self) -> Metrics:
        return {name: total / count for name, (total, count) in self._sums.items()}


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


def explained_variance(prediction: Tensor, target: Tensor) -> float:
    """`1 - Var[target - prediction] / Var[target]`: 1 is perfect, 0 no better than a constant; 0 where the target is one."""
    variance = target.var(correction=0)
    return float(1 - (target - prediction).var(correction=0) / variance) if variance > 0 else 0.0


def _first_bad(value: Tensor) -> float:
    return value[~torch.isfinite(value)].flatten()[0].item()
