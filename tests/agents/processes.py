"""A decision process small enough to sum over every path, and policies linear in its states."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal

STATES, ACTIONS, HORIZON, END = 3, 2, 4, 2  # END is terminal


class Linear(nn.Module):
    """A policy or a critic, linear in its input."""

    def __init__(self, inputs: int, outputs: int, make: Callable[[Tensor], Tensor | Distribution], seed: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs, generator=Generator().manual_seed(seed)))
        self.make = make

    def forward(self, obs: Tensor) -> Tensor | Distribution:
        return self.make(obs @ self.weight)


def categorical(logits: Tensor) -> Distribution:
    return Categorical(logits=logits)


def gaussian(loc: Tensor) -> Distribution:
    return Independent(Normal(loc, 0.7), 1)


def gradient_of(module: nn.Module) -> Tensor:
    return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in module.parameters()])


@dataclass(frozen=True)
class Process:
    """P[s, a, s'] and R[s, a]; it starts in state 0 and ends in `END` or after `HORIZON` steps."""

    transition: Tensor
    reward: Tensor

    @classmethod
    def random(cls, seed: int) -> Process:
        g = Generator().manual_seed(seed)
        return cls(torch.rand(STATES, ACTIONS, STATES, generator=g).softmax(-1), torch.randn(STATES, ACTIONS, generator=g))

    def paths(self, steps: int) -> Iterator[tuple[list[int], list[int], int]]:
        """Every (states, actions, last state) of at most `steps` steps."""

        def extend(states: list[int], actions: list[int]) -> Iterator[tuple[list[int], list[int], int]]:
            if states[-1] == END or len(actions) == steps:
                yield states[:-1], actions, states[-1]
                return
            for action in range(ACTIONS):
                for state in range(STATES):
                    yield from extend([*states, state], [*actions, action])

        yield from extend([0], [])

    def cost_to_go(self, pi: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
        """V[t, s] and Q[t, s, a] in cost units, by dynamic programming backward."""
        value, values, q_values = torch.zeros(STATES), [torch.zeros(STATES)], []
        alive = torch.arange(STATES) != END
        for _ in range(HORIZON):
            q = -self.reward + gamma * self.transition @ value
            value = torch.where(alive, (pi * q).sum(-1), 0.0)
            values.append(value), q_values.append(q)
        return torch.stack(values[::-1]), torch.stack(q_values[::-1])

    def exact_gradient(self, policy: nn.Module, gamma: float, steps: int = HORIZON) -> Tensor:
        """Σ_{t<steps} Σ_s P(s_t = s) Σ_a ∇π(a|s) Q_t(s, a): the policy-gradient theorem, without the leading γ^t."""
        policy.zero_grad()
        pi = policy(torch.eye(STATES)).probs
        _, q = self.cost_to_go(pi.detach(), gamma)
        occupied, total = torch.eye(STATES)[0], torch.zeros(())
        for t in range(steps):
            total = total + (occupied[:, None] * pi * q[t]).sum()
            occupied = torch.einsum("s,sa,sax->x", occupied, pi.detach(), self.transition)
            occupied = torch.where(torch.arange(STATES) != END, occupied, 0.0)
        total.backward()
        return gradient_of(policy)
