"""Noise that is drawn before it is used, by whoever knows the order.

    kinds = asked(sample)        noise = draws(kinds, generator)        with given(noise): sample()

torch's distributions draw from one default generator: on two threads, who comes first would be chance, and a GPU's is in no
checkpoint. What goes through `standard_normal` can be drawn beforehand and given, in the order in which it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

Kind = tuple[tuple[int, ...], torch.dtype]


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
    """Standard normal numbers of these shapes and types: what is to be `given`."""
    return [torch.randn(shape, dtype=dtype, generator=generator) for shape, dtype in kinds]
