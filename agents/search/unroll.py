"""Search inside an episode: updates after every K steps, and the perturbations that each reward depends on.

    window:      ──── K steps ────┬──── K steps ────┬──── K steps ────        one update a window
    persistent   ε₁               ε₂                ε₃                         ξ: ε₁, ε₁ + ε₂, ε₁ + ε₂ + ε₃          PES
    reused       ε                ε                 ε                          ξ: ε, ε, ε                            NRES

    g = 1/(n scale) Σ_members Σ_steps reward_t ξ_t,          ξ_t: the perturbations since the episode of step t began

The state at a step depends on all perturbations since its episode began, so a reward's score is their sum: the score-function
estimate of a graph that draws theta anew in every window. With the present window's ε alone, the estimate would be that of
truncated ES, which is biased. Members of a pair (2k, 2k + 1) have opposite perturbations while their episodes end together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scg.agents.search.perturbations import Perturbations


@dataclass
class Lives:
    """The perturbation of every slot, now and summed. `reused`: a slot keeps its own until its episode ends."""

    noise: Perturbations
    slots: int
    reused: bool
    window: int = 0
    now: Tensor = field(init=False)  # [slots, d] ε
    due: Tensor = field(init=False)  # [slots, d] ξ
    fresh: Tensor = field(init=False)  # [slots] episodes begun by each slot

    def __post_init__(self) -> None:
        self.settle(self.slots)

    def settle(self, slots: int) -> None:
        """Start `slots` members."""
        self.slots = slots
        self.now = torch.zeros(self.slots, self.noise.dim, dtype=torch.float64)
        self.due = self.now.clone()
        self.fresh = torch.zeros(self.slots, dtype=torch.int64)
        if self.reused:
            for slot in range(self.slots):
                self._begin(slot)

    def _begin(self, slot: int) -> None:
        """The perturbation of an episode; those of a pair's k-th episodes are opposite."""
        row = torch.from_numpy(self.noise.row(int(self.fresh[slot]), slot))
        self.now[slot], self.due[slot] = row, row
        self.fresh[slot] += 1

    def open(self) -> None:
        """A window begins."""
        if not self.reused:
            self.now = self.noise.rows(self.window, range(self.slots))
            self.due = self.due + self.now
        self.window += 1

    def end(self, slot: int) -> None:
        """A slot's episode has ended; the next one begins inside the window."""
        if self.reused:
            self._begin(slot)
        else:
            self.due[slot] = self.now[slot]

    def state_dict(self) -> dict[str, Any]:
        return {"window": self.window, "now": self.now, "due": self.due, "fresh": self.fresh}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.window, self.now, self.due, self.fresh = state["window"], state["now"], state["due"], state["fresh"]
        self.slots = len(self.now)
