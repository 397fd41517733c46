"""A surrogate that is not finite names the node that made the first value or weight that is not.

Eagerly the scalar is looked at, and only where it is not finite are the nodes. Compiled code carries the check along as
an operation of its own, which the compiler neither looks into nor moves: its result is 0, and is added to the surrogate.
"""

from __future__ import annotations

import math
from typing import NoReturn
from urllib.parse import quote, unquote

import torch
from torch import Tensor

from scg.errors import GraphError
from scg.evaluation.record import Record


def finite(trace: Record, total: Tensor) -> Tensor:
    """`total`, checked."""
    if not torch.compiler.is_compiling():
        if not math.isfinite(total.item()):
            blame(trace)
        return total
    named: list[tuple[str, Tensor]] = []
    for name, weight in trace.weights.items():
        named += [(f"node {name!r}: its weight", x.detach()) for x in (weight.score, weight.factor) if x is not None]
    named += [(f"node {name!r}: its value", trace.batch_value(name).detach()) for name in trace.structure.costs]
    # Reduced here, where the compiler fuses it: an operation that is given the tensors themselves would have them written out.
    flags = torch.stack([torch.isfinite(x).all() for _, x in named])
    return total + torch.ops.scg.assert_finite(flags, _joined(tuple([what for what, _ in named]))).to(total.dtype)


@torch._dynamo.assume_constant_result  # type: ignore[attr-defined,misc]
def _joined(names: tuple[str, ...]) -> str:
    """One string, without what would end a literal in C++: the compiler writes it there as it is."""
    return ",".join(quote(name, safe=" ':") for name in names)


def blame(trace: Record) -> NoReturn:
    """Raise the error of the node that made the first value or weight that is not finite."""
    structure = trace.structure
    for name in structure.order:
        node = structure.nodes[name]
        if name not in trace:
            continue
        value = trace[name]
        if isinstance(value, Tensor) and value.is_floating_point() and not torch.isfinite(value).all():
            raise GraphError(
                f"node {name!r}: its value is not finite ({_first_bad(value)}). Look at what its function computes there."
            )
        if node.kind != "stochastic":
            continue
        weight = trace.weight(name)
        for tensor in (weight.score, weight.factor):
            if tensor is not None and not torch.isfinite(tensor).all():
                cause = "the log-density of its sample is not finite there"
                if name in trace.given:
                    cause = "a recorded value has probability 0 under its distribution now"
                raise GraphError(f"node {name!r}: its weight is not finite ({_first_bad(tensor)}): {cause}")
    raise GraphError(
        "the surrogate is not finite, though every value and weight is: a product of weights along time overflowed, "
        "or a baseline or credit is not finite"
    )


def _first_bad(x: Tensor) -> str:
    bad = (~torch.isfinite(x)).nonzero()[0].tolist()
    return f"{x[tuple(bad)].item()} at index {bad}, shape {list(x.shape)}"


# Defined without the wrapper of `torch.library.custom_op`, which costs ten times the check itself.
_library = torch.library.Library("scg", "DEF")
_library.define("assert_finite(Tensor flags, str names) -> Tensor")


def _assert_finite(flags: Tensor, names: str) -> Tensor:
    """0, or an error with the name of the first flag that is false. On a GPU the error comes when the kernel has run."""
    if flags.is_cuda:
        for flag, name in zip(flags, map(unquote, names.split(",")), strict=True):
            torch._assert_async(flag, f"{name} is not finite")
    elif False in (found := flags.tolist()):
        name = unquote(names.split(",")[found.index(False)])
        raise GraphError(f"{name} is not finite; evaluate the graph eagerly to see where that begins")
    return torch.zeros((), dtype=torch.float32, device=flags.device)


_library.impl("assert_finite", _assert_finite, "CPU")
_library.impl("assert_finite", _assert_finite, "CUDA")


@torch.library.register_fake("scg::assert_finite")
def _(flags: Tensor, names: str) -> Tensor:
    return flags.new_zeros((), dtype=torch.float32)
