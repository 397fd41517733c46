"""The surrogate: one line, for every graph and estimator.

    Σ_costs c        fold[ Π_{x ∈ anc(c)} ω_x · c ]
  − Σ_baselined x    fold[ Π_{y ∈ anc(x)} w_y · (w_x − sg w_x) · sg b_x ]
  + Σ_credited x     fold[ Π_{y ∈ anc(x)} sg w_y · (K_x − sg K_x) ],       K_x = combine(w_x, sg credit_x)

    ω_x = w_x, but sg w_x where x is credited, or where x reaches c only through detach edges

`fold` is the weighted sum over branch axes, the mean over the batch and the sum over time. Along time the products
run over the window of lags at which x influences c, within the episode. Only the first term has a value.

Schulman et al. (2015), the costs-downstream rule; Foerster et al. (2018), the operator; Weber et al. (2019), credit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor

from scg.analysis import Influence, Window
from scg.credit import Credit
from scg.downstream import View
from scg.finite import finite
from scg.errors import GraphError
from scg.scan import starts, window_product, window_sum
from scg.scope import leak
from scg.trace import Trace, Weight


def assemble(trace: Trace, costs: Iterable[str], reduce: Literal["sum", "mean"]) -> Tensor:
    """The surrogate of `costs`, objective by objective."""
    scope_of = trace.plan.scope_of
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


def _objective(trace: Trace, costs: list[str], scope: int | None, reduce: Literal["sum", "mean"]) -> Tensor:
    structure, nodes = trace.structure, trace.structure.nodes
    total: Tensor | None = None
    scored: dict[str, None] = {}  # nodes whose likelihood ratio these costs are weighed with
    for cost in costs:
        influences = structure.influences(cost)
        product = Product(trace, scope, cost)
        for influence in influences:
            live = influence.live is not None
            product.add(influence, live=live and nodes[influence.node].credit is None)
            if live:
                scored[influence.node] = None
        term = product.fold(trace.batch_value(cost), reduce, cost)
        total = term if total is None else total + term
    assert total is not None
    untrained = trace.plan.scopes[scope].cut if scope is not None else ()
    for name in scored:
        if name in untrained:
            continue
        node = nodes[name]
        if node.credit is not None:
            total = total + _credit_term(trace, name, scope, costs, reduce)
        elif node.baseline is not None:
            total = total - _baseline_term(trace, name, scope, reduce)
    if scope is not None and scope not in trace.plan.sealed and not torch.compiler.is_compiling():
        trace.plan.sealed.add(scope)
        leak(trace.plan.scopes[scope], costs[0], total, trace.evaluation.inputs, lambda key: where(trace, key))
    return total


def objective(trace: Trace) -> Tensor:
    """The cost terms alone, detached."""
    total: Tensor | None = None
    for cost in trace.structure.costs:
        product = Product(trace, None, cost)
        for influence in trace.structure.influences(cost):
            product.add(influence, live=False)
        term = product.fold(trace.batch_value(cost).detach(), "sum", cost)
        total = term if total is None else total + term
    if total is None:
        raise GraphError("this graph has no cost: declare one with @graph.cost or @graph.reward")
    return total.detach()


def _baseline_term(trace: Trace, name: str, scope: int | None, reduce: Literal["sum", "mean"]) -> Tensor:
    weight = trace.weight(name, scope)
    if weight.score is None and weight.factor is None:
        return torch.zeros(())  # a pathwise node has no score to subtract from
    baseline = level(trace, name, "baseline", trace.structure.nodes[name].baseline)
    product = Product(trace, scope, name)
    for influence in trace.structure.influences(name):
        product.add(influence, live=trace.structure.nodes[influence.node].credit is None)
    product.own(weight)
    centred = torch.expm1(weight.score) if weight.score is not None else weight.factor - weight.factor.detach()  # type: ignore[union-attr,operator]
    return product.fold(centred * baseline, reduce, name)


def _credit_term(trace: Trace, name: str, scope: int | None, costs: list[str], reduce: Literal["sum", "mean"]) -> Tensor:
    weight = trace.weight(name, scope)
    if weight.score is None and weight.factor is None:
        raise GraphError(
            f"node {name!r}: a credit multiplies a likelihood ratio, and {trace.structure.nodes[name].estimator!r} has none.\n"
            "Drop credit=, or use ScoreFunction() or another estimator with weights."
        )
    credit = credit_of(trace, name, scope, costs)
    live = weight.score.exp() if weight.score is not None else weight.factor
    assert live is not None
    combined = trace.structure.nodes[name].estimator.combine(live, credit)
    product = Product(trace, scope, name)
    for influence in trace.structure.influences(name):
        if influence.node != name:  # earlier steps of the node itself are left out: PPO's documented approximation
            product.add(influence, live=False)
    product.own(weight)
    return product.fold(combined - combined.detach(), reduce, name)


def credit_of(trace: Trace, name: str, scope: int | None, costs: Iterable[str] | None = None) -> Tensor:
    """`sg (credit_x − b_x)`, from what was given, a node, a constant, or a `Credit` over the downstream costs."""
    node = trace.structure.nodes[name]
    given = trace.given.get(f"{name}.credit")
    if given is not None:
        return fitting(trace, name, "credit", given.detach())
    if node.credit is None:
        raise GraphError(f"node {name!r}: it has no credit; its whole cost-to-go weighs it")
    if isinstance(node.credit, Credit):
        view = View(trace, name, costs or _training(trace, name))
        credit: Tensor | float = fitting(trace, name, "credit", view.back(node.credit(view.downstream()).detach()))
    else:
        credit = level(trace, name, "credit", node.credit)
    if node.baseline is not None:
        credit = credit - level(trace, name, "baseline", node.baseline)
    return torch.as_tensor(credit)


def _training(trace: Trace, name: str) -> list[str]:
    """The costs whose objectives train what the node's distribution is made from."""
    plan = trace.plan
    return [c for c in trace.structure.costs if c not in plan.scope_of or name not in plan.scopes[plan.scope_of[c]].cut]


