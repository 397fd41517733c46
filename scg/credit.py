"""A credit replaces what lies downstream of a stochastic node in the likelihood-ratio term (Weber et al. 2019).

    ∇E[Σ c]  ∋  E[ Q_x · ∇log p(x) ],      Q_x any estimate of the cost that x still influences

n-step returns, GAE, Q-critics are choices of `Q_x`. A credit is a constant, a node's name, a function of nodes,
or a `Credit`, which sees the whole `[time, batch]` trace through a `Downstream`. Everything is in cost units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from scg.distributions.derivative_order import barrier, moves
from scg.errors import GraphError
from scg.scan import INFINITE, affine, shift


@dataclass(frozen=True)
class Downstream:
    """What lies downstream of one credited node, detached.

    Every tensor here is `[time, branch…, batch…]`, of one rank, so that time is axis 0 whatever branches above;
    for a node outside a sequence `[branch…, batch…]`. A credit is returned in the same form.

    node    the credited node's name
    costs   (value, least lag, greatest lag) of each cost that the node influences with a gradient. To a node of the
            sequence a cost after it belongs to the last step; to a node outside, costs inside are summed over time
    first   whether a step opens an episode, bool; None without episode boundaries
    batch_rank, node_rank   axes of the batch; axes of it that the node's own distribution has (0: one sample for all)
    ratio   π/μ of the node where its value was recorded with a log-probability, else None
    sizes   of those axes, from the right: 1 where one sample is for all elements of the costs
    names   of the costs, in the same order
    value   any other node or given value by name, `value("value")`
    """

    node: str
    costs: tuple[tuple[Tensor, int, float], ...]
    first: Tensor | None
    in_sequence: bool
    batch_rank: int
    node_rank: int
    ratio: Tensor | None
    value: Callable[[str], Tensor]
    sizes: tuple[int, ...] = ()
    names: tuple[str, ...] = ()

    def ends(self) -> Tensor:
        """1 where the next step belongs to another episode or lies beyond the block, shaped like the costs and the episodes."""
        shapes = [c.shape for c, _, _ in self.costs]
        if self.first is not None:  # episodes may start element by element where costs are the same for the batch
            shapes.append(self.first.shape)
        like = torch.zeros(torch.broadcast_shapes(*shapes), dtype=self.costs[0][0].dtype, device=self.costs[0][0].device)
        if self.first is None:
            ends = torch.zeros_like(like)
        else:
            ends = shift(self.first.to(like.dtype).flip(0), 1, 0, 1.0).flip(0).expand_as(like).clone()
        ends[-1] = 1.0
        return ends

    def step_cost(self, discount: float = 1.0) -> Tensor:
        """The downstream cost that each step is charged with: Σ_c γ^lag c_{t+lag} at each cost's least lag."""
        total: Tensor | None = None
        for cost, lo, _ in self.costs:
            term = cost
            if self.in_sequence and lo:
                term = discount**lo * self._ahead(cost, lo)
            total = term if total is None else total + term
        assert total is not None
        return total

    def cost_to_go(self, discount: float = 1.0) -> Tensor:
        """Σ_c Σ_lag γ^lag c_{t+lag}, over the lags at which the node influences c, within its episode."""
        if not self.in_sequence:
            return self.step_cost()
        total: Tensor | None = None
        for cost, lo, hi in self.costs:
            if hi == INFINITE:
                term = affine(discount * (1.0 - self.ends()), cost)
                term = discount**lo * self._ahead(term, lo) if lo else term
            else:
                term = sum((discount**lag * self._ahead(cost, lag) for lag in range(lo, int(hi) + 1)), torch.zeros_like(cost))
            total = term if total is None else total + term
        assert total is not None
        return total

    def _ahead(self, x: Tensor, lag: int) -> Tensor:
        """`x_{t+lag}`, 0 beyond the end of the episode."""
        alive = 1.0 - self.ends()
        for _ in range(lag):
            x = alive * shift(x.flip(0), 1, 0, 0.0).flip(0)
        return x


class Credit:
    """The protocol: called with a `Downstream`, returns the credit, shaped like the costs.

    critics     nodes that stand in for costs beyond the record, as V(s_{t+1}) does in a bootstrap
    q_critics   nodes that replace the node's own cost-to-go, as Q(s, a) does
                `graph.check()` holds what both read against what they must separate
    order       the highest derivative that is right: 1, where the credit stands for a cost that θ moves, or ∞ for a
                credit whose weights are to be differentiated again, earlier steps' too (Loaded DiCE)
    """

    critics: tuple[str, ...] = ()
    q_critics: tuple[str, ...] = ()
    order: float = 1.0

    def __call__(self, downstream: Downstream) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define __call__(downstream)")


def check_credit_or_baseline(node: str, what: str, given: Any) -> None:
    """Refuse what is no `credit=` or `baseline=`."""
    if given is None or isinstance(given, str) or (isinstance(given, Credit) and what == "credit"):
        return
    if isinstance(given, type):
        raise GraphError(f"node {node!r}: {what}={given.__name__} is a class; give an instance, {given.__name__}(…)")
    if callable(given) and not isinstance(given, Credit):
        return
    single = isinstance(given, Tensor) and given.numel() == 1 and not given.is_complex()
    if not single and (not isinstance(given, Real) or isinstance(given, bool)):
        own = "a Credit, " if what == "credit" else ""
        found = f"shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"type {type(given).__name__}"
        raise GraphError(
            f"node {node!r}: {what}= is {own}a node's name, a function of nodes or one real number, got {given!r} of {found}"
        )
    if not math.isfinite(given):
        raise GraphError(f"node {node!r}: {what}={given!r} is not finite")


CREDIT = (
    "its credit, which is a constant there: what the costs and the earlier weights add to a second derivative is left out.\n"
    "Drop credit=, or use LoadedDice(…) where the costs depend on θ through the samples alone."
)
DIRECT = (
    "its credit, and a cost downstream of it depends on θ by itself, or through pathwise samples: the product of its slope and "
    "the score's is left out.\nDrop credit=; LoadedDice(…) is for costs of the samples alone."
)


def first_order(weight: Tensor, name: str, credit: Any, costs: Iterable[Tensor]) -> Tensor:
    """The weight that a credit multiplies, behind a barrier where its second derivative would be wrong without a word.

    costs   what lies downstream of the node, with gradients
    """
    if torch.compiler.is_compiling():
        return weight
    if not isinstance(credit, Credit) or credit.order <= 1:
        return barrier(weight, name, CREDIT)
    return barrier(weight, name, DIRECT) if any(map(moves, costs)) else weight
