"""Prioritised replay: rows are drawn in proportion to a power of the critics' last error on them.

    P(i) = p_i^α / Σ_j p_j^α,   p_i = |δ_i| + ε          importance_i = (N P(i))^−β / max over the minibatch

New rows get the largest priority so far, so that each is drawn soon. The graph multiplies the critics' regression by
`importance`, which corrects the sampling fully at β = 1, reached at the end of the run. A minibatch of k rows is stratified:
one draw from each k-th of the total priority.

Schaul, Quan, Antonoglou & Silver (2016), "Prioritized experience replay".
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from scg.agents.experience.replay import Drawn, Multistep, Replay
from scg.agents.experience.rollout import Block
from scg.trace import Trace

EPSILON = 1e-6  # no row's priority is zero


def bellman_errors(trace: Trace) -> Tensor:
    """δ of each row: `|q − target|`, the mean over critics or heads, `[*batch]`."""
    q, target = trace["q"], trace["target"]
    return (q - (target if target.ndim == q.ndim else target.unsqueeze(-1))).abs().mean(-1)


class SumTree:
    """A sum tree: numbers ≥ 0 at `size` leaves, their sum, and the leaf that a point of [0, sum) falls on, in log₂ size steps.

    Every inner node is computed as the sum of its two, never by differences, so no rounding error accumulates and the
    tree that is rebuilt from its leaves has the same bits.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.leaves = 1 << max(1, (size - 1).bit_length())  # node 1 is the root, node i has the children 2 i and 2 i + 1
        self.nodes = np.zeros(2 * self.leaves)

    @property
    def total(self) -> float:
        return float(self.nodes[1])

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        return self.nodes[self.leaves + index]

    def set(self, index: np.ndarray, values: np.ndarray) -> None:
        """Where an index appears twice, its last value counts."""
        node = self.leaves + index
        self.nodes[node] = values
        if len(node) > self.leaves // 8:
            self._rebuild()
            return
        while node[0] > 1:
            node = node >> 1
            self.nodes[node] = self.nodes[2 * node] + self.nodes[2 * node + 1]

    def _rebuild(self) -> None:
        level = self.leaves // 2
        while level:
            children = self.nodes[2 * level : 4 * level]
            self.nodes[level : 2 * level] = children[0::2] + children[1::2]
            level //= 2

    def find(self, points: np.ndarray) -> np.ndarray:
        """The leaves that the points lie on, with the leaves laid end to end."""
        node, points = np.ones(len(points), np.int64), points.copy()
        while node[0] < self.leaves:
            left = self.nodes[2 * node]
            # A point can reach a subtree's end by rounding; an empty right half is never entered.
            right = (points >= left) & (self.nodes[2 * node + 1] > 0)
            points -= np.where(right, left, 0.0)
            node = 2 * node + right
        return node - self.leaves


class PrioritisedReplay(Replay):
    """`alpha` 0 is uniform; `beta` is where the importance exponent starts."""

    def __init__(
        self,
        capacity: int,
        target: Multistep | None = None,
        mapped: str = "",
        alpha: float = 0.6,
        beta: float = 0.4,
    ) -> None:
        super().__init__(capacity, target, mapped)
        self.alpha, self.beta = alpha, beta
        self.highest = 1.0  # p^α of the worst row so far
        self._tree = SumTree(0)

    def add(self, block: Block) -> Tensor:
        slots = super().add(block)
        if self._tree.size == 0:
            self._tree = SumTree(self.slots * self.envs)
        index = (slots[:, None] * self.envs + torch.arange(self.envs)).flatten().numpy()
        self._tree.set(index, np.full(len(index), self.highest))
        return slots

    def sample(self, rows: int, generator: Generator, progress: float = 0.0) -> Drawn:
        """Besides what `Replay.sample` gives, `importance`; `progress` ∈ [0, 1] takes β to 1."""
        within = torch.rand(rows, generator=generator, dtype=torch.float64).numpy()
        index = self._tree.find((np.arange(rows) + within) / rows * self._tree.total)
        probability = self._tree[index] / self._tree.total
        importance = (len(self) * probability) ** -(self.beta + progress * (1 - self.beta))
        drawn = torch.from_numpy(index)
        chosen = self.rows(drawn)
        chosen["importance"] = torch.from_numpy(importance / importance.max()).to(chosen["reward"].dtype)
        return Drawn(chosen, drawn)

    def minibatches(
        self, count: int, rows: int, generator: Generator, progress: float = 0.0, together: int = 1
    ) -> Iterator[Drawn]:
        """Minibatches one after the other, since each changes the priorities by which the next is drawn."""
        for _ in range(count):
            yield self.sample(rows, generator, progress)

    def learned(self, index: Tensor, error: Tensor) -> None:
        priority = (np.abs(error.detach().cpu().numpy().astype(np.float64)) + EPSILON) ** self.alpha
        self._tree.set(index.numpy(), priority)
        self.highest = max(self.highest, float(priority.max()))

    def save(self, directory: Path) -> dict[str, Any]:
        priorities = torch.from_numpy(self._tree[np.arange(self._tree.size)])
        return {**super().save(directory), "priorities": priorities, "highest": self.highest}

    def load(self, directory: Path, state: dict[str, Any]) -> None:
        super().load(directory, state)
        self.highest, priorities = state["highest"], state["priorities"].numpy()
        self._tree = SumTree(len(priorities))
        if len(priorities):
            self._tree.set(np.arange(len(priorities)), priorities)
