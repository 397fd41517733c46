"""Checks of options: an invalid one is refused by name, before anything is built."""

from __future__ import annotations

from typing import Any


class OptionError(ValueError):
    """A hyperparameter that makes no sense. The message says which, what was found, what it may be."""


def check_options(config: Any, at_least_one: str = "", at_least_zero: str = "", unit: str = "", above_zero: str = "") -> None:
    """OptionError unless the named fields are ≥ 1, ≥ 0, in [0, 1], or > 0."""
    bounds = [(at_least_one, 1, float("inf")), (at_least_zero, 0, float("inf")), (unit, 0, 1)]
    for names, low, high in bounds:
        for name in names.split():
            value = getattr(config, name)
            if not low <= value <= high:
                span = f"between {low} and {high}" if high == 1 else f"at least {low}"
                raise OptionError(f"option {name} is {value}. Give a number {span}.")
    for name in above_zero.split():
        value = getattr(config, name)
        if not value > 0:
            raise OptionError(f"option {name} is {value}. Give a number above 0.")
