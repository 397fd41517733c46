"""What a loss's gradient is held against: a graph, a function that gives the objective's value, or an environment.

(graph, inputs)            the graph's objective: enumeration, quadrature or finite differences, as in `check_unbiased`
value                      a function without arguments (or of inputs' names): one exact number, or a vector of
                           independent samples whose mean is meant; by differences of the value, on common random numbers
(environment, policy)      minus `environment.objective(policy())`: an environment knows its return in reward units
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from scg.evaluation.objectives import reachable_modules
from scg.graph import Graph
from scg.testing.differences import of_sampler
from scg.testing.held import held
from scg.testing.losses.calls import Loss, LossError, Stream, called, leaves
from scg.testing.oracle import NoOracle, Objective, Oracle, choose
from scg.testing.parameters import Parameters, Wrt
from scg.testing.unroll import Program

ENOUGH = 1024  # samples of a value at one shift and seed, at least


@runtime_checkable
class Environment(Protocol):
    """Anything that knows the exact return of a policy, in reward units, differentiably."""

    def objective(self, policy: Any, /) -> Tensor: ...


@dataclass(frozen=True)
class Rival:
    """Another gradient that the loss may have instead: what would be wrong with it, and the gradient."""

    cause: str
    what: str
    oracle: Oracle

    def __str__(self) -> str:
        return f"{self.cause}: {self.what}"


@dataclass(frozen=True)
class Truth:
    parameters: Parameters
    oracle: Oracle
    rivals: Callable[[], Iterator[Rival]]


def truth_of(objective: Any, loss: Loss, wrt: Wrt, detectable: float, seed: int, steps: int | None = None) -> Truth:
    """The true gradient, with respect to what."""
    first, second = objective if isinstance(objective, tuple) and len(objective) == 2 else (objective, None)
    if isinstance(first, Graph):
        return _of_graph(first, dict(second or {}), loss, wrt, detectable, seed, steps)
    if isinstance(first, Environment) and callable(second):
        return _of_value(lambda: -first.objective(second()), loss, wrt, detectable, seed, (second,))
    if callable(first) and second is None:
        return _of_value(first, loss, wrt, detectable, seed, (first,))
    found = (
        f"a tuple of {', '.join(type(x).__name__ for x in objective)}"
        if isinstance(objective, tuple)
        else type(objective).__name__
    )
    raise TypeError(
        f"objective: (graph, inputs), a function that returns the objective's value, or (environment, policy) where the "
        f"environment has an `objective(policy())`; got {found}"
    )


# -- graphs --------------------------------------------------------------------------------------------------


def _of_graph(
    graph: Graph, inputs: dict[str, Any], loss: Loss, wrt: Wrt, detectable: float, seed: int, steps: int | None
) -> Truth:
    if wrt is None and not any(isinstance(v, Tensor) and v.requires_grad for v in inputs.values()):
        found = {id(m): m for node in graph.nodes.values() for m in reachable_modules(node.fn)}
        wrt = names_of(loss) | {f"{type(m).__name__.lower()}.{n}": p for m in found.values() for n, p in m.named_parameters()}
        reached = {id(p) for m in found.values() for p in m.parameters() if p.requires_grad}
        wrt = {n: t for n, t in wrt.items() if id(t) in reached} or None
    parameters = Parameters(inputs, wrt)
    oracle = choose(graph, parameters, 1, steps, None, detectable, seed)

    def rivals() -> Iterator[Rival]:
        try:
            whole = Objective(Program(graph, parameters.inputs, steps), parameters, 1)
            names = list(dict.fromkeys(p.cost[0] for p in whole.plans))
            parts = {n: sum(whole.derivative(only=c).exact for c, p in enumerate(whole.plans) if p.cost[0] == n) for n in names}
        except Exception:  # what cannot be summed has no rivals
            return
        for name, part in parts.items() if len(parts) > 1 else ():
            assert isinstance(part, Tensor)
            yield Rival(
                "a missing term", f"the true gradient without cost {name!r}", replace(oracle, exact=oracle.exact - part)
            )
            yield Rival(
                "a wrong sign", f"the true gradient with cost {name!r} negated", replace(oracle, exact=oracle.exact - 2 * part)
            )
        for name in graph.structure.stochastic:
            nodes = {
                n: replace(node, parents=tuple(replace(e, detached=e.detached or e.source == name) for e in node.parents))
                for n, node in graph.nodes.items()
            }
            other = Graph()
            other.first, other.nodes = graph.first, nodes
            try:
                yield Rival(
                    "a missing term",
                    f"the true gradient without what goes through node {name!r}",
                    choose(other, parameters, 1, steps, None, detectable, seed),
                )
            except Exception:  # a graph that is refused when its edges are cut
                continue

    return Truth(parameters, oracle, rivals)


# -- values --------------------------------------------------------------------------------------------------


def _of_value(value: Callable[..., Any], loss: Loss, wrt: Wrt, detectable: float, seed: int, read: tuple[Any, ...]) -> Truth:
    def at(stream: int) -> Tensor:
        with Stream(stream)():
            found = called(value, {})
        if not isinstance(found, Tensor) or found.ndim > 1 or not found.is_floating_point():
            shape = f"shape {tuple(found.shape)}, {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
            raise LossError(
                f"the objective's value must be one real number, or a vector of independent samples of it; {_called(value)} returned {shape}."
            )
        if not bool(torch.isfinite(found).all()):
            raise LossError(f"the objective's value is not finite: {_called(value)} returned {found.flatten()[:4].tolist()}.")
        return found

    first = at(seed)
    if wrt is None:
        reached = {id(t) for t in leaves(first)} if first.requires_grad else set()
        known = {n: t for f in (*read, loss) for n, t in names_of(f).items() if id(t) in reached}
        named = {id(t) for t in known.values()}
        wrt = known | {f"parameter{i}": t for i, t in enumerate(leaves(first) if reached else []) if id(t) not in named}
        if not wrt:
            raise LossError(
                f"{_called(value)} has no gradient, so it does not say what its parameters are: name them, wrt=theta or wrt=module."
            )
    parameters = Parameters({}, wrt)
    if first.ndim:
        return Truth(parameters, of_sampler(_Sampler(at, parameters, seed), parameters, detectable / 8), lambda: iter(()))
    if not torch.equal(first, at(seed + 1)):
        raise LossError(
            f"{_called(value)} returned one random number: return a vector of independent samples, [n], of which the mean is meant; then "
            "differences are taken on common random numbers."
        )
    exact = held(_Exact(at, parameters, seed), _Exact(at, parameters, seed).derivative())  # type: ignore[arg-type]
    if not first.requires_grad or not math.isfinite(float(exact.error.max())):
        exact = replace(exact, note="")
    return Truth(parameters, replace(exact, kind="value" if not exact.note else "differences"), lambda: iter(()))


class _Exact:
    """An exact value as an `oracle.Objective` of one cost."""

    order = 1
    plans = (SimpleNamespace(cost=("the objective's value", None)),)

    def __init__(self, at: Callable[[int], Tensor], parameters: Parameters, seed: int) -> None:
        self.at, self.parameters, self.seed = at, parameters, seed
        self.masks = [torch.ones(parameters.size, dtype=torch.bool)]

    def value(self, c: int, shift: Tensor | None = None) -> tuple[float, float]:
        with torch.no_grad(), self.parameters.moved({} if shift is None else shift):
            return float(self.at(self.seed)), 0.0

    def derivative(self, shift: Tensor | None = None, order: int | None = None, only: int | None = None) -> Oracle:
        with torch.enable_grad(), self.parameters.moved({} if shift is None else shift):
            return Oracle.certain("value", self.parameters.derivative(self.at(self.seed)))


class _Sampler:
    """Samples of a value at shifted parameters, on common random numbers, `[1, samples]`."""

    def __init__(self, at: Callable[[int], Tensor], parameters: Parameters, seed: int) -> None:
        self.at, self.parameters, self.seed = at, parameters, seed

    def __call__(self, shifts: Mapping[int, float], s: int) -> Tensor:
        found: list[Tensor] = []
        with torch.no_grad(), self.parameters.moved(shifts):
            while sum(len(x) for x in found) < ENOUGH:
                found.append(self.at(self.seed * 1_000_003 + s * 4099 + len(found)).double())
        return torch.cat(found).unsqueeze(0)


def names_of(function: Any, deep: bool = True) -> dict[str, Tensor]:
    """The parameters that a function reads, itself or (`deep`) through the functions that it calls, by their names in its source."""
    inner = inspect.unwrap(getattr(function, "func", function))
    things: dict[str, Any] = dict(getattr(getattr(inner, "__self__", None), "__dict__", {}))
    if isinstance(inner, nn.Module):
        things[type(inner).__name__.lower()] = inner
    elif inspect.isfunction(inner) or inspect.ismethod(inner):
        try:
            variables = inspect.getclosurevars(inner)
            things |= {**variables.globals, **variables.nonlocals}
        except (TypeError, ValueError):  # a cell that is still empty
            pass
    else:
        things |= getattr(inner, "__dict__", {})
    found: dict[str, Tensor] = {}
    for name, thing in things.items():
        if isinstance(thing, Tensor):
            found[name] = thing
        elif isinstance(thing, nn.Module):
            found |= {f"{name}.{n}": p for n, p in thing.named_parameters()}
        elif deep and inspect.isfunction(thing) and thing is not inner:
            found = names_of(thing, deep=False) | found
    return found


def _called(value: Any) -> str:
    return f"{getattr(value, '__name__', type(value).__name__)}()"


__all__ = ["Environment", "NoOracle", "Rival", "Truth", "truth_of"]
