"""In process: a task runs where it is submitted, at once. `stream` runs one when its result is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from scg.executors.executor import Executor
from scg.executors.task import Objects, Outcome, Task, perform

T = TypeVar("T")


class InProcess(Executor):
    """One worker, which is this process."""

    elsewhere = False

    def run(self, task: Task) -> Future[Any]:
        future: Future[Any] = Future()
        outcome = perform(task)
        if outcome.error is not None:
            future.set_exception(outcome.error)
        else:
            future.set_result(outcome.value)
        return future

    def stream(self, function: Callable[..., T], tasks: Iterable[tuple[Any, ...]], seed: int = 0) -> Iterator[tuple[int, T]]:
        for index, task in enumerate(tasks):
            yield index, self.submit(function, *task, seed=seed + index).result()

    def host(self) -> Here:
        return Here()

    def close(self) -> None:
        pass


class Here:
    """A host that is this process."""

    def __init__(self) -> None:
        self.objects: Objects = {}

    def perform(self, task: Task) -> Outcome:
        return perform(task, self.objects)

    def close(self) -> None:
        self.objects.clear()
