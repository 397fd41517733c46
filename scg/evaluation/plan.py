"""What an examination leaves for later evaluations: ranks, first-order nodes, and what each node is to each objective.

One plan for each signature of a call (`checks/signature.py`), learned on a draw with one branch a node.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from scg.evaluation.axes import Ranks
from scg.evaluation.objectives import Scope


@dataclass
class Plan:
    """Ranks are of one step, without branch axes.

    batch_rank    of the costs: the greatest
    ranks         of each stochastic node's distribution
    value_ranks   of each node's value;     cost_ranks   of each cost's
    below         as in `Axes`
    missing       how many axes of the batch a given value of the sequence lacks, leaf by leaf
    first_order   nodes whose estimator is right to first order only
    kinked        nodes whose function has a kink that samples cross
    scopes        the parameters of each objective with `trains=`;     scope_of   the number of each cost's objective
    observed      observed nodes that the call passed among its inputs
    sealed        costs whose gradient was seen to reach nothing that they do not train
    """

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
