"""Recurrent networks: a memory that every observation changes, and a graph's node that is computed along time.

    obs_t ─encoder→ x_t            memory_t = cell(x_t, [not first_t] memory_{t-1})            features_t = read(memory_t)

The memory of an LSTM is its hidden and its cell state side by side, of which the hidden one is read. Where an episode begins,
the memory before it is zero. `forward` is one step; `along_time` the same for a whole sequence: what does not recur is
computed at once, and a GRU runs over the stretches between episodes' starts in torch's own loop.

Cho et al. (2014) for the GRU; Hochreiter & Schmidhuber (1997) for the LSTM; Hausknecht & Stone (2015) for sequences that start
from recorded memories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeGuard

import numpy as np
import torch
from torch import Generator, Tensor, nn

from scg.agents.networks.mlp import uniform_within
from scg.randomness import randomness

CellKind = Literal["gru", "lstm"]


class Recurrent(nn.Module):
    """`memory(obs [*batch, obs…], before [*batch, size], first [*batch]) → [*batch, size]`."""

    def __init__(self, encoder: nn.Module, width: int, kind: CellKind = "gru", generator: Generator | None = None) -> None:
        super().__init__()
        self.encoder, self.features, self.kind = encoder, width, kind
        self.size = width if kind == "gru" else 2 * width
        made = nn.GRU if kind == "gru" else nn.LSTM
        with randomness(generator):  # its own initialisation would draw from the global stream
            self.cell: nn.Module = made(encoder.features, width)
        for name, parameter in self.cell.named_parameters():
            if name.startswith("weight"):
                for gate in parameter.data.split(width):
                    nn.init.orthogonal_(gate, generator=generator)
            else:
                uniform_within(parameter, width, generator)

    def forward(self, obs: Tensor, before: Tensor, first: Tensor) -> Tensor:
        *lead, size = before.shape
        features = self.encoder(obs)
        after = self._run(features.reshape(1, -1, features.shape[-1]), before.reshape(-1, size), first.reshape(1, -1))
        return after[0].reshape(*lead, size)

    def along_time(self, obs: Tensor, before: Tensor, first: Tensor) -> Tensor:
        """`obs [time, batch, obs…]`, `before [batch, size]` the memory at the start, `first [time, batch]`: all steps' memories."""
        return self._run(self.encoder(obs), before, first)

    def _run(self, x: Tensor, memory: Tensor, first: Tensor) -> Tensor:
        goes_on = (~first.bool()).to(x.dtype).unsqueeze(-1)  # [time, batch, 1]
        if self.kind == "lstm":
            return self._lstm(x, memory, goes_on)
        if len(x) == 1:  # a step
            return self.cell(x, (goes_on[0] * memory).unsqueeze(0))[0]
        out = []
        starts = torch.nonzero(first[1:].any(1)).flatten().add(1).tolist()  # a stretch begins where any episode does
        for begin, end in zip([0, *starts], [*starts, len(x)], strict=True):
            stretch, _ = self.cell(x[begin:end], (goes_on[begin] * memory).unsqueeze(0))
            memory = stretch[-1]
            out.append(stretch)
        return torch.cat(out) if len(out) > 1 else out[0]

    def _lstm(self, x: Tensor, memory: Tensor, goes_on: Tensor) -> Tensor:
        """Step by step: torch's loop would not return the cell's states in between, at which sequences are cut."""
        cell: Any = self.cell
        out = []
        weights = cell.weight_ih_l0, cell.weight_hh_l0, cell.bias_ih_l0, cell.bias_hh_l0
        for t in range(len(x)):
            hidden, state = (goes_on[t] * memory).chunk(2, -1)
            memory = torch.cat(torch.lstm_cell(x[t], (hidden, state), *weights), -1)
            out.append(memory)
        return torch.stack(out)


def is_recurrent(network: object) -> TypeGuard[Recurrent]:
    """Whether it has a memory: one of ours, or a module with `along_time`, `forward`, `size` and `features` like it."""
    return hasattr(network, "along_time")


class MemoryReader(nn.Module):
    """The features that a head reads from a memory: what an encoder is to observations."""

    def __init__(self, memory: Recurrent) -> None:
        super().__init__()
        self.features = memory.features

    def forward(self, memory: Tensor) -> Tensor:
        return memory[..., : self.features]

    def numpy(self) -> Callable[[np.ndarray], np.ndarray]:
        features = self.features
        return lambda memory: memory[..., :features]


def seen(module: nn.Module, rows: Mapping[str, Tensor]) -> Tensor:
    """What a policy or critic reads of recorded rows: `obs`, or its memory of them, which starts at `rows["memory_start"]`."""
    memory = getattr(module, "memory", None)
    return rows["obs"] if memory is None else memory.along_time(rows["obs"], rows["memory_start"], rows["first"])


def no_memory(memory: Recurrent, batch: int) -> Tensor:
    """`[batch, size]`: what is remembered before the first observation."""
    like = next(memory.parameters())
    return torch.zeros(batch, memory.size, dtype=like.dtype, device=like.device)


class Recall:
    """The memory of a policy that acts, `[batch, size]`, from step to step and block to block; nothing where it has none."""

    def __init__(self) -> None:
        self.now: Tensor | None = None

    def begins(self, policy: nn.Module, batch: int) -> None:
        """Before a block: the memory goes on, or starts."""
        memory = getattr(policy, "memory", None)
        if memory is None:
            self.now = None
        elif self.now is None or self.now.shape != (batch, memory.size):
            self.now = no_memory(memory, batch).cpu()

    def after(self, policy: nn.Module, obs: np.ndarray, first: np.ndarray) -> np.ndarray:
        """What the policy's head reads: `obs`, or the memory that it has changed."""
        if self.now is None:
            return obs
        memory: Recurrent = policy.memory  # type: ignore[assignment]
        like = next(memory.parameters())
        kind = like.dtype if obs.dtype.kind == "f" else None
        with torch.no_grad():
            given = torch.as_tensor(np.ascontiguousarray(obs), dtype=kind, device=like.device)
            now = memory(given, self.now.to(like.device), torch.as_tensor(first, device=like.device))
        self.now = now.cpu()
        return self.now.numpy()
