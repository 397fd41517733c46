"""A worker thread: one other thread, which runs the tasks that it is given in their order.

    main     ──┬─ gradient of the first objective ───────────────────┬─► step of all ─►
    worker     └─ gradients of the others ─► the next block's steps ─┴──────────────────────►

Why: compiled calls and the simulator release Python's lock, so both threads compute. Two threads with different
work synchronise once per step. Torch's own threads share every matrix product: they synchronise at each one, and its data
move between their caches.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class WorkerThread:
    """Started with the first task, with as many of torch's threads as the thread that starts it."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def start(self, task: Callable[..., T], *arguments: Any) -> Future[T]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "worker", torch.set_num_threads, (torch.get_num_threads(),))
        return self._pool.submit(task, *arguments)
