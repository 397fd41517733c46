"""An agent from one function: its arguments with defaults become the options of a config, and the command line's flags.

    @agent
    def mine(obs_space, action_space, generator, lr: float = 1e-3):     scg train file.py:mine --env CartPole-v1 --lr 3e-3
        …
        return on_policy(graph, policy=policy, objectives={"gain": Adam(policy.parameters(), rate=lr)})

The function may take the two spaces, the generator of initial weights, and `updates`, the factory of update functions that
follow the flags of `Execution`. Without `updates` these flags are refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import field, make_dataclass
from typing import Any

import gymnasium as gym
from torch import Generator

from scg.agents.common.agent import Agent, AgentConfig
from scg.agents.updates.factory import Updates
from scg.targets import TargetError

GIVEN = ("obs_space", "action_space", "generator", "updates")


def agent(function: Callable[..., Agent]) -> Any:
    """The config class of the agent that `function` makes."""
    parameters = inspect.signature(function).parameters.values()
    asked = [p.name for p in parameters if p.default is p.empty]
    for name in asked:
        if name not in GIVEN:
            raise TargetError(
                f"agent {function.__name__}: argument {name!r} has no default, and is none of {', '.join(GIVEN)}. "
                "An option needs a default."
            )
    options = {p.name: p.default for p in parameters if p.default is not p.empty}

    def build(self: Any, obs_space: gym.Space, action_space: gym.Space, generator: Generator, updates: Updates) -> Agent:
        known = dict(zip(GIVEN, (obs_space, action_space, generator, updates), strict=True))
        made = function(**{name: known[name] for name in asked}, **{name: getattr(self, name) for name in options})
        if not isinstance(made, Agent):
            raise TargetError(
                f"agent {function.__name__}: it returned {type(made).__name__}, not an Agent. "
                "End it with `return on_policy(graph, …)`."
            )
        return made

    config = make_dataclass(
        function.__name__,
        [(name, _kind(function, name, default), field(default=default)) for name, default in options.items()],
        bases=(AgentConfig,),
        namespace={
            "__doc__": function.__doc__ or "Hyperparameters.",
            "agent": build,
            "executes": AgentConfig.executes if "updates" in asked else ("threads",),
        },
        frozen=True,
    )
    config.__module__, config.__qualname__ = function.__module__, function.__qualname__
    return config


def _kind(function: Callable[..., Any], name: str, default: Any) -> Any:
    """The type of an option: as it is annotated, where that can be read at run time, else its default's."""
    said = function.__annotations__.get(name, type(default))
    if not isinstance(said, str):
        return said
    try:
        return eval(said, function.__globals__)  # what typing.get_type_hints does, for one argument
    except NameError:  # imported for type checkers alone
        return type(default)
