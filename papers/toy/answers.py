"""Answers of a few tokens to one prompt, under a policy that is a table: what papers on language models' losses are tried on.

Tokens 0 … V − 1, of which the last one ends an answer; logits of their own for every prefix, so that no network stands
between a loss and its gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from scg.testing import Answers, AnswerTask

Loss = Callable[[Answers], Tensor]


class Table(nn.Module):
    """Logits for every prefix of fewer than `steps` tokens; the prompt is one token, which is not looked at."""

    def __init__(self, vocabulary: int, steps: int, rows: Tensor) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        count = sum(vocabulary**t for t in range(steps))
        self.rows = nn.Parameter(rows[:count])

    def forward(self, tokens: Tensor) -> Tensor:
        code = torch.zeros_like(tokens[..., 0])
        found = [self.rows[code]]
        for i in range(1, tokens.shape[-1]):
            code = self.vocabulary * code + tokens[..., i] + 1
            found.append(self.rows[code.clamp(max=len(self.rows) - 1)])  # beyond an answer's end nothing is read
        return torch.stack(found, -2)


def table(vocabulary: int, steps: int, seed: int, scale: float = 1.0, around: Table | None = None) -> Table:
    """Logits from N(0, scale²), around another table's if there is one."""
    count = sum(vocabulary**t for t in range(steps))
    rows = scale * torch.randn(count, vocabulary, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Table(vocabulary, steps, rows if around is None else around.rows.detach() + rows)


def task(policy: Table, steps: int, reward: Callable[[Tensor, Tensor], Tensor], **settings: object) -> AnswerTask:
    end = policy.vocabulary - 1 if steps > 1 else None
    return AnswerTask(policy, torch.zeros(1, 1, dtype=torch.long), reward, steps, end=end, **settings)  # type: ignore[arg-type]


def nothing(prompt: Tensor, answer: Tensor) -> Tensor:
    """A reward of 0."""
    return torch.zeros(answer.shape[:-1], dtype=torch.float64)


def summed(x: Tensor, b: Answers) -> Tensor:
    """Σ over an answer's tokens, mean over answers."""
    return (x * b.mask).sum(-1).mean()
