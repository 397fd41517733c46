"""The policy for two spaces, by the name of its distribution.

Discrete                 categorical
MultiDiscrete            independent categoricals
Box                      gaussian (one scale), state-gaussian (a scale of each observation), squashed, beta
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import gymnasium as gym
from gymnasium import spaces
from torch import Generator, nn

from scg.agents.environments.faults import EnvironmentFault
from scg.agents.networks.bounded_policies import BetaPolicy, SquashedGaussianPolicy, StateGaussianPolicy
from scg.agents.networks.encoder import Encoder
from scg.agents.networks.multi_categorical import MultiCategoricalPolicy
from scg.agents.networks.normalisers import ObsNormaliser
from scg.agents.networks.policy import CategoricalPolicy, GaussianPolicy

PolicyKind = Literal["gaussian", "state-gaussian", "squashed", "beta"]


def make_policy(
    obs: gym.Space,
    action: gym.Space,
    hidden: Sequence[int],
    generator: Generator | None = None,
    normaliser: ObsNormaliser | None = None,
    kind: PolicyKind = "gaussian",
    log_scale: float = -0.5,
) -> nn.Module:
    """`kind` and the initial `log_scale` matter to `Box` actions only. EnvironmentFault for a space of another kind."""
    encoder = Encoder(obs, normaliser)
    match action:
        case spaces.Discrete():
            if action.start != 0:
                raise EnvironmentFault(f"action space {action} starts at {action.start}; wrap it so that actions start at 0.")
            return CategoricalPolicy(encoder, int(action.n), hidden, generator)
        case spaces.MultiDiscrete():
            if action.nvec.ndim != 1 or action.start.any():
                raise EnvironmentFault(f"action space {action}: one axis of actions that start at 0 is known. Wrap it.")
            return MultiCategoricalPolicy(encoder, action.nvec.tolist(), hidden, generator)
        case spaces.Box():
            if kind == "gaussian":
                return GaussianPolicy(encoder, action.shape, hidden, generator, log_scale)
            if kind == "beta":
                return BetaPolicy(encoder, action.shape, hidden, generator)
            two = {"state-gaussian": StateGaussianPolicy, "squashed": SquashedGaussianPolicy}[kind]
            return two(encoder, action.shape, hidden, generator, log_scale=log_scale)
    raise EnvironmentFault(
        f"action space {action}: only Discrete, MultiDiscrete and Box are known. Write a policy module for it."
    )
