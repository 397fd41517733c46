"""Objectives: which parameters a cost may train, and how the others are kept out of its gradient.

A cost with `trains=` is evaluated with every other known parameter swapped for its detached self, so a gradient
passes *through* a critic and leaves nothing in it. Nodes upstream are shared between objectives where that is exact:

    free    the node reaches no parameter that this objective must not train        its value, as it is
    cut     the node reaches no parameter that this objective trains                its value, detached
    mixed   it reaches both                                                         evaluated again under the swap,
                                                                                    on the same random numbers

Which of the three a node is, the first sample shows. Cost: one more evaluation of each mixed node for each objective.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter

from scg.errors import GraphError, nearest
from scg.evaluation.weight import Weight
from scg.node import Node
from scg.tree import rebuilt


@dataclass
class Scope:
    """The parameters of one objective, and what each node is to it. `swaps` are (module, parameter name) to detach."""

    costs: tuple[str, ...]
    trained: frozenset[int]
    trained_inputs: frozenset[str]
    swaps: tuple[tuple[nn.Module, str], ...]
    tensors: tuple[Tensor, ...] = ()
    blocked_inputs: frozenset[str] = frozenset()
    cut: set[str] = field(default_factory=set)
    mixed: set[str] = field(default_factory=set)

    @contextmanager
    def detached(self) -> Iterator[None]:
        """Inside, the parameters that this objective does not train carry no gradient."""
        with _swap(self.swaps):
            yield


class Detaching(TorchFunctionMode):
    """Inside, torch's functions see the detached self of these parameters, in this thread; no module is changed."""

    def __init__(self, parameters: Iterable[nn.Parameter | Tensor]) -> None:
        super().__init__()
        self.twins = {id(p): p.detach() for p in parameters}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args = tuple(self.replaced(x) for x in args)
        return func(*args, **{key: self.replaced(x) for key, x in kwargs.items()}) if kwargs else func(*args)

    def replaced(self, thing: Any) -> Any:
        if isinstance(thing, Tensor):
            return self.twins.get(id(thing), thing)
        if isinstance(thing, (list, tuple)):
            parts = [self.replaced(x) for x in thing]
            if all(part is x for part, x in zip(parts, thing, strict=True)):
                return thing  # as it is: a torch.Size must stay one
            return parts if isinstance(thing, list) else type(thing)(*parts) if hasattr(thing, "_fields") else tuple(parts)
        return thing


@contextmanager
def _swap(parameters: Iterable[tuple[nn.Module, str]]) -> Iterator[None]:
    """Inside, these parameters carry no gradient.

    Eagerly the functions that read them are told so, in this thread alone: another thread may evaluate the same modules.
    The compiler traces in one thread, and takes the parameters out of their modules while it does.
    """
    saved = [(module._parameters, name, module._parameters[name]) for module, name in parameters]
    if not torch.compiler.is_compiling():
        with Detaching(parameter for _, _, parameter in saved if parameter is not None):
            yield
        return
    try:
        for own, name, parameter in saved:
            own[name] = parameter.detach()  # type: ignore[union-attr,assignment]
        yield
    finally:
        for own, name, parameter in saved:
            own[name] = parameter


def swapped(module: nn.Module) -> AbstractContextManager[None]:
    """Inside, no parameter of the module carries a gradient."""
    return _swap([(part, name) for part in module.modules() for name, p in part._parameters.items() if p is not None])


def scopes_of(nodes: Mapping[str, Node]) -> tuple[Scope, ...]:
    """One scope per different `trains=`; none where no cost has one."""
    claims = {n.name: trained_by(n, nodes) for n in nodes.values() if n.kind == "cost" and n.trains is not None}
    if not claims:
        return ()
    modules = known_modules(nodes)
    scopes = []
    for claim in dict.fromkeys(claims.values()):
        trained, inputs = claim
        tensors = tuple(t for c, v in claims.items() if v == claim for t in tensors_in(nodes[c].trains))
        swaps = tuple((m, key) for m in modules for key, p in m._parameters.items() if p is not None and id(p) not in trained)
        scopes.append(Scope(tuple(c for c, v in claims.items() if v == claim), trained, inputs, swaps, tensors))
    return tuple(scopes)


