"""The interface of executors. An engine defines `submit`, `host` and `close`; the rest is shared.

    submit(function, *arguments, seed) → Future         stream(function, tasks) → (index, result), as they end
    actor(make, *arguments, seed) → Actor               map(function, tasks) → results, in the tasks' order

Contract: whatever the engine, the number of workers, or the deaths of workers, the results are the same bits. A task that
raises does so in its caller, with its own error; a task whose worker dies is repeated, from its own seed, on another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, as_completed
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

from scg.executors.actor import Actor, Caller, Host
from scg.executors.task import ExecutorError, Task

T = TypeVar("T")


class Executor(ABC):
    """`workers` tasks at a time, each with `threads` threads. Close with `close()`, or use as a context manager."""

    elsewhere: ClassVar[bool] = True
    """whether tasks run in other processes; where they do not, they may use what this one has"""

    def __init__(self, workers: int = 1, threads: int = 1) -> None:
        for name, value in (("workers", workers), ("threads", threads)):
            if value < 1:
                raise ExecutorError(f"option {name} is {value}. Give at least 1.")
        self.workers, self.threads = workers, threads

    @abstractmethod
    def run(self, task: Task) -> Future[Any]:
        """Start the task, or queue it. The future has its value or its error."""

    @abstractmethod
    def host(self) -> Host:
        """A process of an actor's own, beside the workers."""

    @abstractmethod
    def close(self) -> None:
        """End all workers and actors, whatever they are doing, and what else the engine has started."""

    def together(self) -> AbstractContextManager[None]:
        """Tasks that are submitted inside may start together, at the end of the block."""
        return nullcontext()

    def submit(self, function: Callable[..., T], *arguments: Any, seed: int = 0) -> Future[T]:
        """`function(*arguments)`, with the default generators seeded by `seed`."""
        return self.run(Task(function, arguments, seed, self.threads))

    def stream(self, function: Callable[..., T], tasks: Iterable[tuple[Any, ...]], seed: int = 0) -> Iterator[tuple[int, T]]:
        """`(index, function(*tasks[index]))` as the tasks end. Task `index` is seeded by `seed + index`. The first error
        that is met is raised, and tasks that have not begun are dropped."""
        with self.together():
            indices = {self.submit(function, *task, seed=seed + i): i for i, task in enumerate(tasks)}
        try:
            for future in as_completed(indices):
                yield indices[future], future.result()
        finally:
            for future in indices:
                future.cancel()

    def map(self, function: Callable[..., T], tasks: Iterable[tuple[Any, ...]], seed: int = 0) -> Iterator[T]:
        """The results in the tasks' order, each as soon as it and those before it are there."""
        early: dict[int, T] = {}
        upcoming = 0
        for index, result in self.stream(function, tasks, seed):
            early[index] = result
            while upcoming in early:
                yield early.pop(upcoming)
                upcoming += 1

    def actor(self, make: Callable[..., Any], *arguments: Any, seed: int = 0) -> Actor:
        """The object `make(*arguments)`, in a process of its own. Its calls run one after the other, in their order."""
        calls = None if self.elsewhere else Caller()
        return Actor(self.host(), Task(make, arguments, seed, self.threads, kind="make"), calls)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
