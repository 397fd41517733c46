"""Observations that are no single array, and masks of actions, as one flat array: rollouts and buffers need no case for them.

    Dict, Tuple, MultiDiscrete, MultiBinary, … → [part ‖ part ‖ …]                a discrete part is one-hot
    info["action_mask"]                        → [… ‖ mask]                        1 where an action is allowed

`FlatSpace` remembers what the array was made of. Encoders take the array without the mask; a network of one's own gets the
dictionary or tuple of tensors back (`restored`). The mask that belongs to an observation travels with it, so that recorded
and next observations have theirs in rollouts, replay buffers and targets.

An environment says `metadata = {"action_mask": True}` if its infos have masks, or is wrapped in `FlatObservation(env, True)`.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

PARTS = (spaces.Dict, spaces.Tuple, spaces.MultiDiscrete, spaces.MultiBinary)  # what is made one array


class FlatSpace(spaces.Box):
    """A box of which the last `choices` numbers are a mask of actions, the others an observation of the space `original`."""

    def __init__(self, space: gym.Space, choices: int = 0) -> None:
        flat = spaces.flatten_space(space)
        if not isinstance(flat, spaces.Box):
            raise ValueError(f"observation space {space} has no fixed size. Wrap the environment.")
        kind: Any = flat.dtype if flat.dtype in (np.uint8, np.float32, np.float64) else np.float32
        low = np.concatenate([flat.low.astype(kind), np.zeros(choices, kind)])
        high = np.concatenate([flat.high.astype(kind), np.ones(choices, kind)])
        super().__init__(low, high, dtype=kind)
        self.original, self.choices = space, choices
        self.features = len(low) - choices

    def mask(self, obs: Any) -> Any:
        """1 where an action is allowed, `[*batch, choices]`; of arrays and tensors."""
        return obs[..., self.features :]

    def restored(self, obs: Tensor) -> Any:
        """What the environment gave, as tensors `[*batch, part…]`, from the flat array."""
        return _restored(self.original, obs[..., : self.features])

    def flattened(self, obs: Any, mask: Any = None) -> tuple[np.ndarray, bool]:
        """`[batch, …]` of one observation as the environment gives it, or of a batch of them; and whether it was one."""
        leaf, space = obs, self.original
        while isinstance(space, spaces.Dict | spaces.Tuple):
            key: Any = next(iter(space.spaces)) if isinstance(space, spaces.Dict) else 0
            leaf, space = leaf[key], space[key]
        single = np.ndim(leaf) == len(space.shape or ())
        rows = [obs] if single else [_row(obs, i) for i in range(len(leaf))]
        flat = np.stack([np.asarray(spaces.flatten(self.original, row)) for row in rows]).astype(self.dtype)
        if not self.choices:
            return flat, single
        if mask is None:
            raise ValueError("mask= is missing")
        masks = [mask] if single else list(mask)
        return np.concatenate([flat, np.stack([checked_mask(m, self.choices) for m in masks]).astype(self.dtype)], -1), single

    def drawn(self, random: np.random.Generator) -> np.ndarray:
        """Some flat observation, every action allowed."""
        return np.concatenate([_drawn(self.original, random), np.ones(self.choices)])


def original(space: gym.Space) -> gym.Space:
    """The environment's own observation space."""
    return space.original if isinstance(space, FlatSpace) else space


def mask_of(space: gym.Space) -> FlatSpace | None:
    """The space, if its observations have masks of actions."""
    return space if isinstance(space, FlatSpace) and space.choices else None


class FlatObservation(gym.Wrapper):
    """Observations as one array in a `FlatSpace`, with `masks` each followed by its info's "action_mask"."""

    def __init__(self, env: gym.Env, masks: bool = False) -> None:
        super().__init__(env)
        self._choices = _choices(env.action_space) if masks else 0
        self.observation_space = FlatSpace(env.observation_space, self._choices)
        self._kind: Any = self.observation_space.dtype

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        obs, info = self.env.reset(seed=seed, options=options)
        return self._flat(obs, info), info

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._flat(obs, info, bool(terminated or truncated)), reward, terminated, truncated, info

    def _flat(self, obs: Any, info: Any, over: bool = False) -> np.ndarray:
        flat = np.asarray(spaces.flatten(self.env.observation_space, obs)).astype(self._kind, copy=False)
        if not self._choices:
            return flat
        mask = info.get("action_mask")
        if mask is None:
            raise ValueError('info has no "action_mask". Give one with every observation, of reset too.')
        return np.concatenate([flat, checked_mask(mask, self._choices, over).astype(self._kind)])


