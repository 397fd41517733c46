"""`generator=`: torch.distributions takes no generator, so the default one's state is swapped around a call.

The draw is reproducible, the global stream is left untouched, and the bits are those of the generator itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch

_swap = threading.RLock()
_sources: list[Callable[[], AbstractContextManager[None]]] = []


def register_source(suspended: Callable[[], AbstractContextManager[None]]) -> None:
    """Announce random numbers that come from elsewhere than torch's generators (presampled noise, say).

    While a graph is examined `suspended()` is entered: what it hands out then must be as good as new draws, and what it
    holds must be there still when the block ends.
    """
    _sources.append(suspended)


@contextmanager
def sources_suspended() -> Iterator[None]:
    """Inside, every registered source is set aside."""
    with ExitStack() as stack:
        for suspended in _sources:
            stack.enter_context(suspended())
        yield


def exclusively() -> threading.RLock:  # type: ignore[valid-type]
    """Held while the default generator's state is not the stream's: by `generator=`, and by an examination."""
    return _swap


def _default(device: torch.device) -> torch.Generator:
    if device.type == "cpu":
        return torch.default_generator
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    raise ValueError(f"generator= on device {device}: only cpu and cuda generators can be swapped in")


def seed(value: int) -> None:
    """What `torch.manual_seed` does to generators that exist; it spends 2 ms on noting the call for those that do not."""
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(value)


@contextmanager
def randomness(generator: torch.Generator | None) -> Iterator[None]:
    """Draw from `generator` inside the block, and advance it; nothing happens when it is None."""
    if generator is None:
        yield
        return
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator={generator!r}: a torch.Generator is needed, torch.Generator().manual_seed(5) for instance")
    if torch.compiler.is_compiling():
        raise ValueError("generator= cannot enter compiled code: swap it in around the compiled call (scg.randomness)")
    default = _default(generator.device)
    with _swap:
        outer = default.get_state()
        default.set_state(generator.get_state())
        try:
            yield
        finally:
            generator.set_state(default.get_state())
            default.set_state(outer)
