"""Agents, as the training loop sees them: a graph, a policy that acts, and an update.

    block ─update→ metrics            progress ∈ [0, 1] is the share of the step budget that is spent

A config dataclass (its fields are the command line's flags) builds one from the environment's spaces; everything that
must survive a restart is in `state` (modules, optimisers, normalisers, generators) and in `memory`, the replay buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

import scg
from scg.agents.common.callbacks import Callback
from scg.agents.environments.faults import EnvironmentFault
from scg.agents.execution.options import OptionError as OptionError
from scg.agents.execution.options import check_options as check_options
from scg.agents.execution.settings import EAGER, Execution
from scg.agents.experience.replay import Replay
from scg.agents.experience.rollout import Experience, Rollout
from scg.agents.networks.finite_check import REMEDY, exploded
from scg.agents.updates.factory import Updates
from scg.agents.updates.metrics import Metrics, NotFinite


class Stateful(Protocol):
    """Modules, optimisers, buffers: anything with these two."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any) -> Any: ...


@dataclass(frozen=True)
class Agent:
    graph: scg.Graph
    policy: nn.Module
    collect: Callable[[Rollout, int], Experience]  # at most so many environment steps, where the agent can choose
    update: Callable[[Any, float], Metrics]  # of the collected experience and progress
    state: Mapping[str, Stateful]
    memory: Replay | None = None  # saved in pieces beside the checkpoints
    report: int = 1  # environment steps of blocks that make one row of metrics; at least one block
    callbacks: Sequence[Callback] = ()

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
                        raise NotFinite(f"parameter {name}.{parameter} has {_first_bad(value)}. {REMEDY}")

    def exploded(self) -> str:
        """Describes a parameter that is so large that it explains numbers that are not finite; "" where none is."""
        modules = {name: part for name, part in self.state.items() if isinstance(part, nn.Module)}
        return next((found for name, part in modules.items() if (found := exploded(name, part))), "")


class Config(Protocol):
    """A frozen dataclass of hyperparameters."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def build(
        self, obs_space: gym.Space, action_space: gym.Space, generator: Generator, execution: Execution = EAGER
    ) -> Agent: ...


class AgentConfig:
    """Base of the agents' configs: the traits that presets and the command line use, besides the hyperparameters."""

    family: ClassVar[str] = "on-policy"
    """agents of one family share the presets of an environment, unless an agent has presets of its own"""
    environments: ClassVar[int] = 8
    """environments stepped side by side by default"""
    compile_from: ClassVar[int | None] = None
    """shortest run, in environment steps, whose updates are compiled by default; None: never"""
    executes: ClassVar[tuple[str, ...]] = ("device", "compile", "bf16", "threads")
    """options of `Execution` that its updates support"""
    spreads: ClassVar[bool] = False
    """whether it has episodes run by the rollout's executor"""

    def build(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator, execution: Execution = EAGER) -> Agent:
        """The agent for these spaces, its initial weights drawn from `generator`, its updates run as `execution` says."""
        self.check(execution)
        return self.agent(obs_space, action_space, generator, Updates(execution))

    def agent(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator, updates: Updates) -> Agent:
        """The page's part: a graph, and an update made of `updates`."""
        raise NotImplementedError

    @classmethod
    def spaces(cls) -> dict[str, tuple[gym.Space, gym.Space]]:
        """Spaces of observations and actions to show the agent on, by what their kind is called."""
        observed = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        return {"continuous": (observed, spaces.Box(-1.0, 1.0, (1,), np.float32)), "discrete": (observed, spaces.Discrete(2))}

    @classmethod
    def __graph__(cls) -> scg.Graph:
        """What `scg draw` shows: the graph with the default options, for three observed numbers and one action."""
        return next(iter(examples(cls).values()))

    def check(self, execution: Execution) -> None:
        """OptionError for an execution that the updates or the machine do not support, and for layers without units."""
        if any(width < 1 for width in getattr(self, "hidden", ())):
            raise OptionError(f"option hidden is {' '.join(map(str, getattr(self, 'hidden', ())))}. Give widths of at least 1.")
        execution.check_machine()
        for name in execution.changed():
            if name not in self.executes:
                flag, known = name.replace("_", "-"), ", ".join(f"--{other}" for other in self.executes)
                raise OptionError(
                    f"option --{flag}: the updates of {type(self).__name__} cannot be executed so. They know {known}. "
                    "(--overlap and --together are for agents with a replay buffer.)"
                )
        updates = getattr(self, "updates", execution.together)
        if updates % execution.together:
            raise OptionError(f"--together {execution.together} does not divide --updates {updates}.")


def examples(config: type[Any]) -> dict[str, scg.Graph]:
    """The graphs of an agent with default options: one for each kind of action that it takes, continuous actions first."""
    found: dict[str, scg.Graph] = {}
    refused = ""
    for kind, (observed, space) in config.spaces().items():
        try:
            found[kind] = config().build(observed, space, Generator().manual_seed(0)).graph
        except EnvironmentFault as error:  # not this kind
            refused = str(error)
    if not found:
        raise EnvironmentFault(f"{config.__name__} takes neither continuous nor discrete actions of a flat space: {refused}")
    return found


def set_rate(optimiser: Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group of one of torch's optimisers."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def _first_bad(value: Tensor) -> float:
    return value[~torch.isfinite(value)].flatten()[0].item()
