"""DDPG: the deterministic policy gradient, with a replayed critic.

    next_obs → [μ̄(next_obs)] → target = reward + discount · Q̄(next_obs, μ̄(next_obs))
    (obs, action) → q = Q(obs, action) → ⟨(q − target)²⟩       trains the critic, target detached
    obs → [new_action = μ(obs)] → ⟨−Q(obs, new_action)⟩        trains the actor, through the critic

It explores with Gaussian or with Ornstein–Uhlenbeck noise. The graph is TD3's with its three parts left out.

Lillicrap et al. (2016), "Continuous control with deep reinforcement learning"; Silver et al. (2014).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import gymnasium as gym
from torch import Generator, nn

import scg
from scg.agents.common.off_policy import Algorithm, OffPolicy
from scg.agents.environments.action_spaces import action_dim
from scg.agents.execution.options import check_options
from scg.agents.experience.exploration import ActionNoise, NoisyActor
from scg.agents.networks.actors import DeterministicPolicy
from scg.agents.networks.critics import QCritics, target_copy
from scg.agents.td3 import td3


def ddpg(actor: DeterministicPolicy, critic: QCritics, target_actor: nn.Module, target_critic: nn.Module) -> scg.Graph:
    """Inputs: obs, action, reward, discount, next_obs."""
    return td3(actor, critic, target_actor, target_critic, smoothing=0.0)


@dataclass(frozen=True)
class DDPG(OffPolicy):
    """Hyperparameters. The defaults are those of tuned implementations on MuJoCo, with TD3's networks."""

    lr: float = 1e-3
    """learning rate"""
    noise: float = 0.1
    """standard deviation of the exploration's noise"""
    process: Literal["gaussian", "ou"] = "gaussian"
    """noise that is new at every step, or an Ornstein–Uhlenbeck process"""
    forget: float = 0.15
    """what the Ornstein–Uhlenbeck process forgets in a step"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, at_least_zero="noise", unit="forget")

    def algorithm(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator) -> Algorithm:
        dim, encoder = action_dim(action_space), self.encoder(obs_space, generator)
        actor = DeterministicPolicy(encoder(), dim, self.hidden, generator)
        critic = QCritics(encoder(), dim, self.hidden, 1, generator)
        target_actor, target_critic = target_copy(actor), target_copy(critic)
        noise = ActionNoise(dim, self.noise, self.forget if self.process == "ou" else 1.0)
        modules = {"policy": actor, "critic": critic, "target_policy": target_actor, "target_critic": target_critic}
        return Algorithm(
            ddpg(actor, critic, target_actor, target_critic),
            objectives={"bellman": critic, "gain": actor},
            targets={target_critic: critic, target_actor: actor},
            policy=actor,
            behaviour=NoisyActor(actor, noise),
            state={**modules, "noise": noise},
        )
