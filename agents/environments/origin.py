"""What the name of an environment leads to. Every command, and every vector of environments, makes them from here.

    CartPole-v1                           registered with gymnasium
    my_env:Id-v0, path/to/file.py:Id-v0   the module or file registers Id-v0
    my_env:Class, path/to/file.py:Class   a class or function there that makes one, called with the arguments of the run
    given/Name                            what `scg.train` was given, where it has no such name: of this process alone

An object that has one of the first three names is recorded by it, so another process makes it again. One that has none
(a lambda, a function inside a function, an environment that was made) has to be given once more to go on or to be evaluated,
and an environment that was made is one: there is no second one beside it, so it is not evaluated while it is trained on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from scg import targets
from scg.agents.environments import robotics
from scg.agents.environments.faults import EnvironmentFault
from scg.agents.environments.recipe import imported
from scg.targets import TargetError

GIVEN = "given/"


@dataclass(frozen=True)
class Origin:
    name: str
    make: Callable[..., gym.Env]  # takes the constructor's arguments, and gymnasium.make's own
    spec: EnvSpec | None = None  # as it is registered; None where no registration says anything about it

    def described(self) -> dict[str, Any]:
        """What of a result depends on it, as plain values."""
        if self.spec is None:
            return {
                "id": self.name,
                "entry_point": self.name,
                "kwargs": {},
                "max_episode_steps": None,
                "reward_threshold": None,
            }
        return {
            "id": self.spec.id,
            "entry_point": str(self.spec.entry_point),
            "kwargs": {name: repr(value) for name, value in self.spec.kwargs.items()},
            "max_episode_steps": self.spec.max_episode_steps,
            "reward_threshold": self.spec.reward_threshold,
        }


def origin(env: str) -> Origin:
    """EnvironmentFault for a name that leads to nothing."""
    if env in _given:
        return Origin(env, _given[env][1])
    if env.startswith(GIVEN):
        raise EnvironmentFault(
            f"environment {env!r} was given to scg.train as an object, and only the process that has it can make it. Give it "
            "again, from Python: scg.resume(run, env=…), scg.load(run, env=…). A class or function at the top of a file needs "
            "no such thing: path/to/file.py:Name."
        )
    place, _, name = env.rpartition(":")
    home = imported(place, f"environment {env!r}") if place else None
    if not robotics.prepare(env):
        raise EnvironmentFault(f"environment {env!r} is one of gymnasium-robotics'. Remedy: pip install 'torch-scg[robotics]'")
    try:
        return Origin(env, partial(gym.make, name), gym.spec(name))
    except gym.error.Error as error:
        maker = getattr(home, name, None)
        if callable(maker):
            return Origin(env, partial(_called, maker))
        near = nearest(name)
        hint = f" Nearest: {', '.join(near)}." if near else " Install the package that registers it."
        hint = f" Nor has {place} a class or function {name!r}. Correct the name." if place and not near else hint
        hint += "" if place else " If a module registers it, say module:Id, as in my_env:Id-v0."
        raise EnvironmentFault(f"environment {env!r} is not registered with gymnasium.{hint}") from error


def _called(make: Callable[..., Any], max_episode_steps: int | None = None, **kwargs: Any) -> gym.Env:
    """`max_episode_steps` is gymnasium.make's, which limits what has a limit: this has none."""
    made = make(**kwargs)
    if not isinstance(made, gym.Env):
        raise TypeError(f"it returned {type(made).__name__}, no gymnasium.Env")
    return made


def nearest(name: str, count: int = 3) -> list[str]:
    """Registered ids like `name`, whatever its case; the newest version of a name first."""
    by_lower = {known.lower(): known for known in sorted(gym.registry)}
    stem = name.lower().rpartition("-v")[0] or name.lower()
    same = [known for lower, known in by_lower.items() if lower.rpartition("-v")[0] == stem][::-1]
    close = [by_lower[match] for match in get_close_matches(name.lower(), by_lower, n=count, cutoff=0.6)]
    return list(dict.fromkeys(same + close))[:count]


# -- objects -----------------------------------------------------------------------------------------------------------

_given: dict[str, tuple[Any, Callable[..., gym.Env]]] = {}  # by the name in a run's configuration: what was given, its maker


def is_given(env: str) -> bool:
    """Whether this process has the object behind the name."""
    return env in _given


def give(thing: Any, name: str | None = None) -> str:
    """What stands for an environment's class, function or instance in a run's configuration: its target where it has one, else
    `given/Name`. A run that was recorded under `name` is given what it needs to go on."""
    if isinstance(thing, str):
        return targets.with_whole_path(thing)
    if not isinstance(thing, gym.Env) and not callable(thing):
        raise EnvironmentFault(
            f"env is a {type(thing).__name__}. Give an id of gymnasium, path/to/file.py:Name, a class or function that makes an "
            "environment, or an environment."
        )
    name = name or next((known for known, (other, _) in _given.items() if other is thing), None) or _name_of(thing)
    if name not in _given or _given[name][0] is not thing:
        _given[name] = thing, _One(thing) if isinstance(thing, gym.Env) else partial(_called, thing)
    return name


def _name_of(thing: Any) -> str:
    if not isinstance(thing, gym.Env):
        try:
            target = targets.place_of(thing, "environment")
            if _leads_to(thing):
                return target
        except TargetError:  # no other process finds it
            pass
    stem = getattr(thing, "__name__", type(thing).__name__).strip("<>")
    taken = [name for name in _given if name == f"{GIVEN}{stem}" or name.startswith(f"{GIVEN}{stem}-")]
    return f"{GIVEN}{stem}-{len(taken) + 1}" if taken else f"{GIVEN}{stem}"


def _leads_to(thing: Any) -> bool:
    """Whether what is under its name in its module is the thing itself: of a bound method, say, it is not."""
    found: Any = sys.modules.get(thing.__module__)
    for part in thing.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is thing


class _One:
    """An environment that was made: lent to one vector at a time, and left open by it."""

    def __init__(self, env: gym.Env) -> None:
        self.env, self.lent = env, False

    def __call__(self, max_episode_steps: int | None = None, **kwargs: Any) -> gym.Env:
        if kwargs:
            raise TypeError(f"it is made already, so it takes no argument {', '.join(kwargs)}")
        if self.lent:
            raise RuntimeError("it is one object, in use already. Give the class or function that makes it")
        self.lent = True
        return Lent(self)


class Lent(gym.Wrapper):
    def __init__(self, owner: _One) -> None:
        super().__init__(owner.env)
        self._owner = owner

    def close(self) -> None:
        """It goes back to whoever gave it, open."""
        self._owner.lent = False
