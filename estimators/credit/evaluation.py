"""Any credit evaluated on a trace, whichever credit its node was declared with: critics' targets, comparisons of credits."""

from __future__ import annotations

from torch import Tensor

from scg.credit import Credit
from scg.errors import GraphError, nearest
from scg.estimators.credit.monte_carlo import MonteCarlo
from scg.surrogate.credit_view import CreditView
from scg.trace import Trace


def evaluate_credit(credit: Credit, trace: Trace, node: str, *costs: str) -> Tensor:
    """`credit` of `node`, detached, `[(time,) batch…]`; no baseline is subtracted. Without `costs`, of all costs that
    train the node's distribution."""
    if not trace.structure.is_a("stochastic", node):
        raise GraphError(f"{node!r} is no stochastic node of this trace.{nearest(node, trace.structure.stochastic)}")
    view = CreditView(trace, node, costs or [c for c in trace.structure.costs if _trains(trace, c, node)])
    return view.back(credit(view.downstream()).detach())


def cost_to_go(trace: Trace, node: str, *costs: str, discount: float = 1.0) -> Tensor:
    """The discounted cost that `node` still influences: what its baseline should predict."""
    return evaluate_credit(MonteCarlo(discount), trace, node, *costs)


def _trains(trace: Trace, cost: str, node: str) -> bool:
    scope = trace.plan.scope_of.get(cost)
    return scope is None or node not in trace.plan.scopes[scope].cut
