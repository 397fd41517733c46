"""The surrogate: one line, for every graph and estimator.

    Σ_costs c        fold[ Π_{x ∈ anc(c)} ω_x · c ]
  − Σ_baselined x    fold[ Π_{y ∈ anc(x)} w_y · (w_x − sg w_x) · sg b_x ]
  + Σ_credited x     fold[ Π_{y ∈ anc(x)} sg w_y · (K_x − sg K_x) ],       K_x = combine(w_x, sg credit_x)
  + Σ_controlled x   fold[ Π_{y ∈ anc(x)} w_y · (k_x − sg k_x) ],          k_x a control variate of the estimator's own

    ω_x = w_x, but sg w_x where x is credited, or where x reaches c only through detach edges

`fold` is the weighted sum over branch axes, the mean over the batch and the sum over time. Along time the products
run over the window of lags at which x influences c, within the episode. Only the first term has a value.

The mean over time, `reduce="mean"`, divides each cost of the sequence by its number of steps T, and a credit or baseline
with the costs that it stands for; a cost outside the sequence is there once.

Schulman et al. (2015), the costs-downstream rule; Foerster et al. (2018), the operator; Weber et al. (2019), credit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from scg.credit import Credit, first_order
from scg.errors import GraphError
from scg.estimator import Estimator
from scg.evaluation.objectives import leak
from scg.evaluation.record import Record, broadcastable
from scg.surrogate.credit_view import CreditView
from scg.surrogate.finite_check import finite
from scg.surrogate.score_sums import ScoreSums
from scg.surrogate.weight_product import Product, marginal


def assemble(trace: Record, costs: Iterable[str], reduce: Literal["sum", "mean"]) -> Tensor:
    """The surrogate of `costs`, objective by objective."""
    scope_of = trace.plan.scope_of
    if not scope_of and costs:
        return finite(trace, _objective(trace, list(costs), None, reduce))
    groups: dict[int | None, list[str]] = {}
    for cost in costs:
        groups.setdefault(scope_of.get(cost), []).append(cost)
    total: Tensor | None = None
    for scope, names in groups.items():
        term = _objective(trace, names, scope, reduce)
        total = term if total is None else total + term
    if total is None:
        raise GraphError("this graph has no cost: declare one with @graph.cost or @graph.reward")
    return finite(trace, total)


def _objective(trace: Record, costs: list[str], scope: int | None, reduce: Literal["sum", "mean"]) -> Tensor:
    structure, nodes = trace.structure, trace.structure.nodes
    total: Tensor | None = None
    sums = ScoreSums(trace, scope)
    for cost in costs:
        product = Product(trace, scope, cost)
        product.ancestors(sums)
        term = product.fold(trace.batch_value(cost), cost, step_share(trace, [cost], cost, reduce))
        total = term if total is None else total + term
    assert total is not None
    untrained = trace.plan.scopes[scope].cut if scope is not None else ()
    for name in structure.scoring(tuple(costs)):  # nodes whose likelihood ratio these costs are weighed with
        if name in untrained:
            continue
        node = nodes[name]
        if trace.weight(name, scope).control is not None:
            total = total + _control_term(trace, name, scope, costs, reduce, sums)
        if node.credit is not None:
            total = total + _credit_term(trace, name, scope, costs, reduce)
        elif node.baseline is not None:
            total = total - _baseline_term(trace, name, scope, costs, reduce, sums)
    if scope is not None and not torch.compiler.is_compiling() and not trace.plan.sealed.issuperset(costs):
        leak(trace.plan.scopes[scope], costs[0], total, trace.inputs, lambda key: where(trace, key))
        if torch.is_grad_enabled():
            trace.plan.sealed.update(costs)
    return total


def objective(trace: Record) -> Tensor:
    """The cost terms alone, detached."""
    total: Tensor | None = None
    for cost in trace.structure.costs:
        product = Product(trace, None, cost)
        for influence in trace.structure.influences(cost):
            product.add(influence, live=False)
        term = product.fold(trace.batch_value(cost).detach(), cost)
        total = term if total is None else total + term
    if total is None:
        raise GraphError("this graph has no cost: declare one with @graph.cost or @graph.reward")
    return total.detach()


def step_share(trace: Record, costs: Iterable[str], name: str, reduce: Literal["sum", "mean"], exact: bool = True) -> float:
    """What `reduce` multiplies the costs downstream of `name` by: 1/T for a mean over the steps of a sequence.

    exact   refuse costs of both kinds downstream; where the mean of the term is zero, any share is right
    """
    if reduce == "sum" or not trace.structure.has_sequence:
        return 1.0
    nodes = trace.structure.nodes
    inside = {nodes[c].in_sequence for c in costs if c == name or trace.structure.window(name, c, live=True) is not None}
    if len(inside) > 1 and exact:
        raise GraphError(
            f"node {name!r}: reduce='mean' divides the costs of the sequence by its steps and leaves the others whole, but its "
            "credit stands for costs of both kinds together.\nUse reduce='sum' (and scale the costs), or drop credit=."
        )
    assert trace.steps is not None
    return 1.0 / trace.steps if True in inside else 1.0


def _baseline_term(
    trace: Record, name: str, scope: int | None, costs: list[str], reduce: Literal["sum", "mean"], sums: ScoreSums
) -> Tensor:
    weight = trace.weight(name, scope)
    if weight.score is None and weight.factor is None:
        return torch.zeros(())  # a pathwise node has no score to subtract from
    baseline = level(trace, name, "baseline", trace.structure.nodes[name].baseline)
    product = Product(trace, scope, name)
    product.ancestors(sums)
    product.own(weight)
    centred = torch.expm1(weight.score) if weight.score is not None else weight.factor - weight.factor.detach()  # type: ignore[union-attr,operator]
    return product.fold(centred * baseline, name, step_share(trace, costs, name, reduce, exact=False))


def _control_term(
    trace: Record, name: str, scope: int | None, costs: list[str], reduce: Literal["sum", "mean"], sums: ScoreSums
) -> Tensor:
    control = trace.weight(name, scope).control
    assert control is not None
    product = Product(trace, scope, name)
    product.ancestors(sums)
    return product.fold(control - control.detach(), name, step_share(trace, costs, name, reduce, exact=False))


def _credit_term(trace: Record, name: str, scope: int | None, costs: list[str], reduce: Literal["sum", "mean"]) -> Tensor:
    weight = trace.weight(name, scope)
    if weight.score is None and weight.factor is None:
        raise GraphError(
            f"node {name!r}: a credit multiplies a likelihood ratio, and {trace.structure.nodes[name].estimator!r} has none.\n"
            "Drop credit=, or use ScoreFunction() or another estimator with weights."
        )
    credit = credit_of(trace, name, scope, costs)
    live = weight.score.exp() if weight.score is not None else weight.factor
    assert live is not None
    node = trace.structure.nodes[name]
    higher = isinstance(node.credit, Credit) and node.credit.order > 1
    if higher and type(node.estimator).combine is not Estimator.combine:
        raise GraphError(
            f"node {name!r}: {node.credit!r} is of higher order, and {node.estimator!r} combines to first order only"
        )
    if not trace.learning:
        below = (trace.batch_value(c) for c in costs if trace.structure.window(name, c, live=True) is not None)
        live = first_order(live, name, node.credit, below)
    time = trace.axes.time_dim if node.in_sequence else None
    live = node.estimator.pooled(live, time, lambda other: trace.batch_value(other).detach())
    combined = node.estimator.combine(live, credit)
    product = Product(trace, scope, name)
    for influence in trace.structure.influences(name):
        if higher or influence.node != name:  # else earlier steps of the node itself are left out, as PPO does
            product.add(influence, live=higher)
    product.own(weight)
    return product.fold(combined - combined.detach(), name, step_share(trace, costs, name, reduce))


def credit_of(trace: Record, name: str, scope: int | None, costs: Iterable[str] | None = None) -> Tensor:
    """`sg (credit_x − b_x)` as a block, from what was given, a node, a constant, or a `Credit` over the downstream costs."""
    node = trace.structure.nodes[name]
    given = trace.given.get(f"{name}.credit")
    if given is not None:
        given = trace.axes.given(given) if node.in_sequence else trace.axes.block(given)
        return fitting(trace, name, "credit", given.detach())
    if node.credit is None:
        raise GraphError(f"node {name!r}: it has no credit; its whole cost-to-go weighs it")
    if isinstance(node.credit, Credit):
        view = CreditView(trace, name, costs or _training(trace, name))
        credit: Tensor | float = fitting(trace, name, "credit", view.back(view.answer(node.credit).detach()))
    else:
        credit = level(trace, name, "credit", node.credit)
    if node.baseline is not None:
        credit = credit - level(trace, name, "baseline", node.baseline)
    return torch.as_tensor(credit)


def _training(trace: Record, name: str) -> list[str]:
    """The costs whose objectives train what the node's distribution is made from."""
    plan = trace.plan
    return [c for c in trace.structure.costs if c not in plan.scope_of or name not in plan.scopes[plan.scope_of[c]].cut]


