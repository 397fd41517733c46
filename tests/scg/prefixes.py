"""A policy over three tokens that reads its prefix, and the sums over all of its answers."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

import scg
from scg import ScoreFunction, dist, prefix

VOCABULARY, STEPS = 3, 3
PROMPT = torch.tensor([1, 0])


def scored(answer: Tensor) -> Tensor:
    return (answer * torch.arange(1, answer.shape[-1] + 1).double().mul(2.0).cos()).sum(-1).sin()


class Mean(nn.Module):
    """The mean of the embeddings so far. `see(x)`: what each position sees besides."""

    def __init__(self, see: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.embedding = nn.Parameter(torch.randn(VOCABULARY, VOCABULARY, generator=generator))
        self.slope = nn.Parameter(torch.randn(VOCABULARY, VOCABULARY, generator=generator))
        self.see = see

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding[tokens]
        mean = x.cumsum(-2) / torch.arange(1, x.shape[-2] + 1).unsqueeze(-1)
        mean = mean if self.see is None else mean + self.see(x)
        return torch.tanh(mean @ self.slope) + x


class Extended(Mean):
    """The same, from the sum of the embeddings before."""

    error = 0.0

    def extend(self, state: tuple[Tensor, int] | None, tokens: Tensor) -> tuple[Tensor, tuple[Tensor, int]]:
        before, length = (0.0, 0) if state is None else state
        x = self.embedding[tokens]
        total = x.cumsum(-2) + before
        positions = torch.arange(1, x.shape[-2] + 1).unsqueeze(-1) + length
        values = torch.tanh(total / positions @ self.slope) + x + self.error * length
        return values, (total[..., -1:, :], length + x.shape[-2])


def graph(model: nn.Module, estimator: scg.Estimator | None = None, *, entropy: float = 0.3, **knobs: object) -> scg.Graph:
    made = scg.Graph()
    with made.sequence():
        made.deterministic(model, name="logits", parents=[prefix("token", init="prompt")])

        @made.stochastic(estimator or ScoreFunction(), **knobs)
        def token(logits):
            return Categorical(logits=logits)

        @made.cost
        def bonus(pi=dist("token")):
            return -entropy * pi.entropy()

    @made.reward
    def score(answer=prefix("token")):
        return scored(answer)

    return made


def answers() -> Tensor:
    return torch.tensor(list(itertools.product(range(VOCABULARY), repeat=STEPS))).T  # [time, answer]


def by_hand(model: nn.Module, entropy: float = 0.3) -> Tensor:
    """E[cost] as a sum over all answers, each evaluated from its prefixes alone."""
    total = torch.zeros(())
    for answer in answers().T:
        probability, cost = torch.ones(()), torch.zeros(())
        for t in range(STEPS):
            pi = Categorical(logits=model(torch.cat([PROMPT, answer[:t]]))[-1])
            cost = cost - entropy * pi.entropy()
            probability = probability * pi.probs[answer[t]]
        total = total + probability * (cost - scored(answer))
    return total


def flat(value: Tensor, model: nn.Module) -> Tensor:
    gradients = torch.autograd.grad(value, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in gradients])


def mean_gradient(made: scg.Graph, model: nn.Module) -> Tensor:
    """The mean of the surrogate's gradient over all answers, one replay each."""
    total: Tensor | float = 0.0
    for answer in answers().T:
        trace = made.replay({"token": answer}, prompt=PROMPT)
        total = total + trace.log_prob("token").sum().exp() * flat(trace.surrogate(), model)
    return torch.as_tensor(total)
