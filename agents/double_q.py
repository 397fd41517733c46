"""Double Q-learning's two remedies against overestimated values, carried over to actor-critics.

    DDQN-AC    target = reward + discount · Q̄(next_obs, μ(next_obs))        the current actor chooses, the target critic evaluates
    DQ-AC      target₁ = reward + discount · Q̄₂(next_obs, μ₁(next_obs))     two actors, two critics: each actor's choice
               target₂ = reward + discount · Q̄₁(next_obs, μ₂(next_obs))     is judged by the other one's critic

    (obs, action) → q_i = Q_i(obs, action) → ⟨Σ_i (q_i − target_i)²⟩         trains the critics, targets detached
    obs → [new_action_i = μ_i(obs)] → ⟨−Σ_i Q_i(obs, μ_i(obs))⟩              trains the actors, each through its own critic

An actor changes slowly, so DDQN-AC's chooser and judge hardly differ. DQ-AC's critics are less alike, but learn from the
same replay buffer. TD3's minimum was proposed after both were found to overestimate still. The first actor acts.

Fujimoto, van Hoof & Meger (2018), section 4; van Hasselt (2010); van Hasselt, Guez & Silver (2016).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import gymnasium as gym
import torch
from torch import Generator, Tensor, nn

import scg
from scg import detach
from scg.agents.common.off_policy import Algorithm, OffPolicy
from scg.agents.environments.action_spaces import action_dim
from scg.agents.execution.options import check_options
from scg.agents.experience.exploration import ActionNoise, NoisyActor
from scg.agents.networks.actors import DeterministicPolicy
from scg.agents.networks.critics import QCritics, target_copy
from scg.agents.td3 import td3


class Actors(nn.Module):
    """Two deterministic policies: actions `[2, *batch, dim]`."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, obs: Tensor) -> Tensor:
        return torch.stack([self.first(obs), self.second(obs)])


def ddqn_ac(actor: DeterministicPolicy, critic: QCritics, target_critic: nn.Module) -> scg.Graph:
    """DDPG without a target actor. Inputs: obs, action, reward, discount, next_obs."""
    return td3(actor, critic, actor, target_critic, smoothing=0.0)


def dq_ac(actors: nn.Module, critics: nn.Module, target_actors: nn.Module, target_critics: nn.Module) -> scg.Graph:
    """`target_actors` may be the actors themselves. Inputs: obs, action, reward, discount, next_obs."""
    graph = scg.Graph()

    @graph.deterministic
    def target(reward: Tensor, discount: Tensor, next_obs: Tensor) -> Tensor:
        first, second = (target_critics(next_obs, action) for action in target_actors(next_obs))
        return reward.unsqueeze(-1) + discount.unsqueeze(-1) * torch.stack([first[..., 1], second[..., 0]], -1)

    @graph.deterministic
    def q(obs: Tensor, action: Tensor) -> Tensor:
        return critics(obs, action)

    @graph.cost(trains=critics)
    def bellman(q: Tensor, target: Tensor = detach("target"), importance: float = 1.0) -> Tensor:
        return importance * (q - target).square().sum(-1)

    @graph.reward(trains=actors)
    def gain(obs: Tensor) -> Tensor:
        first, second = actors(obs)
        return critics(obs, first)[..., 0] + critics(obs, second)[..., 1]

    return graph


@dataclass(frozen=True)
class DoubleQ(OffPolicy):
    """Hyperparameters."""

    remedy: Literal["ddqn-ac", "dq-ac"] = "dq-ac"
    """the present actor chooses and the target critic judges, or two pairs judge each other"""
    lr: float = 1e-3
    """learning rate"""
    noise: float = 0.1
    """standard deviation of the exploration's Gaussian noise"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, at_least_zero="noise")

    def algorithm(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator) -> Algorithm:
        dim, encoder, pairs = action_dim(action_space), self.encoder(obs_space, generator), self.remedy == "dq-ac"
        actor = DeterministicPolicy(encoder(), dim, self.hidden, generator)
        critics = QCritics(encoder(), dim, self.hidden, 2 if pairs else 1, generator)
        target_critics = target_copy(critics)
        targets: dict[nn.Module, nn.Module] = {target_critics: critics}
        state: dict[str, nn.Module] = {"policy": actor, "critics": critics, "target_critics": target_critics}
        if pairs:
            actors = Actors(actor, DeterministicPolicy(encoder(), dim, self.hidden, generator))
            target_actors = target_copy(actors)
            graph = dq_ac(actors, critics, target_actors, target_critics)
            trained: nn.Module = actors
            targets[target_actors] = actors
            state |= {"second_policy": actors.second, "target_policies": target_actors}
        else:
            graph, trained = ddqn_ac(actor, critics, target_critics), actor
        noise = ActionNoise(dim, self.noise)
        return Algorithm(
            graph,
            objectives={"bellman": critics, "gain": trained},
            targets=targets,
            policy=actor,
            behaviour=NoisyActor(actor, noise),
            state={**state, "noise": noise},
        )
