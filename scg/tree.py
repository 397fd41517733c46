"""Everything that an object holds, and copies of it with changed tensors.

A distribution keeps tensors in its attributes, in the distribution that it transforms, in its transforms (composed,
cached, inverted), in a mixture's components, in constraints, modules, containers and the closures of functions. One
walk reads all of them, so that what one check sees, every check sees.
"""

from __future__ import annotations

import copy
import functools
import inspect
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform
from torch.distributions.constraints import Constraint, is_dependent

from scg.errors import GraphError

# What an evaluation leaves behind: a log-density that was remembered, and a transform's last pair of values.
_LEFT_BEHIND = frozenset({"log_prob", "_cached_x_y"})
_ATOMS = (int, float, bool, str, complex)
_HELD = (Tensor, *_ATOMS)
_OPAQUE = (type(None), bytes, type, types.ModuleType, torch.Size, torch.dtype, torch.device, torch.Generator, weakref.ref)


def leaves(thing: Any) -> list[Any]:
    """Tensors, and the numbers and strings beside them, in an order that two objects made by the same code share.

    Of modules the parameters alone, and of functions and foreign objects the tensors alone: counters and flags there
    change from call to call, and say nothing of a value.
    """
    found: list[Any] = []
    if isinstance(thing, Distribution):  # most hold tensors and flags alone
        for key, value in vars(thing).items():
            if key in _LEFT_BEHIND or isinstance(value, _OPAQUE):
                continue
            if not isinstance(value, _HELD):
                found = []
                break
            found.append(value)
        else:
            return found
    seen: set[int] = set()

    def walk(thing: Any, numbers: bool) -> None:
        if isinstance(thing, Tensor):
            found.append(thing)
        elif isinstance(thing, _ATOMS):
            if numbers:
                found.append(thing)
        elif not isinstance(thing, _OPAQUE) and id(thing) not in seen:
            seen.add(id(thing))
            own = numbers and _plain(thing)
            for part in parts(thing):
                walk(part, own)

    walk(thing, True)
    return found


def tensors(thing: Any) -> list[Tensor]:
    """The tensors among `leaves`."""
    if isinstance(thing, Tensor):
        return [thing]
    return [leaf for leaf in leaves(thing) if isinstance(leaf, Tensor)]


def parts(thing: Any) -> Iterable[Any]:
    """What an object holds directly."""
    if isinstance(thing, nn.Module):
        return thing.parameters()
    if isinstance(thing, Mapping):
        return thing.values()
    if isinstance(thing, (list, tuple, set, frozenset)):
        return thing
    if isinstance(thing, functools.partial):
        return (thing.func, *thing.args, *thing.keywords.values())
    if inspect.ismethod(thing):
        return (thing.__self__, thing.__func__)
    if inspect.isfunction(thing):
        return (*_cells(thing), *(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values(), *_globals(thing).values())
    attributes = vars(thing).items() if hasattr(thing, "__dict__") else _slots(thing)
    return [value for key, value in attributes if key not in _LEFT_BEHIND]


def transforms(distribution: Distribution) -> Iterator[Transform]:
    """Every transform in a distribution, those within others too."""
    seen: set[int] = set()
    queue: list[Any] = [distribution]
    while queue:
        thing = queue.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, Transform):
            yield thing
        if isinstance(thing, (Distribution, Transform, list, tuple)):
            queue += [p for p in parts(thing) if isinstance(p, (Distribution, Transform, list, tuple))]


def lawful(thing: Any) -> bool:
    """Whether every distribution in it has numbers that it allows: a rate that is positive, probabilities from 0 to 1.

    Number by number: that probabilities add up, or a matrix is triangular, is a matter of how they are written, and no place at
    which a function of them has to stop.
    """
    if isinstance(thing, Distribution):
        held = vars(thing)
        allowed = ((getattr(c, "base_constraint", c), held.get(name)) for name, c in thing.arg_constraints.items())
        if not all(bool(c.check(x).all()) for c, x in allowed if isinstance(x, Tensor) and not _joint(c)):
            return False
    elif not isinstance(thing, (Mapping, list, tuple)):
        return True
    return all(lawful(part) for part in parts(thing) if isinstance(part, (Distribution, Mapping, list, tuple)))


def _joint(constraint: Constraint) -> bool:
    """Whether it is no condition on each number by itself."""
    return is_dependent(constraint) or constraint.event_dim > 0


