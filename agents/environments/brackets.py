"""Tasks in tokens: a prompt, an answer token by token, and a reward that is computed, not learned. First one: closing brackets.

    obs [context]     prompt ‖ answer so far, padded with 0            action    the next token, a byte
    reward            at the end: 1 where the answer is right, 0 else  ends      with the end token, or at the answer's greatest length

    ([{<   →   >}])⏎          Brackets-v0: four opening brackets of four kinds; the answer closes them, the last one first

A `TokenSpace` knows its task beside the shape of observations: prompts to learn from, a score of whole answers, and which
prompts are held out. The environment's own episodes are of held-out prompts alone, so that every evaluation is of prompts
that an agent has not learned from.
"""

from __future__ import annotations

import itertools
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Generator, Tensor

VOCABULARY, END = 128, 10  # bytes of ASCII, a line's end
PAD = 0
PAIRS = {ord(a): ord(b) for a, b in ("()", "[]", "{}", "<>")}
SHARE = 5  # one prompt in so many is held out


class Task(Protocol):
    """What an agent of tokens learns from: prompts `[count, prompt]` and scores `[…]` of answers `[…, steps]`."""

    steps: int
    vocabulary: int

    def prompts(self, count: int, generator: Generator) -> Tensor: ...

    def score(self, prompt: Tensor, answer: Tensor) -> Tensor: ...

    def right(self, prompt: Tensor, answer: Tensor) -> Tensor: ...


class TokenSpace(spaces.Box):
    """A box of tokens, and the task that they belong to."""

    def __init__(self, task: Task, prompt: int) -> None:
        super().__init__(0, task.vocabulary - 1, (prompt + task.steps,), np.float32)
        self.task, self.prompt = task, prompt


class Closing:
    """Close `depth` brackets of four kinds in the right order, then end the line."""

    vocabulary = VOCABULARY

    def __init__(self, depth: int) -> None:
        self.depth, self.steps = depth, depth + 1
        every = torch.tensor(list(itertools.product(PAIRS, repeat=depth)))
        out = torch.randperm(len(every), generator=Generator().manual_seed(0)) % SHARE == 0
        self.learned, self.held_out = every[~out], every[out]

    def prompts(self, count: int, generator: Generator) -> Tensor:
        """Prompts `[count, depth]` that are not held out, drawn with replacement."""
        return self.learned[torch.randint(len(self.learned), (count,), generator=generator)]

    def solution(self, prompt: Tensor) -> Tensor:
        """The right answer `[…, depth + 1]`."""
        closing = torch.zeros(VOCABULARY, dtype=torch.long)
        closing[list(PAIRS)] = torch.tensor(list(PAIRS.values()))
        ends = torch.full((*prompt.shape[:-1], 1), END)
        return torch.cat([closing[prompt.long()].flip(-1), ends], -1)

    def score(self, prompt: Tensor, answer: Tensor) -> Tensor:
        """Half the share of tokens that are right, up to the first wrong one, and a half where all are."""
        share = (answer == self.solution(prompt)).long().cumprod(-1).to(torch.get_default_dtype()).mean(-1)
        return (share + (share == 1)) / 2

    def right(self, prompt: Tensor, answer: Tensor) -> Tensor:
        return (answer == self.solution(prompt)).all(-1)


class Brackets(gym.Env):
    """One held-out prompt an episode."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, depth: int = 4) -> None:
        if not 1 <= depth <= 8:
            raise ValueError(f"Brackets(depth={depth}): from 1 to 8")
        self.task = Closing(depth)
        self.observation_space: spaces.Space = TokenSpace(self.task, depth)
        self.action_space: spaces.Space = spaces.Discrete(VOCABULARY)
        self.tokens: list[int] = []

    def _obs(self) -> np.ndarray:
        shown = np.full(self.observation_space.shape or (), PAD, np.float32)
        shown[: len(self.tokens)] = self.tokens
        return shown

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        chosen = int(self.np_random.integers(len(self.task.held_out)))
        self.tokens = self.task.held_out[chosen].tolist()
        return self._obs(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.tokens.append(int(action))
        depth, steps = self.task.depth, self.task.steps
        over = int(action) == END or len(self.tokens) == depth + steps
        reward = 0.0
        if over:
            answer = self.tokens[depth:] + [PAD] * (depth + steps - len(self.tokens))
            reward = float(self.task.right(torch.tensor(self.tokens[:depth]), torch.tensor(answer)))
        return self._obs(), reward, over, False, {}
