"""A pool of processes on this machine, each pinned to cores of its own where there are enough.

    submit → thread of the pool ⇄ pipe ⇄ worker process          a thread waits for each worker; the process computes

Workers are forked from a server process that has imported what this process has of scg, and has done nothing else: they start
in milliseconds, and share no lock, thread or generator with this process. Which worker takes a task is left to chance. Where
one dies, its thread starts another and repeats the task. A worker whose parent dies ends.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import forkserver, get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any

from scg.executors.executor import Executor
from scg.executors.task import REPEATS, HostDied, Objects, Outcome, Task, died, ended, perform, portable

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # read when a library is loaded
_starting = threading.Lock()


class LocalPool(Executor):
    """`workers` processes of `threads` threads each."""

    def __init__(self, workers: int, threads: int = 1) -> None:
        super().__init__(workers, threads)
        self._threads = ThreadPoolExecutor(workers, "executor")
        self._hosts = [ProcessHost(threads, cores) for cores in shares(workers, threads)]
        self._idle: queue.SimpleQueue[ProcessHost] = queue.SimpleQueue()
        for host in self._hosts:
            self._idle.put(host)

    def run(self, task: Task) -> Future[Any]:
        return self._threads.submit(self._performed, task)

    def _performed(self, task: Task) -> Any:
        host, how = self._idle.get(), ""
        try:
            for _ in range(1 + REPEATS):
                try:
                    return host.perform(task).result()
                except HostDied as death:
                    how = str(death)
        finally:
            self._idle.put(host)
        raise died(task, how)

    def host(self) -> ProcessHost:
        host = ProcessHost(self.threads)
        self._hosts.append(host)
        return host

    def close(self) -> None:
        for host in self._hosts:
            host.close()
        self._threads.shutdown(wait=True, cancel_futures=True)


def shares(workers: int, threads: int) -> list[tuple[int, ...]]:
    """The cores of each worker: `threads` of its own, or any (an empty tuple) where there are not enough for all."""
    cores = sorted(os.sched_getaffinity(0))
    if workers * threads > len(cores):
        return [()] * workers
    return [tuple(cores[i * threads : (i + 1) * threads]) for i in range(workers)]


class ProcessHost:
    """One worker process, started with its first task, and again after its death."""

    def __init__(self, threads: int, cores: Sequence[int] = ()) -> None:
        self.threads, self.cores = threads, cores
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._closed, self._lock = False, threading.Lock()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def perform(self, task: Task) -> Outcome:
        message = pickle.dumps(task)  # here: what cannot be pickled is the caller's fault, and kills no worker
        with self._lock:
            if self._closed:
                raise RuntimeError("the executor is closed")
            if self._process is None:
                self._start()
        process, pipe = self._process, self._pipe
        assert process is not None
        assert pipe is not None
        try:
            pipe.send_bytes(message)
            return pickle.loads(pipe.recv_bytes())
        except (EOFError, OSError) as gone:
            process.join()
            pipe.close()
            with self._lock:
                self._process = None
                if self._closed:
                    raise RuntimeError("the executor was closed while the task ran") from gone
            raise HostDied(ended(process.exitcode)) from gone

    def _start(self) -> None:
        start_server()
        context = get_context("forkserver")
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, self.cores))  # no daemon: a task may have processes of its own
        process.start()
        theirs.close()  # so that the worker's end is the end of the pipe
        self._process, self._pipe = process, ours
        Finalize(self, process.terminate, exitpriority=1)  # before this process, at its end, waits for its children

    def close(self) -> None:
        with self._lock:
            self._closed, process = True, self._process
        if process is None:
            return
        for _ in range(10):  # a task may take the first signal as a wish to stop soon, the second to stop now
            process.terminate()
            process.join(timeout=0.5)
            if process.exitcode is not None:
                return
        process.kill()
        process.join()


def start_server() -> None:
    """The process that workers are forked from: one for this process, which ends with it. Its libraries' own threads are one,
    so that numpy's products have the same bits everywhere; torch's threads are set with each task."""
    with _starting:
        before = {name: os.environ.get(name) for name in THREADS}
        os.environ.update(dict.fromkeys(THREADS, "1"))
        get_context("forkserver").set_forkserver_preload([__name__, *sorted(m for m in sys.modules if m.startswith("scg."))])
        try:
            forkserver.ensure_running()
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def serve(pipe: Connection, cores: Sequence[int]) -> None:
    """The worker: performs tasks until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    if cores:
        os.sched_setaffinity(0, cores)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    objects: Objects = {}
    while True:
        try:
            message = pipe.recv_bytes()
        except EOFError:
            return
        try:
            outcome = perform(pickle.loads(message), objects)
            answer = pickle.dumps(portable(outcome))
        except Exception as error:  # a task that cannot be unpickled here, a result that cannot be pickled
            answer = pickle.dumps(portable(Outcome(error=error)))
        pipe.send_bytes(answer)


def _end_with_parent() -> None:
    """End this process with its parent: a parent that is killed signals no child, and a long task does not read its pipe."""
    parent = parent_process()  # type: ignore[attr-defined]
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
