"""SAC as first published: a state value V with a slow copy, action values Q, and the policy, at a fixed temperature.

    obs → (new_action ~ π) → soft_value = min Q(obs, new_action) − α log π(new_action)
    obs → value = V(obs) → ⟨(value − soft_value)² / 2⟩                           trains V, soft_value detached
    next_obs → target = reward + discount · V̄(next_obs)
    (obs, action) → q = Q(obs, action) → ⟨Σ (q − target)² / 2⟩                   trains the critics, target detached
    ⟨α log π(new_action) − min Q(obs, new_action)⟩                              trains the actor, through the critics

V̄ follows V slowly. Rewards scaled by c are a temperature 1/c. The later form, without V, is `scg.agents.sac`.

Haarnoja, Zhou, Abbeel & Levine (2018), "Soft actor-critic: off-policy maximum entropy deep reinforcement learning with a
stochastic actor".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium as gym
from torch import Generator, Tensor, nn
from torch.distributions import Distribution

import scg
from scg import Estimator, detach, dist
from scg.agents.common.off_policy import Algorithm, OffPolicy, bellman
from scg.agents.environments.action_spaces import action_dim
from scg.agents.execution.options import check_options
from scg.agents.networks.actors import SquashedPolicy
from scg.agents.networks.critics import QCritics, target_copy
from scg.agents.networks.encoder import Encoder
from scg.agents.networks.mlp import ReLUNetwork
from scg.estimators import Pathwise


class StateValue(nn.Module):
    """V(obs) `[*batch]`, in reward units."""

    def __init__(self, encoder: Encoder, hidden: Sequence[int], generator: Generator | None = None) -> None:
        super().__init__()
        self.encoder, self.net = encoder, ReLUNetwork([encoder.features, *hidden, 1], generator)

    def forward(self, obs: Tensor) -> Tensor:
        return self.net(self.encoder(obs)).squeeze(-1)


def sac_v1(
    policy: nn.Module,
    critics: nn.Module,
    state_value: nn.Module,
    target_value: nn.Module,
    alpha: float,
    actor: Estimator | None = None,
) -> scg.Graph:
    """One critic or several. Inputs: obs, action, reward, discount, next_obs."""
    graph = scg.Graph()

    @graph.stochastic(actor or Pathwise(smooth=True))
    def new_action(obs: Tensor) -> Distribution:
        return policy(obs)

    @graph.deterministic
    def log_prob(new_action: Tensor, pi=dist("new_action")) -> Tensor:
        return pi.log_prob(new_action)

    @graph.deterministic
    def soft_value(obs: Tensor, new_action: Tensor, log_prob: Tensor) -> Tensor:
        return critics(obs, new_action).amin(-1) - alpha * log_prob

    @graph.cost(trains=state_value)
    def regression(obs: Tensor, soft_value: Tensor = detach("soft_value")) -> Tensor:
        return (state_value(obs) - soft_value).square() / 2

    @graph.deterministic
    def target(reward: Tensor, discount: Tensor, next_obs: Tensor) -> Tensor:
        return reward + discount * target_value(next_obs)

    bellman(graph, critics, half=True)

    @graph.reward(trains=policy)
    def soft_gain(soft_value: Tensor) -> Tensor:
        return soft_value

    return graph


@dataclass(frozen=True)
class SACv1(OffPolicy):
    """Hyperparameters. The defaults are the published ones for MuJoCo: rewards scaled by 5."""

    alpha: float = 0.2
    """temperature: one over the published reward scale"""
    twin: bool = True
    """the smaller of two critics, in place of one"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, at_least_zero="alpha")

    def algorithm(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator) -> Algorithm:
        dim, encoder = action_dim(action_space), self.encoder(obs_space, generator)
        policy = SquashedPolicy(encoder(), dim, self.hidden, generator)
        critics = QCritics(encoder(), dim, self.hidden, 2 if self.twin else 1, generator)
        value = StateValue(encoder(), self.hidden, generator)
        target_value = target_copy(value)
        return Algorithm(
            sac_v1(policy, critics, value, target_value, self.alpha),
            objectives={"bellman": critics, "regression": value, "soft_gain": policy},
            targets={target_value: value},
            policy=policy,
            behaviour=policy,
            state={"policy": policy, "critics": critics, "value": value, "target_value": target_value},
            watched=("q", "log_prob"),
        )
