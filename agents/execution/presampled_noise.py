"""Presampled noise: record the requests of one evaluation, draw them in that order, replay.

    requests = recorded_requests(sample)      noise = presample(requests, generator)      with replayed(noise): sample()

Why: torch's distributions draw from one default generator. On two threads the order of draws would depend on timing, and the
state of a GPU's generator is not part of a checkpoint. Distributions that call `standard_normal` can use noise that was drawn
before, in the order of the requests. Cost: a graph that draws other random numbers (a categorical sample, say) cannot be
presampled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from scg.randomness import register_source

Request = tuple[tuple[int, ...], torch.dtype]


@dataclass
class _Source:
    """The source of `standard_normal`: presampled `noise`, or the default generator where `noise` is None."""

    noise: list[Tensor] | None = None
    requests: list[Request] = field(default_factory=list)
    recording: bool = False


_source = _Source()


def standard_normal(shape: Sequence[int], like: Tensor) -> Tensor:
    """Independent N(0, 1) of `like`'s type and device, from the default generator, or the next presampled ones."""
    if _source.recording:
        _source.requests.append((tuple(shape), like.dtype))
        return torch.randn(tuple(shape), dtype=like.dtype).to(like.device)
    if _source.noise is not None:
        return _source.noise.pop(0)
    return torch.randn(tuple(shape), dtype=like.dtype, device=like.device)


@contextmanager
def replayed(noise: Sequence[Tensor] | None) -> Iterator[None]:
    """Inside, `standard_normal` returns these tensors one after another."""
    _source.noise = None if noise is None else list(noise)
    try:
        yield
    finally:
        _source.noise = None


@contextmanager
def _suspended() -> Iterator[None]:
    """Inside, `standard_normal` draws from the default generator and records nothing: a graph is being examined."""
    noise, recording = _source.noise, _source.recording
    _source.noise, _source.recording = None, False
    try:
        yield
    finally:
        _source.noise, _source.recording = noise, recording


register_source(_suspended)


def recorded_requests(draw: Callable[[], object]) -> list[Request] | None:
    """Shapes and types of the tensors that `draw()` requests from `standard_normal`; None if it draws other random numbers too.
    The states of all generators are restored."""
    with torch.random.fork_rng(devices=[]):
        state = torch.get_rng_state()
        _source.recording, _source.requests = True, []
        try:
            draw()
        finally:
            _source.recording = False
        after, requests = torch.get_rng_state(), _source.requests
        torch.set_rng_state(state)
        presample(requests, torch.default_generator)
        return requests if bool((torch.get_rng_state() == after).all()) else None


def presample(requests: Sequence[Request], generator: Generator) -> list[Tensor]:
    """Standard normal numbers of these shapes and types: the argument of `replayed`."""
    return [torch.randn(shape, dtype=dtype, generator=generator) for shape, dtype in requests]
