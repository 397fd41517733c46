"""`config.json` of a run: every option by name, typed, with the version of its layout.

    {"version": 3, "agent": …, "run": {…}, "config": {…}, "execution": {…}}      sections are dataclasses

The file decides what a resumed run does, so nothing is guessed: an option that is missing, unknown, or of another type is an
error that names it. Files of earlier versions go through `migrated` first.

Reading the file imports no code that it names: where `agent` is a target (`/path/to/file.py:Name`, `module:Name`), its section
stays `Unread` until the caller declares the run trusted.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from scg.agents import config_type, is_target, names
from scg.agents.common.agent import Agent, Config
from scg.agents.environments.faults import EnvironmentFault
from scg.agents.environments.recipe import Recipe
from scg.agents.execution.options import OptionError
from scg.agents.execution.settings import Execution
from scg.errors import nearest
from scg.targets import TargetError, with_whole_path

VERSION = 3
MOST = 2**16  # environments side by side


class RunError(ValueError):
    """A run directory that cannot be made, or is not one."""


@dataclass(frozen=True)
class RunConfig:
    """How long, on what, and what to keep. The same for every agent."""

    env: str = "CartPole-v1"
    """gymnasium's id of the environment; my_env:Name or path/to/file.py:Name: an id that is registered there, or a class or
    function that makes one"""
    env_kwargs: tuple[str, ...] = ()
    """arguments of the environment's constructor, name=value"""
    wrapper: tuple[str, ...] = ()
    """wrappers around every environment, module:Class or path/to/file.py:Class, the innermost first"""
    start: str = ""
    """a run, or a checkpoint's file, whose networks and normalisers this one starts from; optimisers are fresh"""
    steps: int = 100_000
    """environment steps in all"""
    seed: int = 0
    """everything random is derived from it"""
    envs: int = 8
    """environments stepped side by side"""
    action_bins: int = 0
    """quantise continuous actions: this many evenly spaced values in every dimension; 0 does not"""
    evaluations: int = 10
    """how often to evaluate, evenly spaced; the last one is at the end; 0 never does"""
    eval_episodes: int = 20
    """fresh episodes in each evaluation"""
    eval_actions: Literal["mode", "sample"] = "mode"
    """evaluate the most probable action, or sample as in training"""
    eval_steps: int = 10_000
    """an evaluation stops an episode after this many steps, and says so; 0 never does"""
    step_timeout: float = 0.0
    """seconds after which a call of an environment that has not returned stops the run; 0: it is waited for"""
    checkpoints: int = 10
    """how often to save after the start, evenly spaced; the last one is at the end"""
    keep_checkpoints: int = 2
    """how many of the newest checkpoints stay; 0 keeps all of them, as `scg overestimation` wants"""
    step_threads: int = 0
    """threads that step MuJoCo environments; 0: one for every four of them, as far as there are cores; changes no bit"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "env", with_whole_path(self.env))
        object.__setattr__(self, "wrapper", tuple(map(with_whole_path, self.wrapper)))
        if self.start:
            object.__setattr__(self, "start", str(Path(self.start).resolve()))
        self.recipe.kwargs()  # EnvironmentFault for what is no name=value
        for name in ("steps", "envs", "eval_episodes", "checkpoints"):
            if getattr(self, name) < 1:
                raise RunError(f"option {name} is {getattr(self, name)}. Give at least 1.")
        for name in ("envs", "eval_episodes"):
            if getattr(self, name) > MOST:
                raise RunError(f"option {name} is {getattr(self, name)}: one process steps them all. Give at most {MOST}.")
        for name in ("seed", "step_threads", "action_bins", "keep_checkpoints", "eval_steps", "evaluations", "step_timeout"):
            if getattr(self, name) < 0:
                raise RunError(f"option {name} is {getattr(self, name)}. Give at least 0.")

    @property
    def recipe(self) -> Recipe:
        return Recipe(self.env, self.env_kwargs, self.wrapper)


@dataclass(frozen=True)
class Unread:
    """The options of an agent whose code was not imported, by name, as they are in the file."""

    values: dict[str, Any]

    def build(self, *_: Any) -> Agent:
        raise RunError("an agent of one's own is built from a run that is opened with trusted=True, which imports its code.")


SECTIONS = ("run", "config", "execution")


class Settings(NamedTuple):
    """What a run is: its agent's name or target, and the three sections."""

    name: str
    run: RunConfig
    agent: Config
    execution: Execution


