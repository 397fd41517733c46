"""What the first sample teaches: ranks, first-order nodes, and what each node is to each objective.

Learned once per graph and signature of the inputs' ranks, on a draw with one branch a node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scg.scope import Scope


@dataclass
class Plan:
    """batch_rank: the rank of the costs at one step. ranks: of each stochastic node's distribution, unbranched.
    value_ranks: of each node's value, unbranched. first_order: nodes whose estimator stops there.
    observed: nodes that were given among the inputs. scope_of: the scope of each cost with `trains=`. sealed: costs whose gradient was seen to leak nowhere."""

    batch_rank: int
    ranks: dict[str, int]
    value_ranks: dict[str, int]
    cost_ranks: dict[str, int]
    first_order: frozenset[str] = frozenset()
    scopes: tuple[Scope, ...] = ()
    scope_of: dict[str, int] = field(default_factory=dict)
    observed: tuple[str, ...] = ()
    sealed: set[str] = field(default_factory=set)


def signature(given: Mapping[str, Any], inputs: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a plan depends on: which values are given, and the rank of everything."""
    return (
        *given, None, *inputs,
        *[getattr(v, "ndim", 0) for v in given.values()], *[getattr(v, "ndim", 0) for v in inputs.values()],
    )  # fmt: skip
