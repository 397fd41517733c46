"""Actors: objects with a state, each in a process of its own, that outlive the process.

    actor = executor.actor(make, *arguments)      actor.call("method", *arguments) → Future      actor.checkpoint()

An actor's state is a function of `make`, its arguments and the calls so far. Where its process dies, another one makes the
object again and repeats those calls; then it answers the call that was lost. Call n is seeded by the actor's seed + n, so the same
calls give the same bits. The repetition takes as long as the calls did: an object that has `state_dict` and `load_state_dict`
can be told to `checkpoint()` now and then, after which only later calls are repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor as Calls
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol

from scg.executors.task import REPEATS, HostDied, Outcome, Task, died


class Host(Protocol):
    """A process that performs tasks one after the other. It starts with the first."""

    def perform(self, task: Task) -> Outcome:
        """HostDied where the process ends before it answers; the next task then starts another process."""

    def close(self) -> None:
        """End the process."""


class Caller(Calls):
    """Runs a call at once, in the thread of its caller: for a host that is this process, whose default generators the caller
    has too."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments, **named))
        except Exception as error:
            future.set_exception(error)
        return future


class Actor:
    """Made by `Executor.actor`. `close()` ends its process."""

    def __init__(self, host: Host, make: Task, calls: Calls | None = None) -> None:
        """`calls` runs its calls one after the other, by default in a thread that waits for the host."""
        self._host, self._make = host, make
        self._log: list[Task] = []  # the calls since the object was made, or its state was saved
        self._state: Any = None
        self._calls, self._alive = 0, False
        self._queue = calls or ThreadPoolExecutor(1, "actor")

    def call(self, method: str, *arguments: Any) -> Future[Any]:
        """`object.method(*arguments)`, after the calls before it."""
        self._calls += 1
        task = replace(self._make, function=method, arguments=arguments, seed=self._make.seed + self._calls, kind="method")
        return self._queue.submit(self._called, task)

    def checkpoint(self) -> Future[None]:
        """Save the object's state here, so that a repetition starts from it."""
        return self._queue.submit(self._save)

    def close(self) -> None:
        self._host.close()
        self._queue.shutdown(wait=True, cancel_futures=True)

    def _called(self, task: Task) -> Any:
        outcome = self._performed(task)
        self._log.append(task)
        return outcome.result()

    def _save(self) -> None:
        self._state = self._performed(self._method("state_dict")).result()
        self._log.clear()

    def _method(self, name: str, *arguments: Any) -> Task:
        return replace(self._make, function=name, arguments=arguments, kind="method")

    def _performed(self, task: Task) -> Outcome:
        how = ""
        for _ in range(1 + REPEATS):
            try:
                if not self._alive:
                    self._host.perform(self._make).result()
                    if self._state is not None:
                        self._host.perform(self._method("load_state_dict", self._state)).result()
                    for earlier in self._log:
                        self._host.perform(earlier)
                    self._alive = True
                return self._host.perform(task)
            except HostDied as death:
                how, self._alive = str(death), False
        raise died(task, how)
