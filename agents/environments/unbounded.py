"""A wrapper for environments whose observations rightly exceed the bounds that they declare: it declares none.

scg train ppo --env Their-v0 --wrapper scg.agents.environments.unbounded:Unbounded
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from scg.agents.environments.faults import EnvironmentFault


class Unbounded(gym.ObservationWrapper):
    """The environment, with −∞ and ∞ as the bounds of its observations. EnvironmentFault for spaces that need their bounds."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, spaces.Box) or space.dtype.kind != "f":
            raise EnvironmentFault(
                f"Unbounded: the observation space is {space}. Only a Box of floating-point numbers has no bounds."
            )
        self.observation_space = spaces.Box(-np.inf, np.inf, space.shape, space.dtype)  # type: ignore[arg-type]

    def observation(self, observation: Any) -> Any:
        return observation
