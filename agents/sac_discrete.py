"""Discrete SAC: maximum entropy over a handful of actions, where every expectation over actions is a finite sum.

    next_obs → target = reward + discount · Σ_a π(a|next_obs) (min Q̄(next_obs, a) − α log π(a|next_obs))
    (obs, action) → q = Q(obs, action) → ⟨Σ (q − target)² / 2⟩                  trains both critics, target detached
    obs → (new_action ~ π) → ⟨α log π(new_action) − min Q(obs, new_action)⟩    trains the actor
    ⟨−log α · (log π(new_action) + target entropy)⟩                            trains the temperature α

The graph of the actor is SAC's. Its gradient is exact with `Enumeration()`, the default; any other estimator of discrete
samples (`LeaveOneOut(4)`, `ScoreFunction()`, …) is one argument.

Christodoulou (2019), "Soft actor-critic for discrete action settings".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import gymnasium as gym
import torch
from gymnasium import spaces
from torch import Generator, Tensor, nn
from torch.distributions import Categorical

import scg
from scg import Estimator, detach, dist
from scg.agents.common.off_policy import Algorithm, OffPolicy, bellman
from scg.agents.environments.action_spaces import choices
from scg.agents.environments.envs import EnvironmentFault
from scg.agents.execution.options import check_options
from scg.agents.networks.critics import Temperature, target_copy
from scg.agents.networks.encoder import Encoder
from scg.agents.networks.legal import Legal
from scg.agents.networks.mlp import ReLUNetwork
from scg.agents.networks.policy import CategoricalPolicy
from scg.estimators import Enumeration, LeaveOneOut


class DiscreteCritics(nn.Module):
    """Two action values of every choice, `[*batch, choices, 2]`, in reward units."""

    def __init__(self, encoder: Encoder, actions: int, hidden: Sequence[int], generator: Generator | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.nets = nn.ModuleList(ReLUNetwork([encoder.features, *hidden, actions], generator) for _ in range(2))

    def forward(self, obs: Tensor) -> Tensor:
        x = self.encoder(obs)
        return torch.stack([net(x) for net in self.nets], -1)


def sac_discrete(
    policy: CategoricalPolicy,
    critics: nn.Module,
    target_critics: nn.Module,
    temperature: nn.Module,
    target_entropy: float | Callable[[Tensor], Any] | None = None,
    actor: Estimator | None = None,
) -> scg.Graph:
    """Without a `target_entropy`, a number or a function of obs, the temperature stays what it is. Inputs: obs, action,
    reward, discount, next_obs."""
    graph = scg.Graph()

    @graph.deterministic
    def target(reward: Tensor, discount: Tensor, next_obs: Tensor) -> Tensor:
        pi = policy(next_obs)
        soft = target_critics(next_obs).amin(-1) - temperature() * pi.logits  # logits are normalised: log π
        return reward + discount * (pi.probs * soft).sum(-1)

    def values(obs: Tensor, action: Tensor) -> Tensor:
        index = action[..., None, None].expand(*action.shape, 1, 2)
        return critics(obs).gather(-2, index).squeeze(-2)

    bellman(graph, critics, values, half=True)

    @graph.deterministic
    def entropy(obs: Tensor) -> Tensor:
        return policy(obs).entropy()

    @graph.stochastic(actor or Enumeration())
    def new_action(obs: Tensor) -> Categorical:
        return policy(obs)

    @graph.deterministic
    def log_prob(new_action: Tensor, pi=dist("new_action")) -> Tensor:
        return pi.log_prob(new_action)

    @graph.cost(trains=policy)
    def soft_policy(obs: Tensor, new_action: Tensor, log_prob: Tensor) -> Tensor:
        values = critics(obs).amin(-1)  # once for all branches of actions
        taken = values.expand(*new_action.shape, values.shape[-1]).gather(-1, new_action.unsqueeze(-1)).squeeze(-1)
        return temperature() * log_prob - taken

    if target_entropy is not None:

        @graph.cost(trains=temperature)
        def entropy_gap(obs: Tensor, log_prob: Tensor = detach("log_prob")) -> Tensor:
            aim = target_entropy(obs) if callable(target_entropy) else target_entropy
            return -temperature().log() * (log_prob + aim)

    return graph


@dataclass(frozen=True)
class DiscreteSAC(OffPolicy):
    """Hyperparameters."""

    warmup: int = 1000
    """environment steps with random actions at first"""
    batch: int = 64
    """rows of a minibatch"""
    replay: int = 100_000
    """environment steps that the buffer holds"""
    alpha: float = 1.0
    """temperature: its initial value where it is learned"""
    learn_alpha: bool = True
    """learn the temperature that keeps the entropy at its target"""
    target_entropy_share: float = 0.98
    """the entropy's target, as a share of that of uniformly random actions"""
    actor: Literal["enumeration", "score"] = "enumeration"
    """how the actor's gradient is estimated: the sum over all actions, or from samples"""
    actor_samples: int = 4
    """actions a state for the likelihood ratio, each the others' baseline"""

    family: ClassVar[str] = "off-policy, discrete actions"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, unit="target_entropy_share", above_zero="alpha")

    def algorithm(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator) -> Algorithm:
        sizes, encoder = choices(action_space), self.encoder(obs_space, generator)
        if not isinstance(action_space, spaces.Discrete):
            raise EnvironmentFault(
                f"action space {action_space}: this agent has one discrete action. Use dqn, or fewer dimensions."
            )
        actions = sizes[0]
        legal = Legal(obs_space, sizes, flat=True)
        policy = CategoricalPolicy(encoder(), actions, self.hidden, generator, legal)
        critics = DiscreteCritics(encoder(), actions, self.hidden, generator)
        target_critics, temperature = target_copy(critics), Temperature(self.alpha)
        uniform = legal.uniform_entropy if legal else lambda obs: math.log(actions)
        share = self.target_entropy_share
        entropy = (lambda obs: share * uniform(obs)) if self.learn_alpha else None
        estimator = Enumeration() if self.actor == "enumeration" else LeaveOneOut(self.actor_samples)
        objectives: dict[str, nn.Module] = {"bellman": critics, "soft_policy": policy}
        if self.learn_alpha:
            objectives["entropy_gap"] = temperature
        modules = {"policy": policy, "critics": critics, "target_critics": target_critics, "temperature": temperature}
        return Algorithm(
            sac_discrete(policy, critics, target_critics, temperature, entropy, estimator),
            objectives=objectives,
            targets={target_critics: critics},
            policy=policy,
            behaviour=policy,
            state=modules,
            watched=("q", "entropy"),
        )
