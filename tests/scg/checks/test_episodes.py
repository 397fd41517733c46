"""Episodes that start element by element, beside recurrent values that the batch shares: sizes that coincide do not matter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli

import scg
from scg import GraphError, ScoreFunction, prev

STEPS, BATCH = 3, 3
THETA = 0.3


def graph(event: bool, container: bool = False) -> scg.Graph:
    """A counter h that begins anew with each episode, of which the sample's logit and the cost read a sum over its event."""
    g = scg.Graph()

    def total(h: Any) -> Tensor:
        h = h[0] if container else h
        return (h * torch.arange(1.0, h.shape[-1] + 1)).sum(-1) if event else h

    with g.sequence(first="first"):
        g.observed("first")

        @g.deterministic
        def h(before: Any = prev("h", init="start")) -> Any:
            return (before[0] + 1.0,) if container else before + 1.0

        @g.stochastic(estimator=ScoreFunction())
        def x(theta: Tensor, h: Any) -> Bernoulli:
            return Bernoulli(logits=(theta + 0.1 * total(h)).expand(BATCH))

        @g.cost
        def cost(x: Tensor, h: Any) -> Tensor:
            return x * total(h)

    return g


def sample(event: bool, start: Any, batch: int = BATCH) -> scg.Trace:
    first = torch.zeros(STEPS, batch, dtype=torch.bool)
    first[0], first[1, 0], first[2, 1] = True, True, True
    container = isinstance(start, tuple)
    return graph(event, container).sample(theta=torch.tensor(THETA, requires_grad=True), start=start, first=first)


@pytest.mark.parametrize("container", [False, True], ids=["tensor", "tuple"])
@pytest.mark.parametrize("size", [1, BATCH])
def test_an_event_of_the_batchs_size_is_not_taken_for_the_batch(size: int, container: bool) -> None:
    start = torch.zeros(size)
    with pytest.raises(GraphError, match=r"node 'h'.*another element's episode starts.*\[1, 3\]"):
        sample(True, (start,) if container else start)


@pytest.mark.parametrize("size", [1, 2, BATCH])
def test_with_an_axis_for_the_batch_it_is_right(size: int) -> None:
    trace = sample(True, torch.zeros(1, size))
    count = torch.tensor([[1.0, 1, 1], [1, 2, 2], [2, 1, 3]])
    assert torch.equal(trace["cost"], trace["x"] * count * sum(range(1, size + 1)))


def test_a_value_per_element_is_no_event() -> None:
    trace = sample(False, torch.zeros(BATCH))
    assert torch.equal(trace["cost"], trace["x"] * torch.tensor([[1.0, 1, 1], [1, 2, 2], [2, 1, 3]]))


def test_another_size_is_an_error_that_names_the_node() -> None:
    with pytest.raises(GraphError, match=r"node 'h': its value \[2\].*\[3\].*axes of size 1"):
        sample(True, torch.zeros(2))
