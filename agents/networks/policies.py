"""The policy for two spaces, by the name of its distribution.

Discrete                 categorical; masked where the observations have masks
MultiDiscrete            independent categoricals; MultiBinary: of two choices each
Box                      gaussian (one scale), state-gaussian (a scale of each observation), squashed, beta
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import gymnasium as gym
from gymnasium import spaces
from torch import Generator, nn

from scg.agents.environments.action_spaces import choices
from scg.agents.environments.faults import EnvironmentFault
from scg.agents.environments.flat_space import mask_of
from scg.agents.networks.bounded_policies import BetaPolicy, SquashedGaussianPolicy, StateGaussianPolicy
from scg.agents.networks.legal import Legal
from scg.agents.networks.multi_categorical import MultiCategoricalPolicy
from scg.agents.networks.networks import make_network
from scg.agents.networks.normalisers import ObsNormaliser
from scg.agents.networks.policy import CategoricalPolicy, GaussianPolicy
from scg.agents.networks.recurrent import MemoryReader, is_recurrent

PolicyKind = Literal["gaussian", "state-gaussian", "squashed", "beta"]


def make_policy(
    obs: gym.Space,
    action: gym.Space,
    hidden: Sequence[int],
    generator: Generator | None = None,
    normaliser: ObsNormaliser | None = None,
    kind: PolicyKind = "gaussian",
    log_scale: float = -0.5,
    network: str = "mlp",
    features: int = 128,
) -> nn.Module:
    """`kind` and the initial `log_scale` matter to `Box` actions only. EnvironmentFault for a space of another kind.

    `network` comes before the head, of `hidden` layers: see `scg.agents.networks.networks`. A recurrent one becomes the
    policy's `memory`, which the head then reads in place of observations.
    """
    made = make_network(network, obs, features, generator, normaliser)
    if not is_recurrent(made):
        return _head(made, obs, action, hidden, generator, kind, log_scale)
    if mask_of(obs) is not None:
        raise EnvironmentFault(f"the network {network} does not take masks of actions. Use one without a memory.")
    policy = _head(MemoryReader(made), obs, action, hidden, generator, kind, log_scale)
    policy.memory = made
    return policy


def _head(
    encoder: Any, obs: gym.Space, action: gym.Space, hidden: Sequence[int], generator: Any, kind: PolicyKind, log_scale: float
) -> nn.Module:
    if mask_of(obs) is not None and isinstance(action, spaces.Box):
        raise EnvironmentFault(f"action space {action}: masks are for discrete actions.")
    match action:
        case spaces.Discrete():
            if action.start != 0:
                raise EnvironmentFault(f"action space {action} starts at {action.start}; wrap it so that actions start at 0.")
            return CategoricalPolicy(encoder, int(action.n), hidden, generator, Legal(obs, [int(action.n)], flat=True))
        case spaces.MultiDiscrete():
            if action.nvec.ndim != 1 or action.start.any():
                raise EnvironmentFault(f"action space {action}: one axis of actions that start at 0 is known. Wrap it.")
            return MultiCategoricalPolicy(encoder, action.nvec.tolist(), hidden, generator, Legal(obs, action.nvec.tolist()))
        case spaces.MultiBinary() if len(action.shape) == 1:
            sizes = choices(action)
            return MultiCategoricalPolicy(encoder, sizes, hidden, generator, Legal(obs, sizes))
        case spaces.Box():
            if kind == "gaussian":
                return GaussianPolicy(encoder, action.shape, hidden, generator, log_scale)
            if kind == "beta":
                return BetaPolicy(encoder, action.shape, hidden, generator)
            two = {"state-gaussian": StateGaussianPolicy, "squashed": SquashedGaussianPolicy}[kind]
            return two(encoder, action.shape, hidden, generator, log_scale=log_scale)
    raise EnvironmentFault(
        f"action space {action}: only Discrete, MultiDiscrete, MultiBinary and Box are known. Write a policy module for it."
    )
