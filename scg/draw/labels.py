"""Short words for what a node carries: its estimator, credit, baseline, and the parameters it reads or trains."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from scg.credit import Credit
from scg.errors import GraphError, visible
from scg.evaluation.objectives import reachable_modules, trained_by
from scg.node import Node


def brief(thing: Any) -> str:
    """`LeaveOneOut(samples=4)`: the name, and of the settings those that are not the default. What cannot be printed is escaped."""
    name = type(thing).__name__
    if isinstance(thing, nn.Module) or not is_dataclass(thing):
        shown = repr(thing)
        return visible(name if isinstance(thing, nn.Module) or shown.startswith("<") or "\n" in shown else shown)
    changed = []
    for field in fields(thing):
        value = getattr(thing, field.name)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if field.repr and value is not default and value != default and field.name != "allow_bias":
            changed.append(f"{field.name}={value.__name__ if hasattr(value, '__name__') else value!r}")
    return visible(name + (f"({', '.join(changed)})" if changed else ""))


def notes(node: Node) -> tuple[str, ...]:
    """What is written below the name of a node."""
    if node.kind == "stochastic":
        lines = [brief(node.estimator)]
        for what, level in (("credit", node.credit), ("baseline", node.baseline)):
            if isinstance(level, str):
                lines.append(f"{what}: {'a function' if level == f'{node.name}.{what}' else level}")
            elif level is not None:
                lines.append(f"{what}: {brief(level) if isinstance(level, Credit) else f'{level:g}'}")
        return tuple(lines)
    if node.kind == "cost":
        return ("reward" if node.sign < 0 else "cost",)
    return ()


class ParameterNames:
    """Names for the modules and tensors that node functions read without declaring them: the variables' own names."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self.nodes = nodes
        self._names: dict[int, str] = {}
        self._read: dict[str, list[nn.Module | Tensor]] = {}
        for node in nodes.values():
            for name, value in variables(node.fn):
                if isinstance(value, (nn.Module, Tensor)):
                    self._names.setdefault(id(value), name)
        for node in nodes.values():
            for thing in self.read_by(node):
                if id(thing) not in self._names:
                    own = node.name if thing is node.fn else type(thing).__name__.lower()
                    self._names[id(thing)] = self._fresh(own)

    def _fresh(self, name: str) -> str:
        taken = set(self._names.values())
        return next(n for n in (name, *(f"{name}{i}" for i in range(2, len(taken) + 3))) if n not in taken)

    def of(self, thing: Any) -> str:
        """The variable's name, or failing that the node's or the class's."""
        return self._names.get(id(thing), type(thing).__name__.lower())

    def read_by(self, node: Node) -> list[nn.Module | Tensor]:
        """Modules with trainable parameters, and trainable leaf tensors, that the node's function reads."""
        if node.name not in self._read:
            found: dict[int, nn.Module | Tensor] = {}
            for module in reachable_modules(node.fn):
                if any(p.requires_grad for p in module.parameters()):
                    found.setdefault(id(module), module)
            for _, value in variables(node.fn):
                if isinstance(value, Tensor) and value.requires_grad and value.is_leaf:
                    found.setdefault(id(value), value)
            self._read[node.name] = list(found.values())
        return self._read[node.name]

    def things(self, name: str) -> list[nn.Module | Tensor]:
        """What goes by a name: usually one module or tensor."""
        every = {id(thing): thing for node in self.nodes.values() for thing in self.read_by(node)}
        return [thing for thing in every.values() if self.of(thing) == name]

    def trained(self, node: Node) -> str:
        """The words for a cost's `trains=`."""
        with suppress(GraphError):  # what it claims may be wrong; keeping what an iterator yields is the core's part
            trained_by(node, self.nodes)
        return ", ".join(dict.fromkeys(self._trained(node.trains)))

    def _trained(self, item: Any) -> Iterator[str]:
        if isinstance(item, str):
            yield item
        elif isinstance(item, nn.Module):
            yield self.of(item)
        elif isinstance(item, Tensor):
            yield self._owner(item)
        elif isinstance(item, Iterable):
            for part in item:
                yield from self._trained(part)

    def _owner(self, tensor: Tensor) -> str:
        """A parameter goes by its module's name where a node reads the module."""
        for node in self.nodes.values():
            for thing in self.read_by(node):
                if isinstance(thing, nn.Module) and any(p is tensor for p in thing.parameters()):
                    return self.of(thing)
        return self._names.get(id(tensor), "a parameter")


def variables(fn: Callable[..., Any] | None) -> Iterator[tuple[str, Any]]:
    """(name, value) of what a function's code can name: closure, globals, `self`'s attributes, a partial's arguments."""
    if isinstance(fn, functools.partial):
        yield from variables(fn.func)
        yield from fn.keywords.items()
    elif inspect.ismethod(fn):
        yield from variables(fn.__func__)
        if not isinstance(fn.__self__, nn.Module) and hasattr(fn.__self__, "__dict__"):
            yield from vars(fn.__self__).items()
    elif inspect.isfunction(fn):
        seen = inspect.getclosurevars(fn)
        for name, value in (*seen.nonlocals.items(), *seen.globals.items()):
            yield name, value
            if not isinstance(value, (nn.Module, Tensor, type)) and not inspect.ismodule(value) and hasattr(value, "__dict__"):
                yield from ((k, v) for k, v in vars(value).items() if isinstance(v, (nn.Module, Tensor)))
