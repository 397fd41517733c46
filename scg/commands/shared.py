"""What every command shares: a fault that a user can mend is one message on standard error, and an exit code.

A command is a function that takes the arguments after its name and returns an exit code; a dataclass, read by tyro, is its
options. `reporting` wraps it: what argument errors and `--help` leave with becomes the code, and an exception of which
`fault_of` has something to say becomes its text. `reported` is this for the commands of the core; packages above it have
faults of their own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps

from scg.executors import WorkerDied

Command = Callable[[list[str]], int]
Fault = tuple[int, str]


def reporting(fault_of: Callable[[Exception], Fault | None]) -> Callable[[Command], Command]:
    """A decorator: faults that a user can mend are one message, not a traceback. `fault_of` gives the exit code and the text of
    such a fault, and None for one that is ours."""

    def decorate(command: Command) -> Command:
        @wraps(command)
        def run(argv: list[str]) -> int:
            try:
                return command(argv)
            except SystemExit as leave:  # argument errors and --help
                return leave.code if isinstance(leave.code, int) else 2 if leave.code else 0
            except Exception as error:
                fault = fault_of(error)
                if fault is None:
                    raise
                code, text = fault
                print(text, file=sys.stderr)
                return code

        return run

    return decorate


def fault_of(error: Exception) -> Fault | None:
    """Of the core's commands. Their graphs, targets and executors say in a ValueError which argument makes no sense."""
    return (2, f"error: {error}") if isinstance(error, OSError | ValueError | WorkerDied) else None


reported = reporting(fault_of)
