"""A second thread.

    main     ──┬─ gradient of the first objective ───────────────────┬─► step of all ─►
    other      └─ gradients of the others ─► the next block's steps ─┴──────────────────────►

Compiled calls and the simulator leave Python's lock alone, so both threads compute. Two threads with different work wait for
one another once in a step; two that share every product wait, and fetch what is in the other one's cache, at each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class WorkerThread:
    """One other thread, with as many of torch's threads as this one. It does what it is given in that order."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def start(self, task: Callable[..., T], *arguments: Any) -> Future[T]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "beside", torch.set_num_threads, (torch.get_num_threads(),))
        return self._pool.submit(task, *arguments)
