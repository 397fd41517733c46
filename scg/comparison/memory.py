"""Peak memory of one gradient: the most bytes of tensors alive at once that the call itself made."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class Peak(TorchDispatchMode):
    """Counts the storages that operations inside the block return, while they live."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Else torch loads its compiler here (seconds), which switches the validation of distributions off everywhere."""
        return False

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        for tensor in tree_iter((args, kwargs)):  # a view of what was there before is no new memory
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage(), new=False)
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage(), new=True)
        return result

    def _count(self, storage: torch.UntypedStorage, new: bool) -> None:
        key, size = storage._cdata, storage.nbytes() if new else 0
        if key in self._alive:
            return
        self._alive[key] = weakref.ref(storage, lambda _: self._gone(key, size))
        self.live += size
        self.peak = max(self.peak, self.live)

    def _gone(self, key: int, size: int) -> None:
        self.live -= size
        self._alive.pop(key, None)


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """The peak of `call()`: of the allocator on CUDA, of the counted tensors elsewhere."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with Peak() as peak:
        call()
    return peak.peak