def level(trace: Record, name: str, what: str, source: str | float) -> Tensor | float:
    """A baseline or credit of node `name` that is a node or a constant, detached."""
    if not isinstance(source, str):
        return float(source)
    value = marginal(trace, source, name)
    if trace.structure.nodes[source].in_sequence and not trace.structure.nodes[name].in_sequence:
        value = trace.axes.final(value)  # a node outside the sequence reads its last step
    return fitting(trace, name, what, value)


def fitting(trace: Record, name: str, what: str, value: Tensor) -> Tensor:
    """A baseline or credit whose axes are those of a batch, and those on which its node's ancestors branch; else an error."""
    axes, weight = trace.axes, trace.weight(name)
    own = weight.score if weight.factor is None else weight.factor
    shape = torch.Size() if own is None else own.shape
    sizes = {w.axis: w.n for w in trace.weights.values() if w.n is not None}
    strange = any(value.shape[axes.slot_dim(axis)] not in (1, sizes.get(axis, 1)) for axis in range(value.ndim - axes.rank))
    if strange or not broadcastable(value.shape[-axes.rank :], shape[-axes.rank :]):
        raise GraphError(
            f"node {name!r}: its {what} has shape {tuple(value.shape)}, its weights {tuple(shape)}; one would broadcast "
            "against the other. Return one value per batch element (squeeze a trailing axis of size 1)."
        )
    return value


def where(trace: Record, key: int) -> str:
    """Words for a leaf tensor, by identity."""
    for name, value in trace.inputs.items():
        if id(value) == key:
            return f"the input {name!r}"
    return "a tensor"