def rebuilt(thing: Any, change: Callable[[Tensor], Tensor], name: str) -> Any:
    """A copy of an object with `change` applied to its tensors, all the way down; an error where that cannot be."""
    if isinstance(thing, Tensor):
        return change(thing)
    built: dict[int, Any] = {}

    def rebuild(thing: Any) -> Any:
        if isinstance(thing, Tensor):
            return change(thing)
        if isinstance(thing, (*_ATOMS, *_OPAQUE)):
            return thing
        if id(thing) not in built:  # a transform and its inverse hold each other
            built[id(thing)] = thing
            twin = _twin(thing, rebuild, built, name)
            built[id(thing)] = twin
        return built[id(thing)]

    return rebuild(thing)


def _twin(thing: Any, rebuild: Callable[[Any], Any], built: dict[int, Any], name: str) -> Any:
    if isinstance(thing, nn.Module):
        if any(p.requires_grad for p in thing.parameters()):
            _refuse(thing, name)
        return thing
    if isinstance(thing, list):
        built[id(thing)] = twin = copy.copy(thing)
        twin[:] = [rebuild(part) for part in thing]
        return twin
    if isinstance(thing, tuple):
        changed = [rebuild(part) for part in thing]
        return type(thing)(*changed) if hasattr(thing, "_fields") else type(thing)(changed)
    if isinstance(thing, dict):
        built[id(thing)] = table = copy.copy(thing)
        table.update({key: rebuild(value) for key, value in thing.items()})
        return table
    if not _plain(thing) and not any(t.requires_grad for t in tensors(thing)):
        return thing  # nothing in it carries a gradient, so there is no need to copy what is not ours
    if isinstance(thing, functools.partial):
        return functools.partial(
            rebuild(thing.func), *map(rebuild, thing.args), **{k: rebuild(v) for k, v in thing.keywords.items()}
        )
    if inspect.ismethod(thing):
        return types.MethodType(thing.__func__, rebuild(thing.__self__))
    if inspect.isfunction(thing):
        if any(t.requires_grad for held in _globals(thing).values() for t in tensors(held)):
            _refuse(thing, name)
        cells = tuple(types.CellType(rebuild(value)) for value in _cells(thing)) or None
        defaults = tuple(map(rebuild, thing.__defaults__)) if thing.__defaults__ else None
        function = types.FunctionType(thing.__code__, thing.__globals__, thing.__name__, defaults, cells)
        function.__kwdefaults__ = {k: rebuild(v) for k, v in thing.__kwdefaults__.items()} if thing.__kwdefaults__ else None
        return function
    if hasattr(thing, "__dict__"):
        built[id(thing)] = twin = copy.copy(thing)
        own = {k: rebuild(v) for k, v in vars(thing).items() if k not in _LEFT_BEHIND}
        twin.__dict__ = {**own, "_cached_x_y": (None, None)} if "_cached_x_y" in vars(thing) else own
        return twin
    if isinstance(thing, (set, frozenset)):
        _refuse(thing, name)
    built[id(thing)] = twin = copy.copy(thing)
    for key, value in _slots(thing):
        object.__setattr__(twin, key, rebuild(value))
    return twin


def _refuse(thing: Any, name: str) -> None:
    what = (
        f"the function {thing.__qualname__!r}, which reads" if inspect.isfunction(thing) else f"a {type(thing).__name__}, with"
    )
    raise GraphError(
        f"node {name!r}: its distribution, or its value, holds {what} parameters that cannot be told apart from outside. "
        "For detach(dist(…)) or detach(…), declare a second node that builds it under torch.no_grad()."
    )


def _plain(thing: Any) -> bool:
    """Whether an object is a record of values: what it holds, numbers too, is what it is."""
    return isinstance(thing, (Distribution, Transform, Constraint, Mapping, list, tuple, set, frozenset)) or is_dataclass(thing)


def _slots(thing: Any) -> Iterator[tuple[str, Any]]:
    for kind in type(thing).__mro__:
        slots = vars(kind).get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if slot not in ("__dict__", "__weakref__") and hasattr(thing, slot):
                yield slot, getattr(thing, slot)


def _cells(function: Any) -> list[Any]:
    found = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # a name that is not bound yet
            found.append(None)
    return found


def _globals(function: Any) -> dict[str, Any]:
    """The tensors, modules and distributions that a function's code names in its module."""
    held = function.__globals__
    found = {name: held[name] for name in function.__code__.co_names if name in held}
    return {name: value for name, value in found.items() if isinstance(value, (Tensor, nn.Module, Distribution))}
