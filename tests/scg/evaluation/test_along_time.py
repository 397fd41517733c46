"""A recurrence that computes all its steps in one call gives what a plain loop does, or is stepped through."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal

import scg
from scg import detach, prev
from scg.estimators import Pathwise, ScoreFunction

F64 = torch.float64
STEPS = BATCH = 3  # alike, so that nothing is told by its size


class Memory(nn.Module):
    """h_t = tanh(w h_{t−1} + x_t), zero-dimensional and without episodes; `calls` of each method."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.7, dtype=F64))
        self.calls = {"forward": 0, "along_time": 0}

    def step(self, x, before):
        return torch.tanh(self.w * before + x)

    def forward(self, x, before):
        self.calls["forward"] += 1
        return self.step(x, before)

    def along_time(self, x, before):
        self.calls["along_time"] += 1
        states = []
        for now in x.unbind(0):
            before = self.step(now, before)
            states.append(before)
        return torch.stack(states)


class Episodes(Memory):
    """The same, and it reads where episodes start."""

    def forward(self, x, before, first):
        return super().forward(x, before)

    def along_time(self, x, before, first):
        self.calls["along_time"] += 1
        start, states = before, []
        for now, opens in zip(x.unbind(0), first.unbind(0), strict=True):
            before = self.step(now, torch.where(opens, start, before))
            states.append(before)
        return torch.stack(states)


def observed(memory, parents, first=None):
    """Costs h² of a recurrence over recorded observations."""
    graph = scg.Graph()
    with graph.sequence(first=first):
        if first:
            graph.observed("first")
        graph.observed("x")
        graph.deterministic(memory, name="h", parents=parents)
        graph.cost(lambda h: h**2, name="c")
    return graph


def by_loop(w, start, x, first, cut=False):
    """The value by hand, one element and one step after another."""
    total = torch.zeros((), dtype=F64)
    for b in range(BATCH):
        h = start[b]
        for t in range(STEPS):
            before = start[b] if first[t, b] else h
            h = torch.tanh(w * (before.detach() if cut else before) + x[t, b])
            total = total + h**2 / BATCH
    return total


def flags(*opening):
    first = torch.zeros(STEPS, BATCH, dtype=torch.bool)
    first[0] = True
    for t, b in opening:
        first[t, b] = True
    return first


CASES = {
    "one call": (Memory, ["x", prev("h", init="start")], None, False, True),
    "one call, episodes read": (Episodes, ["x", prev("h", init="start"), "first"], "first", False, True),
    "episodes that it does not read": (Memory, ["x", prev("h", init="start")], "first", False, False),
    "its past detached": (Memory, ["x", detach(prev("h", init="start"))], None, True, False),
}


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_are_the_loops(case):
    kind, parents, first, cut, at_once = CASES[case]
    torch.manual_seed(0)
    memory, x = kind(), torch.randn(STEPS, BATCH, dtype=F64)
    start = torch.tensor([0.3, -0.2, 0.5], dtype=F64, requires_grad=True)
    graph = observed(memory, parents, first)
    none, some = flags(), flags((1, 1), (2, 2))
    for now in (
        (none, some) if first else (none,)
    ):  # examined where no episode starts within the block, so the second says nothing new
        with scg.examination(again=False):
            graph.surrogate(x=x, start=start, **({"first": now} if first else {}))
            before = dict(memory.calls)
            found = graph.surrogate(x=x, start=start, **({"first": now} if first else {}))
        assert (memory.calls["along_time"] > before["along_time"]) == at_once
        expected = by_loop(memory.w, start, x, now, cut)
        torch.testing.assert_close(found, expected)
        wrt = [memory.w] if cut else [memory.w, start]
        for mine, theirs in zip(torch.autograd.grad(found, wrt), torch.autograd.grad(expected, wrt), strict=True):
            torch.testing.assert_close(mine, theirs)
    if cut:  # to the initial value, too, no gradient passes
        assert torch.autograd.grad(graph.surrogate(x=x, start=start), start, allow_unused=True)[0] is None


def test_the_weights_of_a_replay_meet_what_the_recurrence_made_of_them():
    """Below a score function at recorded actions: ∇ Σ_t c_t weighs each step's score with all later costs, by hand."""
    torch.manual_seed(1)
    memory, start = Memory(), torch.tensor([0.3, -0.2, 0.5], dtype=F64, requires_grad=True)
    theta = torch.tensor(0.4, dtype=F64, requires_grad=True)
    graph = scg.Graph()
    with graph.sequence():
        graph.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name="x")
        graph.deterministic(memory, name="h", parents=["x", prev("h", init="start")])
        graph.cost(lambda h: h**2, name="c")
    x = torch.randn(STEPS, BATCH, dtype=F64)
    found = graph.replay({"x": x}, theta=theta, start=start).surrogate()
    log_p = Normal(theta, 1.0).log_prob(x)
    expected, h = torch.zeros((), dtype=F64), start
    for t in range(STEPS):
        h = memory.step(x[t], h)
        score = log_p[: t + 1].sum(0)
        expected = expected + (torch.exp(score - score.detach()) * h**2).mean()
    wrt = [memory.w, start, theta]
    for mine, theirs in zip(torch.autograd.grad(found, wrt), torch.autograd.grad(expected, wrt), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_stochastic_node_is_stepped_through_whatever_its_function_offers():
    class Policy(nn.Module):
        def forward(self, before):
            return Normal(0.5 * before, 1e-6)

        along_time = forward

    graph = scg.Graph()
    with graph.sequence():
        graph.stochastic(Pathwise(), Policy(), name="x", parents=[prev("x", init="start")])
        graph.cost(lambda x: x, name="c")
    start = torch.tensor(8.0, dtype=F64, requires_grad=True)
    trace = graph.sample(steps=3, start=start)
    torch.testing.assert_close(trace["x"], torch.tensor([4.0, 2.0, 1.0], dtype=F64), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.autograd.grad(trace.surrogate(), start)[0].item(), 0.875)
