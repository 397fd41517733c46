"""Policy, critic and normalisers of an on-policy actor-critic, as its options say, and the recorder of its experience."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import gymnasium as gym
from torch import Generator, Tensor

from scg.agents.common.agent import AgentConfig, OptionError, check_options
from scg.agents.common.recorder import Recorder
from scg.agents.execution.settings import EAGER, Execution
from scg.agents.networks.critics import value_critic
from scg.agents.networks.encoder import obs_normaliser
from scg.agents.networks.networks import refused, takes_normaliser, with_whole_path
from scg.agents.networks.normalisers import RewardScale
from scg.agents.networks.policies import PolicyKind, make_policy
from scg.agents.updates.factory import Updates


@dataclass(frozen=True)
class ActorCriticOptions(AgentConfig):
    """Hyperparameters of the networks, and of what they learn from."""

    horizon: int = 256
    """time steps of each block, in every environment"""
    gamma: float = 0.99
    """discount"""
    hidden: tuple[int, ...] = (64, 64)
    """widths of the hidden layers of policy and critic"""
    policy: PolicyKind = "gaussian"
    """distribution of continuous actions"""
    log_scale: float = -0.5
    """initial log-scale of continuous actions; a Beta policy has none"""
    network: str = "mlp"
    """before the hidden layers: mlp, residual, cnn, gru, lstm, cnn+gru, …, or path/to/file.py:name"""
    features: int = 128
    """width of a network other than mlp"""
    normalise_obs: bool = True
    """normalise observations by their running moments"""
    scale_reward: bool = True
    """shape rewards by what the clock predicts, divide by the running standard deviation of the discounted return"""

    remembers: ClassVar[bool] = False
    """whether its updates know recurrent networks"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "network", with_whole_path(self.network))
        check_options(self, at_least_one="horizon features", unit="gamma")


class ActorCritic(Recorder):
    """The recorder of an actor-critic: policy, critic and normalisers as its options say."""

    def __init__(
        self,
        config: ActorCriticOptions,
        obs_space: gym.Space,
        action_space: gym.Space,
        generator: Generator,
        execution: Execution = EAGER,
    ) -> None:
        self.config = config
        before = config.normalise_obs and takes_normaliser(config.network)
        self.normaliser = obs_normaliser(obs_space) if before else None
        network = config.network, config.features
        policy = make_policy(
            obs_space, action_space, config.hidden, generator, self.normaliser, config.policy, config.log_scale, *network
        )
        memory = getattr(policy, "memory", None)
        self.value = value_critic(obs_space, config.hidden, generator, 1.0, self.normaliser, *network, memory)
        if memory is not None:
            if not config.remembers:
                raise OptionError(refused(config.network, type(config).__name__))
            execution = replace(execution, compile=False)  # stretches between episodes' starts have no fixed lengths
        scale = RewardScale(config.gamma) if config.scale_reward else None
        super().__init__(policy, self.value, config.horizon, Updates(execution), scale)

    @property
    def parameters(self) -> list[Tensor]:
        return list(dict.fromkeys([*self.policy.parameters(), *self.value.parameters()]))  # a memory is in both
