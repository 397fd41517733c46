"""SLURM through submitit: the tasks of one `stream` are one job array, of which `workers` run at a time.

    slurm:slurm_partition=cpu,timeout_min=120,folder=/shared/jobs      submitit's parameters, and where it keeps its files
    slurm:cluster=local                                                submitit's local executor: processes of this machine

`folder` must lie where this process and the nodes see it. A job that ends without a result (lost node, out of time) is submitted
again. There are no actors: a job may wait for hours, and would hold its node idle between calls. Use Ray inside an allocation.
"""

from __future__ import annotations

import ast
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import submitit
from submitit.core.utils import UncompletedJobError

from scg.executors.actor import Host
from scg.executors.executor import Executor
from scg.executors.task import REPEATS, ExecutorError, Outcome, Task, died, perform, portable

FOLDER = "runs/slurm"
LOOK = 0.05  # seconds between two looks at the jobs; submitit itself asks SLURM more seldom


@dataclass
class _Job:
    task: Task
    future: Future[Any] = field(default_factory=Future)
    job: Any = None
    repeats: int = 0


class Slurm(Executor):
    """`workers` jobs at a time, each of `threads` CPUs. Other options are submitit's."""

    def __init__(self, workers: int, threads: int = 1, folder: str = FOLDER, cluster: str = "slurm", **options: str) -> None:
        super().__init__(workers, threads)
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
            self._executor.update_parameters(cpus_per_task=threads, **{k: _value(v) for k, v in options.items()})
            if cluster == "slurm":
                self._executor.update_parameters(slurm_array_parallelism=workers)
        except (NameError, RuntimeError, TypeError, ValueError) as error:  # submitit's, of what it is given or does not find
            raise ExecutorError(f"executor 'slurm': {error}".strip()) from error
        # SLURM limits how many jobs of an array run at a time; submitit's local executor does not.
        self._most = workers if cluster != "slurm" else 10**9
        self._waiting: list[_Job] = []
        self._running: list[_Job] = []
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._holding = False
        self._thread: threading.Thread | None = None

    def run(self, task: Task) -> Future[Any]:
        job = _Job(task)
        with self._lock:
            self._waiting.append(job)
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return job.future

    @contextmanager
    def together(self) -> Iterator[None]:
        self._holding = True
        try:
            yield
        finally:
            self._holding = False

    def host(self) -> Host:
        raise ExecutorError("executor 'slurm' has no actors. Inside an allocation use --executor ray, or local.")

    def close(self) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
        for job in self._running:
            with suppress(Exception):  # it may have ended by now
                job.job.cancel(check=False)
        for job in [*self._running, *self._waiting]:
            job.future.cancel()

    def _watch(self) -> None:
        while not self._closed.is_set():
            try:
                self._submit()
            except Exception as error:  # SLURM refuses the jobs: their callers are told
                with self._lock:
                    refused, self._waiting = self._waiting, []
                for job in refused:
                    job.future.set_exception(ExecutorError(f"executor 'slurm': {error}"))
            for job in [job for job in self._running if job.job.done()]:
                self._running.remove(job)
                self._ended(job)
            time.sleep(LOOK)

    def _submit(self) -> None:
        with self._lock:
            room = 0 if self._holding else self._most - len(self._running)
            chosen, self._waiting = self._waiting[:room], self._waiting[room:]
        chosen = [job for job in chosen if job.repeats or job.future.set_running_or_notify_cancel()]
        if chosen:
            made = self._executor.map_array(_performed, [job.task for job in chosen])
            for job, submitted in zip(chosen, made, strict=True):
                job.job = submitted
            self._running += chosen

    def _ended(self, job: _Job) -> None:
        try:
            job.future.set_result(job.job.result().result())
        except UncompletedJobError as error:
            job.repeats += 1
            if job.repeats > REPEATS:
                job.future.set_exception(died(job.task, f"{error}".splitlines()[0]))
                return
            with self._lock:
                self._waiting.insert(0, job)
        except Exception as error:  # the task's own
            job.future.set_exception(error)


def _performed(task: Task) -> Outcome:
    return portable(perform(task))


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
