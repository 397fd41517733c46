"""The errors of environments."""

from __future__ import annotations


class EnvironmentFault(ValueError):
    """An environment that is missing, or that does not behave. The message says where, what was found, what to do."""


class FewInstances(EnvironmentFault):
    """An environment of which some instances were made, and then no more."""


class Exhausted(EnvironmentFault):
    """More instances of an environment than memory has room for."""


class EnvironmentFailed(EnvironmentFault):
    """An environment that was made and then misbehaved: which of the vector (None: all of it), when, and what was found."""

    def __init__(self, index: int | None, found: str, when: str = "") -> None:
        self.index, self.found, self.when = index, found, when
        who = "environments" if index is None else f"environment {index}"
        super().__init__(f"{who}, {when}: {found}" if when else f"{who}: {found}")

    def __reduce__(self) -> tuple[type[EnvironmentFailed], tuple[int | None, str, str]]:
        return type(self), (self.index, self.found, self.when)

    def at(self, when: str) -> EnvironmentFailed:
        """The same, with the time of the fault where none is known."""
        fault = type(self)(self.index, self.found, self.when or when)
        fault.__cause__ = self.__cause__
        return fault


class StepTimeout(EnvironmentFailed):
    """An environment that did not return from a call in time."""


def described(error: BaseException) -> str:
    """An exception's type and the first line of its message."""
    return f"{type(error).__name__}: {first_line(error)}" if str(error) else type(error).__name__


def first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
