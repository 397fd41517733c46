"""What an evaluation leaves: values, distributions and weights by name, and where their axes lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from scg.analysis.structure import Structure
from scg.errors import GraphError, UnknownName, nearest
from scg.evaluation.axes import Axes, broadcast
from scg.evaluation.objectives import Scoped
from scg.evaluation.plan import Plan
from scg.evaluation.weight import Weight, along_time


def real(name: str, value: Any) -> Tensor:
    """The value of node `name`, which is a cost, a baseline or a credit, as a tensor of real numbers."""
    if isinstance(value, (int, float)) or (not isinstance(value, Tensor) and hasattr(value, "__array__")):
        value = torch.as_tensor(value, dtype=torch.get_default_dtype())
    if isinstance(value, Tensor) and not value.is_complex():
        return value
    if isinstance(value, Tensor):
        found = f"complex numbers ({value.dtype})"
    else:
        found = "None (is a `return` missing?)" if value is None else f"an object of type {type(value).__name__}"
    stem, _, what = name.partition(".")
    raise GraphError(
        f"node {stem!r}: its {what or 'function'} returned {found}; costs, baselines and credits are tensors of real numbers, "
        "one per batch element"
    )


def broadcastable(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return all(x == y or x == 1 or y == 1 for x, y in zip(reversed(a), reversed(b), strict=False))


class Step:
    """What one step of an unrolled sequence left."""

    __slots__ = ("distributions", "scoped", "values", "weights")

    def __init__(self, values: Any, distributions: Any, weights: Any, scoped: Any) -> None:
        self.values, self.distributions, self.weights, self.scoped = values, distributions, weights, scoped


class Record:
    """One evaluated graph. `record["x"]` is the value of node x, `[branch…, (time,) batch…, event…]`.

    history    the steps, where the sequence was stepped through; its values, distributions and weights are there then
    scoped     values and weights as each objective with `trains=` sees them
    learning   the parameters of estimators that learn are live
    """

    def __init__(
        self,
        structure: Structure,
        plan: Plan,
        axes: Axes,
        given: Mapping[str, Any],
        inputs: Mapping[str, Any],
        steps: int | None,
        values: dict[str, Any],
        history: list[Step] | None,
        distributions: dict[str, Distribution],
        weights: dict[str, Weight],
        scoped: list[Scoped],
        learning: bool,
    ) -> None:
        self.structure, self.plan, self.axes = structure, plan, axes
        self.given, self.inputs, self.steps = given, inputs, steps
        self.values, self.history = values, history
        self.distributions, self.weights, self.scoped = distributions, weights, scoped
        self.learning = learning
        self._stacked: dict[Any, Any] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.values or (self.history is not None and name in self.history[-1].values)

    def __getitem__(self, name: str) -> Any:
        if self.history is not None and name in self.structure.nodes and self.structure.nodes[name].in_sequence:
            if name not in self._stacked:
                if name not in self.history[-1].values:
                    raise KeyError(name)
                self._stacked[name] = self.axes.stacked(name, [step.values[name] for step in self.history])
            return self._stacked[name]
        if name in self.values:
            return self.values[name]
        if name in self.given:
            return self.given[name]
        raise UnknownName(f"{name!r} has no value in this trace.{nearest(name, self.structure.nodes)}")

    def dist(self, name: str) -> Distribution | list[Distribution]:
        """The distribution of a stochastic node; one for each step where the sequence was stepped through."""
        if not self.structure.is_a("stochastic", name):
            raise UnknownName(f"{name!r} is no stochastic node of this graph.{nearest(name, self.structure.stochastic)}")
        if self.history is not None and self.structure.nodes[name].in_sequence:
            return [step.distributions[name] for step in self.history]
        return self.distributions[name]

    def log_prob(self, name: str) -> Tensor:
        """log p of the values of a stochastic node, detached: what `given["x.log_prob"]` takes later."""
        distribution = self.dist(name)
        if isinstance(distribution, list):
            assert self.history is not None
            steps = zip(distribution, self.history, strict=True)
            return torch.stack(broadcast([d.log_prob(step.values[name]).detach() for d, step in steps]))
        return distribution.log_prob(self[name]).detach()

    # -- blocks (see `axes`) -------------------------------------------------------------------------------

    @property
    def first(self) -> Tensor | None:
        """Where episodes start, `[time, batch…]` with the batch padded to the graph's rank."""
        if self.structure.first is None or self.structure.first not in self.given:
            return None
        return self.axes.given(self.given[self.structure.first])

    def batch_value(self, name: str) -> Tensor:
        """A cost's, baseline's or credit's value as a block."""
        node = self.structure.nodes.get(name)
        key = ("batch", name)
        if key not in self._stacked:
            if self.history is not None and node is not None and node.in_sequence and name in self.history[-1].values:
                self._stacked[key] = self.axes.along_time([real(name, step.values[name]) for step in self.history])
            elif self.structure.plate is not None:
                value = real(name, self[name])
                slots = self.axes.slots(name, 0, value)
                self._stacked[key] = self.axes.block(value, reduced=slots > 0 and value.ndim - slots == self.plan.batch_rank)
            else:
                value = real(name, self[name])
                self._stacked[key] = self.axes.block(value) if self.axes.time else value
        return self._stacked[key]

    def weight(self, name: str, scope: int | None = None) -> Weight:
        """The live weight of a stochastic node as blocks, as the objective `scope` sees it."""
        key = ("weight", name, scope)
        if key in self._stacked:
            return self._stacked[key]
        own = None if scope is None else self.plan.scopes[scope]
        mixed = own is not None and name in own.mixed
        if self.history is not None and self.structure.nodes[name].in_sequence:
            steps = [step.scoped[scope][name] if mixed else step.weights[name] for step in self.history]  # type: ignore[index]
            weight = along_time(steps, self.axes.along_time)
        else:
            weight = self.scoped[scope].weights[name] if mixed else self.weights[name]  # type: ignore[index]
            if self.axes.time or self.axes.plate:
                weight = weight.over(self.axes.block)
        if own is not None and name in own.cut:
            weight = weight.over(Tensor.detach)
        self._stacked[key] = weight
        return weight
