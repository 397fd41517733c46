"""The iterated prisoner's dilemma: as a graph, as a matrix whose expected return is a closed form, and played.

    state(t) = (a, o)(t-1) → (a ~ π_θ(state)), (o ~ π_φ(state seen from there)) → ⟨−γ^t r(a, o)⟩

State 0 is the start, 1 to 4 are CC, CD, DC, DD, one's own move first; an action is 1 to cooperate, and θ holds the logit of
it in each state. Both players read a state from their own side, so a player is the same five numbers on either side.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli

from scg import Graph, Trace, prev
from scg.estimators import ScoreFunction

PAYOFF = torch.tensor([-1.0, -3.0, 0.0, -2.0], dtype=torch.float64)  # of CC, CD, DC, DD to the first
DISCOUNT, STEPS = 0.96, 150


def outcome(a: Tensor, o: Tensor) -> Tensor:
    """0 to 3 for CC, CD, DC, DD."""
    return (2 * (1 - a) + (1 - o)).long()


def policy(theta: Tensor, state: Tensor) -> Bernoulli:
    """θ `[runs, 5]`, state `[…, runs, episodes]`."""
    return Bernoulli(logits=theta.expand(*state.shape[:-1], 5).gather(-1, state))


def dilemma(loss: str = "own", baseline: bool = False) -> Graph:
    """Inputs `theta`, `other` `[runs, 5]`, `nobody` (−1: no move yet) and the observed `discount` γ^t.

    loss      whose return is the cost: "own" or "others"
    baseline  `values [runs, 5]`, what a state is worth at the first step, is subtracted as γ^t V(state)
    """
    graph = Graph()
    level = "level" if baseline else None
    with graph.sequence():
        graph.observed("discount")

        @graph.deterministic
        def state(a: Tensor = prev("a", init="nobody"), o: Tensor = prev("o", init="nobody")) -> Tensor:
            return torch.where(a < 0, 0, 1 + outcome(a, o))

        @graph.deterministic
        def seen(a: Tensor = prev("a", init="nobody"), o: Tensor = prev("o", init="nobody")) -> Tensor:
            return torch.where(a < 0, 0, 1 + outcome(o, a))

        if baseline:

            @graph.deterministic(name="level", parents=["state" if loss == "own" else "seen", "values", "discount"])
            def worth(state: Tensor, values: Tensor, discount: Tensor) -> Tensor:
                return discount * values.expand(*state.shape[:-1], 5).gather(-1, state)

        @graph.stochastic(ScoreFunction(), baseline=level)
        def a(theta: Tensor, state: Tensor) -> Bernoulli:
            return policy(theta, state)

        @graph.stochastic(ScoreFunction(), baseline=level)
        def o(other: Tensor, seen: Tensor) -> Bernoulli:
            return policy(other, seen)

        @graph.cost
        def regret(a: Tensor, o: Tensor, discount: Tensor) -> Tensor:
            return -discount * PAYOFF[outcome(a, o) if loss == "own" else outcome(o, a)]

    return graph


def discounts(steps: int = STEPS) -> Tensor:
    """γ^t, `[time, 1, 1]`."""
    return (DISCOUNT ** torch.arange(steps, dtype=torch.float64)).reshape(-1, 1, 1)


@torch.no_grad()
def play(theta: Tensor, other: Tensor, episodes: int, generator: torch.Generator, steps: int = STEPS) -> dict[str, Tensor]:
    """Recorded moves `[time, runs, episodes]`, to be replayed by `dilemma`."""
    first, second = torch.sigmoid(theta), torch.sigmoid(other)
    noise = torch.rand(2, steps, theta.shape[0], episodes, generator=generator, dtype=torch.float64)
    state = seen = torch.zeros(theta.shape[0], episodes, dtype=torch.long)
    moves = []
    for t in range(steps):
        a, o = noise[0, t] < first.gather(-1, state), noise[1, t] < second.gather(-1, seen)
        moves.append((a, o))
        low, high = 1 - a.long(), 1 - o.long()
        state, seen = 1 + 2 * low + high, 1 + 2 * high + low
    return {name: torch.stack(m).double() for name, m in zip("ao", zip(*moves, strict=True), strict=True)}


def traced(graph: Graph, moves: dict[str, Tensor], theta: Tensor, other: Tensor, values: Tensor | None = None) -> Trace:
    """The graph at recorded moves."""
    given = {**moves, "discount": discounts(moves["a"].shape[0]).expand(-1, *moves["a"].shape[1:])}
    nobody = torch.full_like(moves["a"][0], -1.0)
    inputs: dict[str, Any] = {} if values is None else {"values": values}
    return graph.replay(given, theta=theta, other=other, nobody=nobody, **inputs)


def replay(graph: Graph, moves: dict[str, Tensor], theta: Tensor, other: Tensor, values: Tensor | None = None) -> Tensor:
    """The surrogate on recorded moves: mean over runs and episodes, sum over time."""
    return traced(graph, moves, theta, other, values).surrogate()


# -- without sampling ----------------------------------------------------------------------------------------------


def chain(theta: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities of CC, CD, DC, DD: at the start `[4]`, and from each of them `[4, 4]`."""
    p, q = torch.sigmoid(theta), torch.sigmoid(other)[torch.tensor([0, 1, 3, 2, 4])]  # the other's view: CD and DC swap
    joint = torch.stack([p * q, p * (1 - q), (1 - p) * q, (1 - p) * (1 - q)], -1)
    return joint[0], joint[1:]


def expected_return(theta: Tensor, other: Tensor, steps: int | None = STEPS) -> tuple[Tensor, Tensor]:
    """Σ_t γ^t E[r] of both players; of endless play without `steps`: p₀ᵀ (1 − γP)⁻¹ r."""
    start, step = chain(theta, other)
    payoffs = torch.stack([PAYOFF, PAYOFF[torch.tensor([0, 2, 1, 3])]], -1).to(theta.dtype)
    if steps is None:
        worth = torch.linalg.solve(torch.eye(4, dtype=theta.dtype) - DISCOUNT * step, payoffs)
    else:
        worth = torch.zeros_like(payoffs)
        for _ in range(steps):
            worth = payoffs + DISCOUNT * step @ worth
    first, second = (start @ worth).unbind()
    return first, second


def state_values(theta: Tensor, other: Tensor) -> Tensor:
    """What each of the five states is worth to the first player, if play goes on for ever."""
    start, step = chain(theta, other)
    worth = torch.linalg.solve(torch.eye(4, dtype=theta.dtype) - DISCOUNT * step, PAYOFF.to(theta.dtype))
    return torch.cat([(start @ worth).unsqueeze(0), step @ worth])
