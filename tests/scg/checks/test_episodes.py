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


@pytest.mark.parametrize(("size", "batch"), [((3, 3), (3,)), ((2, 4), (2,)), ((3,), (3, 3)), ((2, 3), (2, 3))])
def test_nor_are_events_of_several_axes_and_batches_of_two(size: tuple[int, ...], batch: tuple[int, ...]) -> None:
    first = torch.zeros(STEPS, *batch, dtype=torch.bool)
    first[0], first[1].view(-1)[0], first[2].view(-1)[1] = True, True, True
    given = {"theta": torch.tensor(THETA, requires_grad=True), "first": first}
    with pytest.raises(GraphError, match="node 'h'.*another element's episode starts"):
        several(len(size), batch).sample(**given, start=torch.zeros(size))
    trace = several(len(size), batch).sample(**given, start=torch.zeros(*[1] * len(batch), *size))
    count, expected = torch.zeros(batch), []
    for flags in first:
        count = torch.where(flags, 1.0, count + 1)
        expected.append(count * torch.Size(size).numel())
    assert torch.equal(trace["cost"], trace["x"] * torch.stack(expected))


def several(event: int, batch: tuple[int, ...]) -> scg.Graph:
    """The same with an event of several axes."""
    g = scg.Graph()
    with g.sequence(first="first"):
        g.observed("first")
        g.deterministic(lambda before: torch.where(before == 0, 1.0, before + 1.0), name="h", parents=[prev("h", init="start")])
        g.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta.expand(batch)), name="x", parents=["theta"])
        g.cost(lambda x, h: x * h.sum(tuple(range(-event, 0))), name="cost", parents=["x", "h"])
    return g


def test_the_value_that_the_moved_cost_reads_is_named() -> None:
    """Beside a counter per element, which is right."""
    g = scg.Graph()
    with g.sequence(first="first"):
        g.observed("first")
        g.deterministic(lambda before: before + 1.0, name="right", parents=[prev("right", init="zeros")])
        g.deterministic(lambda before: before + 1.0, name="wrong", parents=[prev("wrong", init="start")])
        g.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta.expand(BATCH)), name="x", parents=["theta"])
        g.cost(lambda x, right: x * right, name="one", parents=["x", "right"])
        g.cost(lambda x, wrong: x * wrong.sum(-1), name="other", parents=["x", "wrong"])
    first = torch.zeros(STEPS, BATCH, dtype=torch.bool)
    with pytest.raises(GraphError, match="node 'wrong'.*'other' of this one moves"):
        g.sample(theta=torch.tensor(THETA, requires_grad=True), zeros=torch.zeros(BATCH), start=torch.zeros(BATCH), first=first)


def test_a_value_with_a_parent_that_has_the_batch_may_mix_it() -> None:
    """Moments of the batch within a recurrence change the objective, and no gradient, where no weight is live."""
    g = scg.Graph()
    with g.sequence(first="first"):
        g.observed("first")
        g.observed("data")
        g.deterministic(lambda before, data, theta: theta * (before + data), name="h",
                        parents=[prev("h", init="start"), "data", "theta"])  # fmt: skip
        g.cost(lambda h: (h - h.mean(-2, keepdim=True)).square().sum(-1), name="cost", parents=["h"])
    first = torch.zeros(STEPS + 1, BATCH, dtype=torch.bool)
    first[1, 0] = True
    data, theta = torch.randn(STEPS + 1, BATCH, 2), torch.tensor(THETA, requires_grad=True)
    surrogate = g.sample(data=data, theta=theta, start=torch.zeros(BATCH, 2), first=first).surrogate(reduce="sum")
    h, total = torch.zeros(BATCH, 2), torch.zeros(())
    for t in range(STEPS + 1):
        h = theta * (torch.where(first[t].unsqueeze(-1), 0.0, h) + data[t])
        total = total + (h - h.mean(0)).square().sum() / BATCH
    assert torch.allclose(*[torch.autograd.grad(x, theta)[0] for x in (surrogate, total)])
