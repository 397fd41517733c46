"""What a sweep searches: options of an agent or a run, each with a range or a list of values.

lr=loguniform(1e-5,1e-2)    gamma=uniform(0.9,0.999)    horizon=int(16,256)    population=logint(4,256)
clip=0.1,0.2,0.3            policy=gaussian,beta        hidden=64x64,256x256   normalise_obs=true,false
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from scg.agents.common.agent import Config
from scg.agents.training.run_config import RunConfig, RunError, spelt, typed_value
from scg.errors import nearest

RANGES = ("uniform", "loguniform", "int", "logint")
FIXED = ("env", "env_kwargs", "wrapper", "seed", "steps", "evaluations")  # what makes trials comparable
Value = float | int | str


@dataclass(frozen=True)
class Dimension:
    """One option. `choices` are texts; without them it is a range."""

    name: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    choices: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        return self.kind.endswith("int")

    @property
    def log(self) -> bool:
        return self.kind.startswith("log")


def dimension(text: str, agent: type[Any]) -> Dimension:
    """`NAME=RANGE(low,high)` or `NAME=value,value,…`. RunError says what is wrong with it."""
    name, equals, what = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not what:
        raise RunError(f"option search: {text!r}. Say name=loguniform(1e-5,1e-2), uniform, int or logint, or name=value,value.")
    hints = _hints(agent)
    if name not in hints:
        raise RunError(f"option search: {agent.__name__} and the run have no option {name!r}.{nearest(name, hints)}")
    called = re.fullmatch(r"(\w+)\(([^,()]+),([^,()]+)\)", what.replace(" ", ""))
    if called is None:
        if "(" in what:
            raise RunError(f"option search: {text!r}. There are {', '.join(RANGES)}, each of two numbers.")
        found = Dimension(name, "choice", choices=tuple(word.strip() for word in what.split(",")))
        if len(set(found.choices)) < len(found.choices):
            raise RunError(f"option search: {text!r} has a value twice. Say it once.")
        for choice in found.choices:
            _converted(choice, hints[name], text)
        return found
    kind, *ends = called.groups()
    if kind not in RANGES:
        raise RunError(f"option search: {kind!r} is no range.{nearest(kind, RANGES)} There are {', '.join(RANGES)}.")
    try:
        low, high = map(float, ends)
    except ValueError:
        raise RunError(f"option search: {text!r}: the ends of a range are numbers.") from None
    found = Dimension(name, kind, low, high)
    if not low < high or (found.log and low <= 0) or (found.whole and (low % 1 or high % 1)):
        rule = "whole numbers, " if found.whole else ""
        raise RunError(f"option search: {text!r}: give {rule}low < high{', above 0' if found.log else ''}.")
    typed(found, int(low) if found.whole else low, agent)
    return found


def typed(dimension: Dimension, value: Value, agent: type[Any]) -> Any:
    """A proposed value as its option has it. RunError where the option is of another type."""
    hint = _hints(agent)[dimension.name]
    return _converted(value, hint, f"{dimension.name}={value}")


def applied(values: dict[str, Any], run: RunConfig, config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """`values` in two parts: those of the run, and those of the agent's config. An option that both have is the config's."""
    own = {field.name for field in fields(config)}  # type: ignore[arg-type]
    return {k: v for k, v in values.items() if k not in own}, {k: v for k, v in values.items() if k in own}


def _hints(agent: type[Any]) -> dict[str, Any]:
    """The types of the options that can be searched, by name."""
    found: dict[str, Any] = {}
    for kind in (RunConfig, agent):
        known = get_type_hints(kind)
        found |= {field.name: known[field.name] for field in fields(kind) if kind is agent or field.name not in FIXED}
    return found


def _converted(value: Value, hint: Any, text: str) -> Any:
    candidates: list[Any] = [value]
    if isinstance(value, str):
        candidates = [{"true": True, "false": False, "none": None}.get(value.lower(), value)]
        if "x" in value:
            candidates.insert(0, tuple(_literal(part) for part in value.split("x")))
        candidates += [_literal(value), (_literal(value),)]
    for candidate in candidates:
        try:
            return typed_value(candidate, hint)
        except TypeError:
            continue
    raise RunError(f"option search: {text!r}: {value!r} is not {spelt(hint)}.")


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
