"""A graph's expected gradient over weighed recordings: each path has its own copy of the parameters, so one backward pass
leaves every path's gradient in its own.

    Σ_paths weight · ∇ surrogate(path)                copies' parameters `[path, …]`
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from scg.graph import Graph


def gradients(copies: nn.Module) -> Tensor:
    """`[path, parameters]`, of a module whose every parameter is `[path, …]`; 0 where a path has none."""
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in copies.parameters()]
    return torch.cat([part.flatten(1) for part in parts], -1)


def expected_gradient(
    graph: Graph, given: Mapping[str, Tensor], copies: nn.Module, weight: Tensor, cost: str = "gain"
) -> Tensor:
    """`Σ_paths weight ∇ surrogate(cost)`, flat, for a graph that was built with `copies` of a policy, one a path.

    What is recorded and no node of the graph is left out.
    """
    copies.zero_grad()
    known = {name: x for name, x in given.items() if name.partition(".")[0] in graph.nodes}
    graph.replay(known).surrogate(cost).backward()
    return (weight[:, None] * gradients(copies)).sum(0) * len(weight)  # the surrogate is the mean over paths


def close(found: Tensor, exact: Tensor, to: float = 1e-10) -> bool:
    """Whether they differ by at most `to` of the exact one's length."""
    return bool((found - exact).norm() <= to * exact.norm())
