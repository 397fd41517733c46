"""The keyword arguments of a call: sorted into inputs and given values of nodes, and refused where they do not fit the graph."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Number
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from scg.analysis.structure import Structure
from scg.errors import GraphError, nearest


def known(structure: Structure, given: Mapping[str, Any]) -> None:
    """Refuse what cannot be given: names of no node, and nodes that are computed."""
    for name in given:
        if not isinstance(name, str):
            raise GraphError(f"given[{name!r}]: values are given by node name, a string")
        stem, _, suffix = name.partition(".")
        node = structure.nodes.get(stem)
        if node is None and name in structure.known_inputs:
            raise GraphError(f"given[{name!r}]: it is an input of the graph; pass it by keyword, {name}=…")
        if node is None or (suffix and suffix not in ("log_prob", "credit", "prev")):
            raise GraphError(f"given[{name!r}]: no such node.{nearest(stem, structure.nodes)}")
        if suffix == "log_prob" and stem not in given:
            raise GraphError(f"given[{name!r}]: the value {stem!r} that it belongs to is not given")
        if suffix == "credit" and node.credit is None:
            raise GraphError(f"given[{name!r}]: node {stem!r} has no credit; declare it with credit=…")
        if suffix == "prev" and stem not in structure.recurrent_sources:
            raise GraphError(f"given[{name!r}]: no node asks for the previous value of {stem!r}")
        if not suffix and node.kind not in ("observed", "stochastic"):
            raise GraphError(f"given[{name!r}]: a {node.kind} node is computed from its parents, not given")


def split(
    structure: Structure, given: Mapping[str, Any], inputs: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Sort what a call passes into given node values and inputs; complain about what is missing or unknown."""
    for name in inputs:
        node = structure.nodes.get(name)
        if node is not None and node.kind != "observed":
            raise GraphError(f"node {name!r}: a {node.kind} node is computed here; to give its value use graph.replay")
    given = {**given, **{name: value for name, value in inputs.items() if name in structure.nodes}}
    inputs = {name: value for name, value in inputs.items() if name not in structure.nodes}
    for name in structure.required:
        if name not in inputs and name not in given:
            what = "observed node" if name in structure.nodes else "input"
            users = [n.name for n in structure.nodes.values() if any(name in (e.source, e.init) for e in n.parents)]
            by = f", needed by {', '.join(map(repr, users))}" if users else ""
            passed = nearest(name, inputs) or nearest(name, structure.nodes)
            raise GraphError(f"{what} {name!r} is missing{by}: pass it by keyword.{passed}")
    for name in inputs:
        if name not in structure.known_inputs:
            raise GraphError(
                f"{name!r} is neither an input nor an observed node of this graph.{nearest(name, structure.required)}"
            )
    for name, value in given.items():
        check_value(structure, name, value)
    return given, inputs


def check_value(structure: Structure, name: str, value: Any) -> None:
    """A given value: tensors where torch draws or weighs, with a time axis where it belongs to the sequence."""
    stem, _, suffix = name.partition(".")
    node = structure.nodes[stem]
    if suffix in ("log_prob", "credit") or node.kind == "stochastic" or name == structure.first:
        if not isinstance(value, Tensor):
            raise GraphError(f"given[{name!r}]: a tensor is needed, got {value!r} of type {type(value).__name__}")
        if value.is_complex() and (suffix or name == structure.first):
            raise GraphError(f"given[{name!r}]: real numbers are needed, got {value.dtype}")
    if not node.in_sequence or value is None:
        return
    shape = "[time, batch…]" if suffix in ("log_prob", "credit") or name == structure.first else "[time, batch…, event…]"
    parts = tree_leaves(value)
    if any(isinstance(part, Tensor) and part.ndim == 0 for part in parts):
        raise GraphError(f"given[{name!r}]: it is a value of the sequence, {shape}, and a tensor of it has no axes")
    timeless = (isinstance(part, (Number, str)) or hasattr(part, "__array__") for part in parts)
    if not any(isinstance(part, Tensor) for part in parts) and all(timeless):
        raise GraphError(
            f"given[{name!r}]: it is a value of the sequence, a tensor {shape}, got a {type(value).__name__} without tensors"
        )


def check_steps(structure: Structure, steps: Any) -> None:
    """`steps=` is a number of steps, and belongs to a graph that has some."""
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        what = "say how many steps, steps=100 for instance" if structure.has_sequence else "an integer of at least 1, or none"
        raise GraphError(f"steps={steps!r}: {what}")
    if not structure.has_sequence:
        raise GraphError(
            f"steps={steps}: this graph has no sequence; declare nodes inside `with graph.sequence():`, or drop steps="
        )


def check_checkpoint(structure: Structure, every: Any) -> None:
    """`checkpoint=` is a number of steps, and belongs to a graph that has some."""
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise GraphError(
            f"checkpoint={every!r}: the number of steps that are computed again together, checkpoint=32 for instance"
        )
    if not structure.has_sequence:
        raise GraphError(f"checkpoint={every}: this graph has no sequence, so there are no steps; drop checkpoint=")


def length(structure: Structure, given: Mapping[str, Any], steps: int | None) -> int:
    """How many steps: what the given values say, else `steps`."""
    known: int | None = None
    first = ""
    nodes = structure.nodes
    for name, value in given.items():
        if not isinstance(value, Tensor) or not (nodes.get(name) or nodes[name.partition(".")[0]]).in_sequence:
            continue
        if known is None:
            known, first = value.shape[0], name
        elif known != value.shape[0]:
            raise GraphError(
                f"given values of different length along time: {name!r} has {value.shape[0]} steps, another {known}; "
                "they are [time, batch…, event…]"
            )
    if known is not None and steps is not None and steps != known:
        raise GraphError(f"steps={steps}, but {first!r} was given for {known} steps")
    steps = known if known is not None else steps
    if steps is None or not isinstance(steps, int) or steps < 1:
        raise GraphError(f"this graph has a sequence: say how many steps, steps=100 for instance (got {steps!r})")
    return steps
