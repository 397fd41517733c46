"""The Bellman regression of action values, the same in seven agents.

    (obs, action) → q = Q(obs, action) → ⟨importance · Σ (q − target)²⟩        trains the critics, target detached

`target` `[*batch]` is the page's node. `importance` is 1, or the weight of prioritised replay.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

import scg
from scg import detach
from scg.trace import Trace


def bellman(
    graph: scg.Graph, critics: nn.Module, q: Callable[[Tensor, Tensor], Tensor] | None = None, half: bool = False
) -> None:
    """Adds `q` `[*batch, critics]` (by default the critics themselves) and the cost `bellman`; `half` halves the square."""

    def values(obs: Tensor, action: Tensor) -> Tensor:
        return critics(obs, action)

    graph.deterministic(values if q is None else q, name="q")

    @graph.cost(name="bellman", trains=critics)
    def _(q: Tensor, target: Tensor = detach("target"), importance: float = 1.0) -> Tensor:
        squares = importance * (q - target.unsqueeze(-1)).square().sum(-1)
        return squares / 2 if half else squares


def bellman_errors(trace: Trace) -> Tensor:
    """`|q − target|`, the mean over critics or heads, `[*batch]`."""
    q, target = trace["q"], trace["target"]
    return (q - (target if target.ndim == q.ndim else target.unsqueeze(-1))).abs().mean(-1)