def written(settings: Settings) -> dict[str, Any]:
    """The content of `config.json`. RunError for a value that could not be read back."""
    name, *parts = settings
    sections = dict(zip(SECTIONS, map(options, parts), strict=True))
    for part, (section, values) in zip(parts, sections.items(), strict=True):
        if not isinstance(part, Unread):
            _typed(type(part), values, section, f"agent {name}")
    return {"version": VERSION, "agent": name, **sections}


def options(section: Any) -> dict[str, Any]:
    """The options of a section by name."""
    return section.values if isinstance(section, Unread) else dataclasses.asdict(section)


def read(content: Any, where: str, say: Callable[[str], None], trusted: bool = False) -> Settings:
    """Settings from the content of a `config.json`; `say` is told the values that its migration assumed.

    The code of a target is imported only if `trusted`.
    """
    content, assumed = migrated(content, where)
    for text in assumed:
        say(f"{where}: {text}")
    known = ("version", "agent", *SECTIONS)
    _refuse(content, known, known, where, "section")
    kinds = zip(SECTIONS, _kinds(content, where, trusted), strict=True)
    return Settings(content["agent"], *(_section(kind, content[name], name, where) for name, kind in kinds))


def is_of(file: Path, settings: Settings) -> bool:
    """Whether a `config.json` has these settings. No code that it names is imported. RunError where it cannot be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file}: it is damaged ({error}). Put back a copy, or remove its folder.") from error
    return migrated(content, f"{file}")[0] == json.loads(json.dumps(written(settings)))


def migrated(content: Any, where: str) -> tuple[dict[str, Any], list[str]]:
    """`content` of any earlier version in the present layout, and the values that were assumed for it."""
    if not isinstance(content, dict):
        raise RunError(f"{where}: found {_shown(content)}, expected an object. Train again.")
    version = content.get("version", 0)
    if type(version) is not int or not 0 <= version <= VERSION:
        raise RunError(f"{where}: version is {_shown(version)}, this scg reads versions up to {VERSION}. Update torch-scg.")
    assumed: list[str] = []
    for step in MIGRATIONS[version:]:
        content, said = step(content, where)
        assumed += said
    return content, assumed


def _from_0(content: dict[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """Before versions: a file had the options of its day, those of `Execution` among the agent's or the run's at first. What
    has been added since gets its default, and it is said."""
    _refuse(content, ("agent", *SECTIONS), ("agent", "run", "config"), where, "section")
    if isinstance(content["agent"], str) and is_target(content["agent"]):
        raise RunError(f"{where}: agent is {_shown(content['agent'])}, which files without a version cannot name. Train again.")
    kinds = dict(zip(SECTIONS, _kinds(content, where), strict=True))
    sections = {name: content.get(name, {}) for name in SECTIONS}
    for name, values in sections.items():
        if not isinstance(values, dict):
            raise RunError(f"{where}: section {name!r} is {_shown(values)}, expected an object.")
    sections = {name: dict(values) for name, values in sections.items()}
    if "execution" not in content:
        moved = {field.name for field in dataclasses.fields(Execution)}
        for name in ("run", "config"):
            for key in sections[name].keys() & moved - {field.name for field in dataclasses.fields(kinds[name])}:
                sections["execution"][key] = sections[name].pop(key)
    assumed = []
    for name, kind in kinds.items():
        for key, value in json.loads(json.dumps(dataclasses.asdict(kind()))).items():
            if key not in sections[name]:
                sections[name][key] = value
                assumed.append(f"{name}.{key} is missing from this file of an older scg; assumed: {_shown(value)}")
    return {"version": 1, "agent": content["agent"], **sections}, assumed


def _from_1(content: dict[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """Environments had neither arguments nor wrappers, and off-policy agents did not normalise observations."""
    changed = dict(content)
    if isinstance(changed.get("run"), dict):
        changed["run"] = {"env_kwargs": [], "wrapper": [], **changed["run"]}
    options = {field.name for field in dataclasses.fields(_kinds(content, where)[1])} if "agent" in content else set()
    if isinstance(changed.get("config"), dict) and "normalise_obs" in options:
        changed["config"] = {"normalise_obs": False, **changed["config"]}
    return {**changed, "version": 2}, []


def _from_2(content: dict[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """A3C's processes were called workers, as those of `--workers` are; every run started from fresh networks."""
    changed = dict(content)
    config = changed.get("config")
    if changed.get("agent") == "a3c" and isinstance(config, dict) and "workers" in config:
        changed["config"] = {"learners" if key == "workers" else key: value for key, value in config.items()}
    if isinstance(changed.get("run"), dict):
        changed["run"] = {"start": "", **changed["run"]}
    return {**changed, "version": 3}, []