def trained_by(node: Node, nodes: Mapping[str, Node]) -> tuple[frozenset[int], frozenset[str]]:
    """The identities of the parameters, and the names of the inputs, that a cost trains."""
    tensors: set[int] = set()
    names: set[str] = set()

    def add(item: Any) -> None:
        if isinstance(item, nn.Module):
            tensors.update(id(p) for p in item.parameters())
        elif isinstance(item, Tensor):
            tensors.add(id(item))
        elif isinstance(item, str):
            if item in nodes:
                raise GraphError(f"cost {node.name!r}: trains={item!r} is a node; a cost trains modules, parameters or inputs")
            names.add(item)
        elif isinstance(item, Iterable):
            for part in item:
                add(part)
        else:
            raise GraphError(f"cost {node.name!r}: trains= takes modules, parameters or names of inputs, got {item!r}")

    # An iterator (module.parameters()) can be read once: the declaration keeps what it yielded.
    if isinstance(node.trains, Iterator):
        object.__setattr__(node, "trains", tuple(node.trains))
    add(node.trains)
    inputs = {e.source for n in nodes.values() for e in n.parents} | {e.init for n in nodes.values() for e in n.parents}
    for name in names - inputs:
        raise GraphError(
            f"cost {node.name!r}: trains={name!r} is no input of the graph.{nearest(name, [i for i in inputs if i])}"
        )
    if not tensors and not names:
        raise GraphError(
            f"cost {node.name!r}: trains={node.trains!r} names no parameter and no input, so nothing would be trained. Name the "
            "modules, parameters or inputs that get its gradient; leave trains= out where all do"
        )
    return frozenset(tensors), frozenset(names)


def tensors_in(trains: Any) -> list[Tensor]:
    """The parameters that `trains=` names, itself or through modules."""
    if isinstance(trains, Tensor):
        return [trains]
    if isinstance(trains, nn.Module):
        return list(trains.parameters())
    return (
        [t for part in trains for t in tensors_in(part)] if isinstance(trains, Iterable) and not isinstance(trains, str) else []
    )


def known_modules(nodes: Mapping[str, Node]) -> list[nn.Module]:
    """Every submodule that a declaration names or a node's function can reach."""
    found: dict[int, nn.Module] = {}
    for node in nodes.values():
        for root in [*reachable_modules(node.trains), *reachable_modules(node.fn)]:
            for module in root.modules():
                found.setdefault(id(module), module)
    return list(found.values())


def watched(nodes: Mapping[str, Node]) -> tuple[list[nn.Module], list[Tensor]]:
    """The modules that nodes reach, estimators' too, and the loose leaf tensors that their functions close over."""
    modules = {id(m): m for m in known_modules(nodes)}
    loose: dict[int, Tensor] = {}
    for node in nodes.values():
        if isinstance(node.estimator, nn.Module):
            modules.update({id(m): m for m in node.estimator.modules()})
        for cell in getattr(node.fn, "__closure__", None) or ():
            try:
                held = cell.cell_contents
            except ValueError:  # a name that is not bound yet
                continue
            if isinstance(held, Tensor) and held.is_leaf and held.is_floating_point():
                loose[id(held)] = held
    return list(modules.values()), list(loose.values())


def reachable_modules(thing: Any, depth: int = 3) -> list[nn.Module]:
    """Modules that are `thing`, lie in it, or that its code can name: closure, globals, defaults, `self`, partials."""
    if isinstance(thing, nn.Module):
        return [thing]
    if depth == 0 or thing is None:
        return []
    inside: list[Any] = []
    if isinstance(thing, functools.partial):
        inside = [thing.func, *thing.args, *thing.keywords.values()]
    elif isinstance(thing, Mapping):
        inside = list(thing.values())
    elif isinstance(thing, (list, tuple, set)):
        inside = list(thing)
    elif inspect.ismethod(thing):
        inside = [thing.__self__, thing.__func__]
    elif inspect.isfunction(thing):
        inside = list(inspect.getclosurevars(thing).nonlocals.values())
        inside += list(inspect.getclosurevars(thing).globals.values())
        inside += list(thing.__defaults__ or ())
    elif hasattr(thing, "__dict__") and not isinstance(thing, (type, Tensor)) and not inspect.ismodule(thing):
        inside = list(vars(thing).values())
    return [m for part in inside for m in reachable_modules(part, depth - 1)]


