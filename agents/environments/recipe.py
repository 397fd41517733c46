"""How an environment is made: its id, arguments for its constructor, wrappers around it. What a run keeps of it is text.

    my_env:Id-v0      importing my_env registers Id-v0            module:Class      a wrapper, called with the environment

Modules are looked for where Python finds them and in the current folder, as `scg draw` does.
"""

from __future__ import annotations

import ast
import os
import sys
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import gymnasium as gym

from scg.agents.environments.faults import EnvironmentFault, described


@dataclass(frozen=True)
class Recipe:
    env_id: str
    arguments: tuple[str, ...] = ()
    """`name=value`, a value as Python writes it, or a word"""
    wrappers: tuple[str, ...] = ()
    """`module:Class`, the innermost first"""

    def __str__(self) -> str:
        return self.env_id

    def kwargs(self) -> dict[str, Any]:
        """EnvironmentFault for what is no `name=value`."""
        found: dict[str, Any] = {}
        for text in self.arguments:
            name, equals, value = text.partition("=")
            if not equals or not name.isidentifier():
                raise EnvironmentFault(
                    f"option env_kwargs: {text!r}. Say name=value, as in --env-kwargs gravity=9.8 mode=easy."
                )
            if name in found:
                raise EnvironmentFault(f"option env_kwargs: {name!r} is given twice. Say it once.")
            found[name] = _value(value)
        return found

    @property
    def modules(self) -> list[str]:
        """What is imported to make it."""
        return [text.rpartition(":")[0] for text in (self.env_id, *self.wrappers) if ":" in text]

    def wrapped(self, env: gym.Env) -> gym.Env:
        """`env` in its wrappers. EnvironmentFault for one that is not there, or that makes no environment."""
        for text in self.wrappers:
            module, colon, name = text.rpartition(":")
            if not colon:
                raise EnvironmentFault(
                    f"option wrapper: {text!r}. Say module:Class, as in gymnasium.wrappers:FlattenObservation."
                )
            make = getattr(imported(module, f"wrapper {text!r}"), name, None)
            if not callable(make):
                raise EnvironmentFault(f"wrapper {text!r}: module {module!r} has no class {name!r}. Correct the name.")
            try:
                env = make(env)
            except Exception as error:  # whatever the wrapper does
                raise EnvironmentFault(
                    f"wrapper {text!r} cannot wrap {self.env_id!r}: {described(error)}. It is called with the environment alone: "
                    "a function of your module can give it more."
                ) from error
            if not isinstance(env, gym.Env):
                raise EnvironmentFault(f"wrapper {text!r} returned {type(env).__name__}. It must return an environment.")
        return env


def recipe(env: str | Recipe) -> Recipe:
    return env if isinstance(env, Recipe) else Recipe(env)


def imported(module: str, what: str) -> ModuleType:
    """EnvironmentFault, which begins with `what`, where a module cannot be imported."""
    look_here()
    try:
        return import_module(module)
    except Exception as error:  # whatever the module does
        raise EnvironmentFault(f"{what}: module {module!r} cannot be imported: {error}") from error


def look_here() -> None:
    """From now on modules of the current folder are found, before all others, unless PYTHONSAFEPATH forbids it."""
    here = os.getcwd()
    if not os.environ.get("PYTHONSAFEPATH") and not {"", here}.intersection(sys.path):
        sys.path.insert(0, here)


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
