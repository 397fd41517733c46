"""How an environment is made: its id, arguments for its constructor, wrappers around it. What a run keeps of it is text.

    my_env:Id-v0      see `scg.agents.environments.origin`
    module:Class      a wrapper, called with the environment; so path/to/file.py:Class

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

from scg import targets
from scg.agents.environments.faults import EnvironmentFault, described
from scg.targets import TargetError


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
    def code(self) -> list[tuple[str, str]]:
        """What of it lies in modules and files, which are imported to make it: its kind, and its target."""
        texts = [("environment", self.env_id), *(("wrapper", text) for text in self.wrappers)]
        return [(kind, text) for kind, text in texts if ":" in text]

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


def imported(place: str, what: str) -> ModuleType:
    """A module by its name or file. EnvironmentFault, which begins with `what`, where it cannot be imported."""
    if targets.is_file(place):
        try:
            return targets.module(place)
        except TargetError as error:
            raise EnvironmentFault(f"{what}: {error}") from error
    look_here()
    try:
        return import_module(place)
    except Exception as error:  # whatever the module does
        raise EnvironmentFault(f"{what}: module {place!r} cannot be imported: {error}") from error


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