def level(trace: Trace, name: str, what: str, source: str | float) -> Tensor | float:
    """A baseline or credit of node `name` that is a node or a constant, detached."""
    if not isinstance(source, str):
        return float(source)
    nodes, value = trace.structure.nodes, marginal(trace, source, name)
    if nodes[name].in_sequence and not nodes[source].in_sequence:
        value = trace.seen_from_inside(value)
    return fitting(trace, name, what, value)


def marginal(trace: Trace, source: str, name: str) -> Tensor:
    """The value of `source`, detached, averaged over the branches of what does not come before node `name`."""
    value = trace.batch_value(source).detach()
    kept = {name, *(influence.node for influence in trace.structure.influences(name))}
    product = Product(trace, None, source)
    for influence in trace.structure.influences(source):
        if influence.node not in kept and trace.weight(influence.node).n is not None:
            product.add(influence, live=False)
    return product.average(value) if product.branched else value


def fitting(trace: Trace, name: str, what: str, value: Tensor) -> Tensor:
    """A baseline or credit whose axes are those of a batch, and those on which its node's ancestors branch; else an error."""
    rank = Product(trace, None, name).inner()
    sizes = {w.axis: w.n for w in trace.evaluation.weights.values() if w.n is not None}
    for axis in range(value.ndim - rank):
        if value.shape[value.ndim - rank - 1 - axis] not in (1, sizes.get(axis, 1)):
            weight = trace.weight(name)
            shape = (weight.score if weight.factor is None else weight.factor).shape  # type: ignore[union-attr]
            raise GraphError(
                f"node {name!r}: its {what} has shape {tuple(value.shape)}, its weights {tuple(shape)}; one would broadcast "
                "against the other. Return one value per batch element (squeeze a trailing axis of size 1)."
            )
    return value


