"""From an agent's action to one inside the environment's Box, dimension by dimension.

    bounded      [-1, 1] → [low, high]                          low + (high − low) (a + 1)/2, a clipped to [-1, 1]
    integers     [-1, 1] → low, …, high in equal shares         the nearest integer of [low − ½, high + ½]
    otherwise    a clipped to the bounds there are              unbounded on a side, or so wide that the bounds say no scale

The result is inside the space by construction: clipped once more in the space's own type, after rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from scg.agents.environments.faults import EnvironmentFault

Map = Callable[[np.ndarray], np.ndarray]

WIDE = 1e5  # bounds further apart than twice this only say that any number is allowed: no agent should start by trying them
EXACT = 2.0**53  # integers up to this are exact in float64


def has_scale(space: spaces.Box) -> np.ndarray:
    """For each dimension, whether it is bounded and its bounds are a scale."""
    with np.errstate(over="ignore"):
        width = space.high.astype(np.float64) - space.low.astype(np.float64)
    return space.bounded_below & space.bounded_above & (width <= 2 * WIDE)


def to_space(space: gym.Space) -> Map:
    """A map of actions `[batch, …]` of agents to actions inside `space`; the identity for any other than a Box."""
    if not isinstance(space, spaces.Box):
        return lambda action: action
    kind, scaled, integer = space.dtype, has_scale(space), np.issubdtype(space.dtype, np.integer)
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if integer:
        low, high = np.maximum(low, -EXACT), np.minimum(high, EXACT)
    elif scaled.all() and (low == -1).all() and (high == 1).all():  # as on most of MuJoCo's: 2 µs less
        return lambda action: np.minimum(np.maximum(action, -1.0), 1.0).astype(kind, copy=False)
    half, middle = np.ones(space.shape), np.zeros(space.shape)
    half[scaled] = (high[scaled] - low[scaled]) / 2 + 0.5 * integer
    middle[scaled] = (high[scaled] + low[scaled]) / 2
    inner = np.where(scaled, 1.0, np.inf)
    round_to = np.rint if integer else np.asarray

    def mapped(action: np.ndarray) -> np.ndarray:  # NaN stays NaN
        value = round_to(middle + half * np.minimum(np.maximum(action, -inner), inner))
        return np.minimum(np.maximum(value, low), high).astype(kind)

    return mapped


def to_bins(space: gym.Space, bins: int) -> Map:
    """A map of indices `[batch, dim]` to `bins` evenly spaced values in every dimension, integers to the nearest."""
    if bins < 2 or not (isinstance(space, spaces.Box) and len(space.shape) == 1 and has_scale(space).all()):
        raise EnvironmentFault(
            f"{bins} bins for action space {space}: only a bounded Box with one axis can be quantised, into 2 bins or more. "
            f"Its bounds must be at most {2 * WIDE:.0e} apart: make it smaller by a wrapper."
        )
    values = np.linspace(space.low.astype(np.float64), space.high.astype(np.float64), bins)  # [bins, dim]
    values = (np.rint(values) if np.issubdtype(space.dtype, np.integer) else values).astype(space.dtype)
    dims = np.arange(values.shape[1])
    return lambda index: values[index.reshape(len(index), -1), dims]
