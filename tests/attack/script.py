"""All outcomes of whatever torch draws: a script that answers each draw, and is rewritten until every answer was given.

The expectation of any function of random draws, as the finite sum it is: nothing has to be known of who draws, or when.
Normal draws take the three points of Gauss–Hermite, which is exact for polynomials of degree five.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import scg
from tests.attack.oracle import CHANCE, F64, NOISE, TooMany


class Script:
    """Answers to draws, one number a lane: `choices[i]` of the outcomes with probabilities `chances[i]`."""

    def __init__(self, choices: list[int], most: int) -> None:
        self.choices, self.most = choices, most
        self.chances: list[list[float]] = []

    def choose(self, lanes: Tensor) -> Tensor:
        """`[lane, outcome]` probabilities to `[lane]` indices."""
        picked = []
        for row in lanes.detach().to(F64).tolist():
            if len(self.chances) == len(self.choices):
                self.choices.append(0)
            picked.append(self.choices[len(self.chances)])
            self.chances.append(row)
            if math.prod(len(c) for c in self.chances) > self.most:
                raise TooMany("draws")
        return torch.tensor(picked)

    @property
    def probability(self) -> float:
        return math.prod(row[k] for row, k in zip(self.chances, self.choices, strict=True))

    def next(self) -> list[int] | None:
        choices = list(self.choices[: len(self.chances)])
        while choices:
            if choices[-1] + 1 < len(self.chances[len(choices) - 1]):
                choices[-1] += 1
                return choices
            choices.pop()
        return None

    # -- what torch.distributions calls ------------------------------------------------------------------------

    def bernoulli(self, probs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        flat = probs.reshape(-1)
        return self.choose(torch.stack([1 - flat, flat], -1)).reshape(probs.shape).to(probs.dtype)

    def multinomial(self, probs: Tensor, count: int, *args: Any, **kwargs: Any) -> Tensor:
        lanes = probs.unsqueeze(1).expand(-1, count, -1)
        return self.choose(lanes.reshape(-1, probs.shape[-1])).reshape(-1, count)

    def standard_normal(self, shape: Any, dtype: Any = F64, device: Any = None) -> Tensor:
        size = torch.Size(shape)
        return NOISE[self.choose(CHANCE.expand(size.numel(), -1))].reshape(size)

    def normal(self, mean: Tensor, std: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return mean + std * self.standard_normal(torch.broadcast_shapes(mean.shape, std.shape))


@contextmanager
def scripted(script: Script) -> Iterator[None]:
    with (
        mock.patch("torch.bernoulli", script.bernoulli),
        mock.patch("torch.multinomial", script.multinomial),
        mock.patch("torch.normal", script.normal),
        mock.patch("torch.distributions.normal._standard_normal", script.standard_normal),
    ):
        yield


def expectation(draw: Callable[[], list[Tensor]], most: int) -> list[Tensor]:
    """Σ over all outcomes of probability · what `draw` returns."""
    choices: list[int] | None = []
    total: list[Tensor] | None = None
    while choices is not None:
        script = Script(list(choices), most)
        with scripted(script), scg.examination(again=False):
            found = draw()
        part = [script.probability * x for x in found]
        total = part if total is None else [a + b for a, b in zip(total, part, strict=True)]
        choices = script.next()
    assert total is not None
    return total


def sampled(draw: Callable[[], list[Tensor]], draws: int) -> tuple[list[Tensor], list[Tensor]]:
    """Means of what `draw` returns over so many draws, and their standard errors."""
    with scg.examination(again=False):
        rows = [torch.cat([x.reshape(-1) for x in draw()]) for _ in range(draws)]
    table = torch.stack(rows)
    return [table.mean(0)], [table.std(0) / draws**0.5]
