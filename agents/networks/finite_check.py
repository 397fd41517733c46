"""Numbers that are not finite: the error, and the check of what a policy's network gives before anybody acts on it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

EXPLODED = 1e6  # a parameter of this size explains a computation that is not finite
REMEDY = "The parameters have exploded: lower the learning rate."


class NotFinite(ArithmeticError):
    """A NaN or an infinity, named. It is raised before it can reach a parameter or a checkpoint."""


def checked_output(values: np.ndarray) -> np.ndarray:
    """NotFinite unless they are: the largest of NaN is an action like any other, and an environment would be blamed for a NaN.
    One product in place of `isfinite(…).all()`: 1 µs a step."""
    if not math.isfinite(np.vdot(values, values)) and not np.isfinite(values).all():
        raise NotFinite(f"the policy's network gives {values[~np.isfinite(values)][0]}. {REMEDY}")
    return values


def exploded(name: str, module: nn.Module) -> str:
    """The first parameter that is not finite or very large, in words; "" where none is."""
    for parameter, value in module.named_parameters():
        size = value.detach().abs()
        if value.numel() and not size.max() <= EXPLODED:
            worst = value.detach().flatten()[torch.where(size.isnan(), torch.inf, size).argmax()].item()
            return f"parameter {name}.{parameter} has {worst:.3g}"
    return ""
