"""What the first sample teaches: ranks, first-order nodes, and what each node is to each objective.

Learned for each signature of a call (see `signature.py`), on a draw with one branch a node.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from scg.evaluation.axes import Ranks
from scg.evaluation.objectives import Scope


@dataclass
class Plan:
    """batch_rank: the rank of the costs at one step. ranks: of each stochastic node's distribution, unbranched.
    value_ranks: of each node's value, unbranched. below: as in `Axes`. missing: axes of the batch that given values of the sequence lack. first_order: nodes whose estimator stops there; kinked: nodes whose function has a kink that samples cross.
    observed: nodes that were given among the inputs. scope_of: the scope of each cost with `trains=`. sealed: costs whose gradient was seen to leak nowhere."""

    batch_rank: int
    ranks: dict[str, int]
    value_ranks: dict[str, int]
    cost_ranks: dict[str, int]
    below: dict[str, Ranks] = field(default_factory=dict)
    missing: dict[str, Ranks] = field(default_factory=dict)
    first_order: frozenset[str] = frozenset()
    kinked: frozenset[str] = frozenset()
    scopes: tuple[Scope, ...] = ()
    scope_of: dict[str, int] = field(default_factory=dict)
    observed: tuple[str, ...] = ()
    sealed: set[str] = field(default_factory=set)
