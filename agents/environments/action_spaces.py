"""Action spaces: what the agents for continuous and for discrete actions need to know of them."""

from __future__ import annotations

import gymnasium as gym
from gymnasium import spaces

from scg.agents.environments.action_maps import WIDE, has_scale
from scg.agents.environments.faults import EnvironmentFault


def action_dim(space: gym.Space) -> int:
    """The number of continuous action dimensions. EnvironmentFault for any other space."""
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise EnvironmentFault(f"action space {space}: this agent needs continuous actions on one axis, a Box of shape (n,).")
    if not has_scale(space).all():
        raise EnvironmentFault(
            f"action space {space}: this agent's actions are bounded, and need bounds at most {2 * WIDE:.0e} apart. "
            "Wrap the environment in one whose action space is a smaller Box (gymnasium.wrappers.TransformAction)."
        )
    return space.shape[0]


def choices(space: gym.Space) -> tuple[int, ...]:
    """How many values each dimension of a discrete action has. EnvironmentFault for any other space."""
    match space:
        case spaces.Discrete() if space.start == 0:
            return (int(space.n),)
        case spaces.MultiDiscrete() if space.nvec.ndim == 1 and not space.start.any():
            return tuple(space.nvec.tolist())
        case spaces.MultiBinary() if len(space.shape) == 1:
            return (2,) * space.shape[0]
        case spaces.Discrete() | spaces.MultiDiscrete() | spaces.MultiBinary():
            raise EnvironmentFault(f"action space {space}: actions on at most one axis that start at 0 are known. Wrap it.")
    raise EnvironmentFault(f"action space {space}: this agent needs discrete actions. Quantise it with --action-bins 11, say.")