def checked_mask(mask: Any, choices: int, over: bool = False) -> np.ndarray:
    """A mask as one axis of 0 and 1. ValueError where it does not fit, or allows nothing though the episode is not `over`."""
    parts = mask if isinstance(mask, tuple) else (mask,)
    found = np.concatenate([np.asarray(part).reshape(-1) for part in parts]).astype(bool)
    if len(found) != choices:
        raise ValueError(f'info["action_mask"] has {len(found)} entries, the action space has {choices} choices.')
    if over and not found.any():
        return np.ones_like(found)
    if not found.any():
        raise ValueError('info["action_mask"] allows no action. End the episode instead.')
    return found


def flat(env: gym.Env) -> gym.Env:
    """`env`, its observations as one array if they are not, with masks if it says that it has some."""
    masks = bool((env.unwrapped.metadata or {}).get("action_mask"))
    layers: Any = env
    while isinstance(layers, gym.Wrapper):
        if isinstance(layers, FlatObservation):
            return env
        layers = layers.env
    return FlatObservation(env, masks) if masks or isinstance(env.observation_space, PARTS) else env


def _row(obs: Any, i: int) -> Any:
    if isinstance(obs, dict):
        return {name: _row(part, i) for name, part in obs.items()}
    return tuple(_row(part, i) for part in obs) if isinstance(obs, tuple) else obs[i]


def _choices(space: gym.Space) -> int:
    match space:
        case spaces.Discrete():
            return int(space.n)
        case spaces.MultiDiscrete():
            return int(space.nvec.sum())
        case spaces.MultiBinary():
            return 2 * math.prod(space.shape)
    raise ValueError(f"action space {space}: masks are for discrete actions.")


def _restored(space: gym.Space, flat: Tensor) -> Any:
    match space:
        case spaces.Dict():
            return dict(zip(space.spaces, _split(space.spaces.values(), flat), strict=True))
        case spaces.Tuple():
            return tuple(_split(space.spaces, flat))
        case spaces.Discrete():
            return flat.argmax(-1) + int(space.start)
        case spaces.MultiDiscrete():
            sizes = space.nvec.reshape(-1).tolist()
            picked = torch.stack([part.argmax(-1) for part in flat.split(sizes, -1)], -1)
            return picked.reshape(*flat.shape[:-1], *space.shape)
        case spaces.Box() | spaces.MultiBinary():
            return flat.reshape(*flat.shape[:-1], *space.shape)
    raise ValueError(f"observation space {space}: its parts cannot be told apart in one array. Wrap the environment.")


def _split(parts: Any, flat: Tensor) -> list[Any]:
    parts = list(parts)
    pieces = flat.split([spaces.flatdim(part) for part in parts], -1)
    return [_restored(part, piece) for part, piece in zip(parts, pieces, strict=True)]


def _drawn(space: gym.Space, random: np.random.Generator) -> np.ndarray:
    match space:
        case spaces.Dict():
            return np.concatenate([_drawn(part, random) for part in space.spaces.values()])
        case spaces.Tuple():
            return np.concatenate([_drawn(part, random) for part in space.spaces])
        case spaces.Discrete():
            return np.eye(int(space.n))[random.integers(int(space.n))]
        case spaces.MultiDiscrete():
            return np.concatenate([np.eye(int(n))[random.integers(int(n))] for n in space.nvec.reshape(-1)])
        case spaces.Box():
            if space.dtype == np.uint8:
                return random.integers(0, 256, math.prod(space.shape)).astype(np.float64)
            return random.standard_normal(math.prod(space.shape))
    return random.integers(0, 2, spaces.flatdim(space)).astype(np.float64)
