"""A policy as one torch module from what the environment gives to what it takes: what an exporter writes down.

    the environment's observation → flat array → normaliser → network → most probable action → the space's own units and type
                                                  ↑ memory, first     ↓ memory                  (a recurrent policy)

What acting computes in numpy is computed in torch here: `best` of a module, or the mode of the distribution that it returns.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from scg.agents.environments.action_maps import EXACT, has_scale, to_bins
from scg.agents.environments.flat_space import FlatSpace, original
from scg.agents.environments.goal_space import PARTS, GoalSpace


class Unexportable(ValueError):
    """A policy, or a space, that cannot be written down."""


class Input(NamedTuple):
    name: str
    shape: tuple[int, ...]  # without the batch axis
    kind: np.dtype


def best(policy: nn.Module, obs: Tensor) -> Tensor:
    """The most probable action, in the units that agents act in."""
    if hasattr(policy, "best"):
        return policy.best(obs)  # type: ignore[operator]
    found: Any = policy(obs)
    if not isinstance(found, Tensor):
        found = getattr(found, "mode", None)
    if not isinstance(found, Tensor):
        raise Unexportable(
            f"{type(policy).__name__} says no most probable action in torch. Give it a method `best(obs) -> action`, or export "
            "its weights to .safetensors."
        )
    return found


class Exported(nn.Module):
    """`forward(*inputs) → action [batch, …]`, and the next memory of a recurrent policy. `inputs` says what it takes."""

    def __init__(self, policy: nn.Module, obs_space: gym.Space, action_space: gym.Space, bins: int) -> None:
        super().__init__()
        self.policy, self.obs_space = policy, obs_space
        self.units = ToBins(action_space, bins) if bins else ToSpace(action_space)
        self.leaves, self.memory = _leaves(obs_space), getattr(policy, "memory", None)
        self.inputs = [Input(name, space.shape or (), np.dtype(space.dtype)) for name, space in self.leaves]
        self.masks = obs_space.choices if isinstance(obs_space, FlatSpace) else 0
        if self.masks:
            self.inputs.append(Input("action_mask", (self.masks,), np.dtype(np.int8)))
        self.outputs = ["action"]
        if self.memory is not None:
            like = next(self.memory.parameters()).dtype
            self.inputs.append(Input("memory", (self.memory.size,), np.dtype(str(like).removeprefix("torch."))))
            self.inputs.append(Input("first", (), np.dtype(bool)))
            self.outputs.append("next_memory")

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = list(inputs)
        obs = self.flat([given.pop(0) for _ in self.leaves])
        if self.masks:
            obs = torch.cat([obs, given.pop(0).to(obs.dtype)], -1)
        if self.memory is None:
            return (self.units(best(self.policy, obs)),)
        after = self.memory(obs, *given)
        return self.units(best(self.policy, after)), after

    def flat(self, parts: list[Tensor]) -> Tensor:
        """What the networks read, of the environment's own observation."""
        kind = torch.get_default_dtype()
        if not isinstance(self.obs_space, FlatSpace | GoalSpace):
            return parts[0].to(kind) if parts[0].is_floating_point() else parts[0]
        return torch.cat([_one_axis(space, x, kind) for (_, space), x in zip(self.leaves, parts, strict=True)], -1)


def raw(obs_space: gym.Space, flat: np.ndarray) -> list[np.ndarray]:
    """The environment's own observations, leaf by leaf, from arrays as rollouts have them: `flat` without that."""
    leaves = _leaves(obs_space)
    if not isinstance(obs_space, FlatSpace | GoalSpace):
        return [flat.astype(leaves[0][1].dtype)]
    parts, at = [], 0
    for _, space in leaves:
        size = spaces.flatdim(space)
        part = FlatSpace(spaces.Tuple([space])).restored(torch.from_numpy(flat[..., at : at + size]))[0]
        parts.append(part.numpy().astype(space.dtype))
        at += size
    return parts


def _leaves(space: gym.Space) -> list[tuple[str, gym.Space]]:
    """Every array of an observation by its name: `obs`, or `obs.part.part`."""
    if isinstance(space, GoalSpace):
        return [(f"obs.{name}", part) for name, part in zip(PARTS, space.parts, strict=True)]
    return list(_parts("obs", original(space)))


def _parts(name: str, space: gym.Space) -> Any:
    inner: Any = None
    if isinstance(space, spaces.Dict):
        inner = space.spaces.items()
    elif isinstance(space, spaces.Tuple):
        inner = enumerate(space.spaces)
    if inner is None:
        yield name, space
        return
    for key, part in inner:
        yield from _parts(f"{name}.{key}", part)


def _one_axis(space: gym.Space, x: Tensor, kind: torch.dtype) -> Tensor:
    """As `gymnasium.spaces.flatten`, of a batch."""
    match space:
        case spaces.Discrete():
            return nn.functional.one_hot(x.long() - int(space.start), int(space.n)).to(kind)
        case spaces.MultiDiscrete():
            flat, sizes = x.long().flatten(1), space.nvec.reshape(-1).tolist()
            return torch.cat([nn.functional.one_hot(flat[:, i], n) for i, n in enumerate(sizes)], -1).to(kind)
    return x.flatten(1).to(kind) if x.ndim > 1 else x.unsqueeze(-1).to(kind)


def _torch_type(kind: Any) -> torch.dtype:
    found = getattr(torch, str(np.dtype(kind)), None)
    if found is None:
        raise Unexportable(f"actions of type {kind}: torch has none. Export to .safetensors.")
    return found


class ToSpace(nn.Module):
    """`scg.agents.environments.action_maps.to_space` in torch."""

    middle: Tensor
    radius: Tensor
    inner: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, space: gym.Space) -> None:
        super().__init__()
        self.kind, self.box = _torch_type(space.dtype), isinstance(space, spaces.Box)
        if not isinstance(space, spaces.Box):
            return
        scaled, self.integer = has_scale(space), bool(np.issubdtype(space.dtype, np.integer))
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        if self.integer:
            low, high = np.maximum(low, -EXACT), np.minimum(high, EXACT)
        half, middle = np.ones(space.shape), np.zeros(space.shape)
        half[scaled] = (high[scaled] - low[scaled]) / 2 + 0.5 * self.integer
        middle[scaled] = (high[scaled] + low[scaled]) / 2
        numbers = {"middle": middle, "radius": half, "inner": np.where(scaled, 1.0, np.inf), "low": low, "high": high}
        for name, value in numbers.items():
            self.register_buffer(name, torch.from_numpy(value))

    def forward(self, action: Tensor) -> Tensor:
        if not self.box:
            return action.to(self.kind)
        value = self.middle + self.radius * torch.minimum(torch.maximum(action.double(), -self.inner), self.inner)
        value = value.round() if self.integer else value
        return torch.minimum(torch.maximum(value, self.low), self.high).to(self.kind)


class ToBins(nn.Module):
    """`scg.agents.environments.action_maps.to_bins` in torch."""

    values: Tensor

    def __init__(self, space: gym.Space, bins: int) -> None:
        super().__init__()
        each = np.arange(bins).reshape(-1, 1).repeat(space.shape[0], 1)  # type: ignore[index]
        self.register_buffer("values", torch.from_numpy(to_bins(space, bins)(each)))  # [bins, dim]

    def forward(self, index: Tensor) -> Tensor:
        index = index.reshape(index.shape[0], -1)
        return self.values.gather(0, index)
