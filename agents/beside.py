"""A second thread, and what it needs to change no number: noise that is drawn before, by whoever knows the order.

    main     ──┬─ gradient of the first objective ───────────────────┬─► step of all ─►
    other      └─ gradients of the others ─► the next block's steps ─┴──────────────────────►

Compiled calls and the simulator leave Python's lock alone, so both threads compute. Two threads with different work wait for
one another once in a step; two that share every product wait, and fetch what is in the other one's cache, at each of them.

torch's distributions draw from one default generator: on two threads, who comes first would be chance. Noise that goes
through `standard_normal` can be drawn beforehand and given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor

T = TypeVar("T")
Kind = tuple[tuple[int, ...], torch.dtype]


class Beside:
    """One other thread, with as many of torch's threads as this one. It does what it is given in that order."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def start(self, task: Callable[..., T], *arguments: Any) -> Future[T]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "beside", torch.set_num_threads, (torch.get_num_threads(),))
        return self._pool.submit(task, *arguments)


@dataclass
class _Source:
    """Where `standard_normal` takes its numbers from: what is given, as long as something is."""

    given: list[Tensor] | None = None
    asked: list[Kind] = field(default_factory=list)
    recording: bool = False


_source = _Source()


def standard_normal(shape: Sequence[int], like: Tensor) -> Tensor:
    """Independent N(0, 1) of `like`'s type and device, from the default generator, or as `given`."""
    if _source.recording:
        _source.asked.append((tuple(shape), like.dtype))
        return torch.randn(tuple(shape), dtype=like.dtype).to(like.device)
    if _source.given is not None:
        return _source.given.pop(0)
    return torch.randn(tuple(shape), dtype=like.dtype, device=like.device)


@contextmanager
def given(noise: Sequence[Tensor] | None) -> Iterator[None]:
    """Inside, `standard_normal` returns these tensors one after another."""
    _source.given = None if noise is None else list(noise)
    try:
        yield
    finally:
        _source.given = None


def asked(draw: Callable[[], object]) -> list[Kind] | None:
    """Shapes and types of what `draw()` asks of `standard_normal`; None if it draws other random numbers too. No generator moves."""
    with torch.random.fork_rng(devices=[]):
        state = torch.get_rng_state()
        _source.recording, _source.asked = True, []
        try:
            draw()
        finally:
            _source.recording = False
        after, kinds = torch.get_rng_state(), _source.asked
        torch.set_rng_state(state)
        draws(kinds, torch.default_generator)
        return kinds if bool((torch.get_rng_state() == after).all()) else None


def draws(kinds: Sequence[Kind], generator: Generator) -> list[Tensor]:
    return [torch.randn(shape, dtype=dtype, generator=generator) for shape, dtype in kinds]
