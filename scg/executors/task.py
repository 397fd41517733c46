"""A task: a function with its arguments, and all that its result could depend on besides.

    perform(Task(function, arguments, seed, threads, dtype)) → Outcome(value or error)

The default generators of torch, numpy and Python are seeded from the task's own seed and put back afterwards; torch computes
with the task's number of threads in the task's default type. So the result depends neither on the process in which the task
runs, nor on the tasks before it there, nor on whether it runs a second time because its first worker died.

A task must be a function of its arguments and its seed, found by its module's name, and its result must be picklable.
"""

from __future__ import annotations

import pickle
import random
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

REPEATS = 3
"""how often a task is repeated whose worker died: one that kills every worker must come to an end"""


class ExecutorError(ValueError):
    """An executor that cannot be had as asked for. The message says what is missing, and what to do."""


class TaskError(RuntimeError):
    """A task raised an error that cannot be sent between processes; the message quotes it."""


class WorkerDied(RuntimeError):
    """A task whose workers died again and again."""


class HostDied(Exception):
    """The process of a worker or actor has ended; the message says how."""


@dataclass(frozen=True)
class Task:
    """`kind`: call the function; or make the host's object by it; or call the object's method of that name."""

    function: Callable[..., Any] | str
    arguments: tuple[Any, ...] = ()
    seed: int = 0
    threads: int = 1
    dtype: torch.dtype = field(default_factory=torch.get_default_dtype)
    kind: Literal["call", "make", "method"] = "call"

    @property
    def name(self) -> str:
        return self.function if isinstance(self.function, str) else getattr(self.function, "__qualname__", repr(self.function))


@dataclass(frozen=True)
class Outcome:
    """The end of a task: its value or its error."""

    value: Any = None
    error: Exception | None = None

    def result(self) -> Any:
        """The value. Raises the task's own error."""
        if self.error is not None:
            raise self.error
        return self.value


Objects = dict[str, Any]
"""What a host keeps between tasks: an actor's object."""


def perform(task: Task, objects: Objects | None = None) -> Outcome:
    """Run the task here, in its surroundings."""
    with surroundings(task.seed, task.threads, task.dtype):
        try:
            return Outcome(_called(task, {} if objects is None else objects))
        except Exception as error:  # whatever the task raises is its caller's
            return Outcome(error=error)


def _called(task: Task, objects: Objects) -> Any:
    if isinstance(task.function, str):
        return getattr(objects["object"], task.function)(*task.arguments)
    found = task.function(*task.arguments)
    if task.kind == "call":
        return found
    objects["object"] = found
    return None


@contextmanager
def surroundings(seed: int, threads: int, dtype: torch.dtype) -> Iterator[None]:
    """Seeded default generators, `threads` torch threads, `dtype` the default type; all put back at the end."""
    before = torch.default_generator.get_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    kept = torch.get_num_threads(), torch.get_default_dtype()
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  the task's, not ours
    random.seed(seed)
    _compute(threads, dtype)
    try:
        yield
    finally:
        _compute(*kept)
        torch.default_generator.set_state(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        random.setstate(before[2])


def _compute(threads: int, dtype: torch.dtype) -> None:
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)


def portable(outcome: Outcome) -> Outcome:
    """The outcome as it can be sent: an error that would not arrive is quoted in a TaskError."""
    if outcome.error is None:
        return outcome
    outcome.error.add_note("".join(["in a worker:\n", *traceback.format_exception(outcome.error)]))
    try:
        pickle.loads(pickle.dumps(outcome.error))
    except Exception:  # of any type: an error's class can define how it is pickled
        return Outcome(error=TaskError(f"{type(outcome.error).__name__}: {outcome.error}"))
    return outcome


def ended(code: int | None) -> str:
    """How a process ended, by its exit code."""
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


def died(task: Task, how: str) -> WorkerDied:
    return WorkerDied(
        f"task {task.name}: {1 + REPEATS} workers died with it, the last one: {how}. SIGKILL is what the system sends where "
        "memory is full: give fewer workers, or smaller tasks."
    )
