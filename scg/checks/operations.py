"""Which operations a node function consists of: those by which its value can jump, and those by which its slope can.

A function without either is smooth, and its differences need fewer points (`path_check.py`). The operations are those that
torch dispatches while the function runs once more, at the same random state.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributions import Distribution
from torch.utils._python_dispatch import TorchDispatchMode

from scg.checks.recording import Call
from scg.distributions.laws import own_law

# A value can jump at these.
STEPS = frozenset([
    "gt", "lt", "ge", "le", "eq", "ne", "round", "floor", "ceil", "trunc", "frac", "sign", "sgn", "heaviside", "argmax",
    "argmin", "bucketize", "searchsorted", "sort", "topk", "fmod", "remainder", "floor_divide", "_local_scalar_dense",
    "isin", "one_hot", "median", "kthvalue", "mode",
])  # fmt: skip

# A slope can.
CORNERS = frozenset([
    "relu", "abs", "where", "clamp", "clamp_min", "clamp_max", "max", "min", "amax", "amin", "maximum", "minimum",
    "leaky_relu", "elu", "hardtanh", "threshold", "prelu", "rrelu", "hardsigmoid", "hardswish", "softshrink",
    "hardshrink", "max_pool2d_with_indices", "cummax", "cummin", "norm", "linalg_vector_norm", "index", "masked_fill",
])  # fmt: skip


class _Watch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def operations(call: Call) -> set[str]:
    """What a function does, by name; without the comparisons by which distributions check their arguments."""
    torch.set_rng_state(call.state)
    validating = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        with _Watch() as watch:
            result = call.again()
    finally:
        Distribution.set_default_validate_args(validating)
    # A law of its own does in its methods what the function does not.
    return watch.seen | (STEPS if isinstance(result, Distribution) and own_law(result) else set())