MIGRATIONS = (_from_0, _from_1, _from_2)  # from version 0 to 1, …


def _kinds(content: dict[str, Any], where: str, trusted: bool = False) -> tuple[Any, Any, Any]:
    """The dataclasses of the three sections."""
    name = content["agent"]
    if not isinstance(name, str) or not name.isprintable() or not (is_target(name) or name in names()):
        hint = nearest(name, names()) if isinstance(name, str) else ""
        raise RunError(f"{where}: agent is {_shown(name)}, which is no agent of this scg.{hint}")
    if is_target(name) and not trusted:
        return RunConfig, Unread, Execution
    try:
        return RunConfig, config_type(name), Execution
    except TargetError as error:
        raise RunError(f"{where}: agent is {_shown(name)}: {error}") from error


def _section(kind: Any, values: Any, section: str, where: str) -> Any:
    if not isinstance(values, dict):
        raise RunError(f"{where}: section {section!r} is {_shown(values)}, expected an object.")
    if kind is Unread:
        return Unread(values)
    known = [field.name for field in dataclasses.fields(kind)]
    _refuse(values, known, known, where, f"{kind.__name__} has no option", section)
    given = _typed(kind, values, section, where)
    try:
        return kind(**given)
    except (EnvironmentFault, OptionError, RunError) as error:
        raise RunError(f"{where}: {error}") from error


def _refuse(values: dict[str, Any], known: Any, needed: Any, where: str, what: str, section: str = "") -> None:
    """RunError for what is unknown, then for what is missing."""
    for key in values:
        if key not in known:
            unknown = f"{what} {key!r}" if section else f"no {what} is called {key!r}"
            raise RunError(f"{where}: {unknown}.{nearest(key, known)} Was it made by another version?")
    for key in needed:
        if key not in values:
            name = f"{section}.{key}" if section else key
            raise RunError(f"{where}: {name} is missing, expected {'a value for it' if section else 'it'}. Put it back.")


def _typed(kind: Any, values: dict[str, Any], section: str, where: str) -> dict[str, Any]:
    hints = get_type_hints(kind)
    found = {}
    for key, value in values.items():
        try:
            found[key] = typed_value(value, hints[key])
        except TypeError:
            raise RunError(
                f"{where}: {section}.{key} is {_shown(value)}, expected {spelt(hints[key])}. Correct it there."
            ) from None
    return found


def typed_value(value: Any, kind: Any) -> Any:
    """`value` as a `kind`. TypeError for a value of another type: a bool is not a number here, and 5.5 not an integer."""
    origin, options = get_origin(kind), get_args(kind)
    if kind is float and type(value) is not bool and isinstance(value, int | float):
        return float(value)
    if kind in (bool, int, NoneType) and type(value) is kind:
        return value
    if kind is str and isinstance(value, str) and value.isprintable():  # it will be printed
        return value
    if origin is Literal and any(type(value) is type(option) and value == option for option in options):
        return value
    if origin is tuple and options[1:] == (Ellipsis,) and isinstance(value, list | tuple):
        return tuple(typed_value(each, options[0]) for each in value)
    if origin in (Union, UnionType):
        for option in options:
            try:
                return typed_value(value, option)
            except TypeError:
                continue
    raise TypeError


def spelt(kind: Any) -> str:
    names = {bool: "true or false", int: "an integer", float: "a number", str: "printable text", NoneType: "null"}
    origin, options = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(_shown(option) for option in options)
    if origin is tuple:
        return f"a list, of each entry {spelt(options[0])}"
    if origin in (Union, UnionType):
        return " or ".join(map(spelt, options))
    return names.get(kind, f"{kind}")


def _shown(value: Any) -> str:
    """The value as JSON, without characters that control a terminal."""
    text = json.dumps(value, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}…"