class Product:
    """`Π w_x` over the ancestors of one target, kept factored: scores are summed, other weights multiplied."""

    def __init__(self, trace: Trace, scope: int | None, target: str) -> None:
        self.trace, self.scope, self.target = trace, scope, target
        self.in_sequence = trace.structure.nodes[target].in_sequence
        self.on_plate = target in trace.structure.on_plate
        self.scores: dict[tuple[bool, int, float], Tensor] = {}
        self.factor: Tensor | None = None
        self.branched: list[Weight] = []

    def own(self, weight: Weight) -> None:
        """The target's own branch axis counts in the fold; its weight is in the folded value already."""
        if weight.n is not None:
            self.branched.append(weight)

    def add(self, influence: Influence, live: bool) -> None:
        weight = self.trace.weight(influence.node, self.scope)
        if weight.on_plate and not self.on_plate:
            weight = _joint(weight, -1 - self.trace.plan.batch_rank)
        if weight.n is not None:
            self.branched.append(weight)
        if weight.score is not None and live:  # detached, it is 1
            window = influence.live or influence.full
            key = (weight.in_sequence, window.lo, window.hi)
            self.scores[key] = weight.score if key not in self.scores else self.scores[key] + weight.score
        if weight.factor is not None:
            for window, factor in _parts(influence, weight.factor, live):
                part = self._along(factor, weight.in_sequence, window.lo, window.hi, window_product)
                self.factor = part if self.factor is None else self.factor * part

    def _along(self, x: Tensor, in_sequence: bool, lo: int, hi: float, scan: Callable[..., Tensor]) -> Tensor:
        """A weight, seen from the target: its window along time, or the same at every step."""
        rank = self.trace.plan.batch_rank
        if not in_sequence:
            return self.trace.seen_from_inside(x) if self.in_sequence else x
        if lo != 0 or hi != 0:
            first = self.trace.first
            x = scan(x, lo, hi, None if first is None else starts(first), -(rank + 1))
        return x if self.in_sequence else x.select(-(rank + 1), -1)

    def fold(self, value: Tensor, reduce: Literal["sum", "mean"], name: str) -> Tensor:
        """Weigh `value`, then reduce: branches by their weights, the batch by its mean, time by sum or mean."""
        weight = self.factor
        if self.scores:
            log: Tensor | None = None
            for (in_sequence, lo, hi), score in self.scores.items():
                part = self._along(score, in_sequence, lo, hi, window_sum)
                log = part if log is None else log + part
            assert log is not None
            weight = log.exp() if weight is None else weight * log.exp()
        rank = self.trace.plan.batch_rank + self.in_sequence
        if name in self.trace.structure.reducing and value.ndim > rank:
            value = value.unsqueeze(value.ndim - rank)  # the cost has reduced the plate; axes beyond it keep their places
        total = value if weight is None else value * weight
        if weight is not None:
            mine, weighed = value.shape[max(0, value.ndim - rank) :], total.shape[max(0, total.ndim - rank) :]
            grown = len(weighed) - len(mine)
            if weighed[grown:] != mine or weighed[:grown].numel() != 1:
                _refuse_broadcast(name, value, weight, rank)
        if total.ndim == 0:
            return total
        batch = total.shape[max(0, total.ndim - rank) :]
        scale = (batch[1:] if self.in_sequence and reduce == "sum" else batch).numel()
        for branched in self.branched:  # uniform weights average over their axis where the value has it
            dim = total.ndim - self.inner() - 1 - branched.axis
            if branched.factor is None and dim >= 0:
                scale *= total.shape[dim]
        return total.sum() if scale == 1 else total.sum() / scale

    def average(self, value: Tensor) -> Tensor:
        """`value` with its branch axes reduced by their weights, and kept with size 1."""
        value = value if self.factor is None else value * self.factor
        for branched in self.branched:
            dim = value.ndim - self.inner() - 1 - branched.axis
            if dim >= 0:
                value = value.mean(dim, keepdim=True) if branched.factor is None else value.sum(dim, keepdim=True)
        return value

    def inner(self) -> int:
        """How many axes lie right of the branch axes: plate, time, batch."""
        timed = self.in_sequence or self.trace.evaluation.vectorised
        return self.trace.plan.batch_rank + timed + (self.trace.structure.plate is not None)


def _joint(weight: Weight, dim: int) -> Weight:
    """The weight of all samples on a plate together, as what follows the plate sees it."""
    score = None if weight.score is None else weight.score.sum(dim, keepdim=True)
    factor = None if weight.factor is None else weight.factor.prod(dim, keepdim=True)
    return Weight(score, factor, weight.n, weight.axis, weight.in_sequence)


def _parts(influence: Influence, factor: Tensor, live: bool) -> list[tuple[Window, Tensor]]:
    """Weights whose value is not 1 count wherever the node influences at all, and with gradient where it does so live."""
    full, window = influence.full, influence.live
    if not live or window is None:
        return [(full, factor.detach())]
    parts = [(window, factor)]
    if full.lo < window.lo:
        parts.append((Window(full.lo, window.lo - 1), factor.detach()))
    if full.hi > window.hi:
        parts.append((Window(int(window.hi) + 1, full.hi), factor.detach()))
    return parts


def _refuse_broadcast(name: str, value: Tensor, weight: Tensor, rank: int) -> None:
    raise GraphError(
        f"node {name!r}: its value has batch shape {tuple(value.shape[max(0, value.ndim - rank) :])}, and the weights of its "
        f"stochastic ancestors have {tuple(weight.shape[max(0, weight.ndim - rank) :])}; broadcasting one up to the other "
        "mixes batch elements.\nReturn one cost per batch element, or wrap the ancestors' distributions in Independent(…, 1)."
    )


def where(trace: Trace, key: int) -> str:
    """Words for a leaf tensor, by identity."""
    for name, value in trace.evaluation.inputs.items():
        if id(value) == key:
            return f"the input {name!r}"
    return "a tensor"
