"""Ray Core: the tasks are Ray's, which repeats those whose worker dies.

without an address    a cluster of this machine with `workers` slots: no dashboard, no usage statistics, nothing fetched, and a
                      token of its own, drawn at random, without which nobody can talk to it (unless RAY_AUTH_MODE or a
                      token is set): Ray listens on all interfaces; it and its files end with the executor
address=…             an existing cluster (also RAY_ADDRESS), whose nodes have scg; Ray's own settings count, its token too
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, WorkerCrashedError

from scg.executors.executor import Executor
from scg.executors.local_pool import THREADS
from scg.executors.task import REPEATS, ExecutorError, HostDied, Objects, Outcome, Task, died, perform, portable

TOKEN = "RAY_AUTH_TOKEN"
STARTS = 3  # a busy machine may miss Ray's deadline once
STORE = 128 * 2**20  # bytes of the object store; tasks and results are small
HERMETIC = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", **dict.fromkeys(THREADS, "1")}
AUTH = ("RAY_AUTH_MODE", TOKEN, "RAY_AUTH_TOKEN_PATH")
_token = secrets.token_hex(32)  # of all clusters of this process: Ray's client reads it once


class RayCore(Executor):
    """`workers` of Ray's slots, each of `threads` CPUs."""

    def __init__(self, workers: int, threads: int = 1, address: str = "") -> None:
        super().__init__(workers, threads)
        self.folder, self._began = "", not ray.is_initialized()
        self._open: set[Any] = set()
        self._before = {name: os.environ.get(name) for name in (*HERMETIC, *AUTH)}
        address = address or os.environ.get("RAY_ADDRESS", "")
        if self._began:
            self._start(address)
        self._perform = ray.remote(_performed).options(num_cpus=threads, max_retries=REPEATS, retry_exceptions=False)

    def _start(self, address: str) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "configure_logging": False}
        if address:
            options |= {"address": address, "runtime_env": {"env_vars": dict.fromkeys(THREADS, "1")}}
        else:
            os.environ.update(HERMETIC)
            if not any(name in os.environ for name in AUTH):
                os.environ[TOKEN] = _token  # with it Ray asks for it, without a file in the home directory
            self.folder = tempfile.mkdtemp(prefix="ray-")  # a short path: sockets lie in it
            options |= {"num_cpus": self.workers * self.threads, "include_dashboard": False, "object_store_memory": STORE}
            options["_temp_dir"] = self.folder
        for attempt in range(STARTS):
            try:
                logging.getLogger("ray").setLevel(logging.ERROR)  # it advises about tokens
                ray.init(**options)
                return
            except Exception as error:  # of many types: a start that takes more than 30 s is a plain Exception
                ray.shutdown()
                if attempt + 1 < STARTS and not address:
                    continue
                self.close()
                where = f"address={address}" if address else "a cluster of its own"
                raise ExecutorError(f"executor 'ray', {where}: it cannot start ({error}).") from error

    def run(self, task: Task) -> Future[Any]:
        reference = self._perform.remote(task)
        self._open.add(reference)
        inner: Future[Outcome] = reference.future()
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()

        def pass_on(done: Future[Outcome]) -> None:
            self._open.discard(reference)
            try:
                future.set_result(done.result().result())
            except WorkerCrashedError as error:
                future.set_exception(died(task, f"{error}".splitlines()[0]))
            except Exception as error:  # the task's own
                future.set_exception(error)

        inner.add_done_callback(pass_on)
        return future

    def host(self) -> RayHost:
        return RayHost()

    def close(self) -> None:
        for reference in list(self._open):  # a cluster that is not ours would go on with them
            with suppress(RayError):
                ray.cancel(reference, force=True)
        if self._began and ray.is_initialized():
            ray.shutdown()
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def _performed(task: Task) -> Outcome:
    return portable(perform(task))


class _Room:
    """An actor's object, in a process of Ray's."""

    def __init__(self) -> None:
        self.objects: Objects = {}

    def perform(self, task: Task) -> Outcome:
        return portable(perform(task, self.objects))


class RayHost:
    """One of Ray's actors, made again after its death."""

    def __init__(self) -> None:
        self._room: Any = None

    def perform(self, task: Task) -> Outcome:
        if self._room is None:
            self._room = ray.remote(_Room).options(num_cpus=0, max_restarts=0).remote()
        try:
            return ray.get(self._room.perform.remote(task))
        except RayActorError as error:
            self._room = None
            raise HostDied(f"{error}".splitlines()[0]) from error

    def close(self) -> None:
        if self._room is not None:
            with suppress(RayError):
                ray.kill(self._room)
            self._room = None