def leaves(*things: Any) -> dict[int, Tensor]:
    """The leaf tensors that autograd would give a gradient to, from tensors or containers of them."""
    found: dict[int, Tensor] = {}
    seen: set[Any] = set()
    queue: list[Any] = []
    for tensor in (t for thing in things for t in tree_iter(thing) if isinstance(t, Tensor)):
        if tensor.grad_fn is not None:
            queue.append(tensor.grad_fn)
        elif tensor.requires_grad:
            found[id(tensor)] = tensor
    while queue:
        function = queue.pop()
        if function in seen:
            continue
        seen.add(function)
        variable = getattr(function, "variable", None)
        if isinstance(variable, Tensor):
            found[id(variable)] = variable
        queue += [f for f, _ in function.next_functions if f is not None]
    return found


def classify(scope: Scope, reached: Mapping[str, Mapping[int, Tensor]], inputs: Mapping[str, Any]) -> None:
    """Fill in what each node is to the scope, from the leaves that each node reached at the first sample."""
    trained = scope.trained | {id(inputs[n]) for n in scope.trained_inputs if isinstance(inputs.get(n), Tensor)}
    scope.blocked_inputs = frozenset(
        n for n, v in inputs.items() if isinstance(v, Tensor) and v.requires_grad and id(v) not in trained
    )
    for name, found in reached.items():
        if found.keys() - trained:
            (scope.mixed if found.keys() & trained else scope.cut).add(name)


def leak(scope: Scope, cost: str, surrogate: Tensor, inputs: Mapping[str, Any], where: Callable[[int], str]) -> None:
    """Refuse an objective that would still leave a gradient in something that it does not train."""
    own = [*scope.tensors, *(inputs[n] for n in scope.trained_inputs if isinstance(inputs.get(n), Tensor))]
    trained, found = {id(t) for t in own}, leaves(surrogate)
    if torch.is_grad_enabled() and any(t.requires_grad for t in own) and not found.keys() & trained:
        raise GraphError(
            f"cost {cost!r}: it reaches nothing of what trains= names, so its gradient would be 0. Its value is cut off from "
            "them (a detach, .item(), an index), or its function holds other modules than those named (a copy of the graph "
            "copies what trains= names, and not what functions close over)."
        )
    for key, leaf in found.items():
        if key not in trained:
            raise GraphError(
                f"cost {cost!r}: its gradient would reach {where(key)} of shape {tuple(leaf.shape)}, which it does not train "
                "and which cannot be swapped out. Keep it in an nn.Module, pass it as an input, or detach() it in the function."
            )


class Scoped:
    """One objective's own evaluations of mixed nodes."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.values: dict[str, Any] = {}
        self.weights: dict[str, Weight] = {}
        self.distributions: dict[str, Distribution] = {}
        self.past: list[dict[str, Any]] = []
        self.states: dict[str, Any] = {}

    def snapshot(self) -> dict[str, Weight]:
        return dict(self.weights)

    def copy(self) -> Scoped:
        other = Scoped(self.scope)
        other.values, other.weights, other.distributions = dict(self.values), dict(self.weights), dict(self.distributions)
        other.past, other.states = list(self.past), dict(self.states)
        return other


class ObjectiveView:
    """Node values as one objective sees them."""

    def __init__(
        self, base: Mapping[str, Any], scoped: Scoped, inputs: Mapping[str, Any], own: Mapping[str, Any] | None = None
    ) -> None:
        """`own`: the objective's own values, where they are of another step than this."""
        self.base, self.scope = base, scoped.scope
        self.own = scoped.values if own is None else own

    def __getitem__(self, name: str) -> Any:
        if name in self.scope.mixed:
            return self.own[name]
        value = self.base[name]
        return detached(value, name) if name in self.scope.cut or name in self.scope.blocked_inputs else value

    def __contains__(self, name: str) -> bool:
        return name in self.base


def detached(value: Any, name: str = "") -> Any:
    """`value` of node `name` without its gradient, whatever holds its tensors."""
    if isinstance(value, Tensor):
        return value.detach()
    return rebuilt(value, Tensor.detach, name)


def random_state() -> Tensor:
    if torch.compiler.is_compiling():
        raise GraphError("a stochastic node that objectives train in parts cannot be compiled; detach it for all but one")
    return torch.get_rng_state()


class restored:
    """Draw once more from where `state` was taken, then go on from where the stream stood."""

    def __init__(self, state: Tensor | None) -> None:
        self.state = state

    def __enter__(self) -> None:
        if self.state is not None:
            self.now = torch.get_rng_state()
            torch.set_rng_state(self.state)

    def __exit__(self, *_: object) -> None:
        if self.state is not None:
            torch.set_rng_state(self.now)
