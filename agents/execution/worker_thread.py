"""A worker thread: one other thread, which runs the tasks that it is given in their order.

    main     ──┬─ gradient of the first objective ───────────────────┬─► step of all ─►
    worker     └─ gradients of the others ─► the next block's steps ─┴──────────────────────►

Why: compiled calls and the simulator release Python's lock, so both threads compute. Two threads with separate tasks
synchronise once per step, whereas torch's own threads share every matrix product: they synchronise at each of them and move
its data between their caches. Cost: the tasks must not draw from the default generator (`presampled_noise.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class WorkerThread:
    """The thread starts with the first task; torch uses as many threads in it as in the thread that submits the task."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def start(self, task: Callable[..., T], *arguments: Any) -> Future[T]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "worker", torch.set_num_threads, (torch.get_num_threads(),))
        return self._pool.submit(task, *arguments)
