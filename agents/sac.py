"""SAC: the policy that maximises return and entropy, through the smaller of two critics.

    next_obs → (next_action ~ π) → target = reward + discount · (min Q̄(next_obs, next_action) − α log π(next_action))
    (obs, action) → q = Q(obs, action) → ⟨Σ (q − target)² / 2⟩                  trains both critics, target detached
    obs → (new_action ~ π) → ⟨α log π(new_action) − min Q(obs, new_action)⟩    trains the actor, through the critics
    ⟨−log α · (log π(new_action) + target entropy)⟩                            trains the temperature α

The actor's gradient is pathwise. Its likelihood-ratio form is one argument, `actor=LeaveOneOut(samples=8)` say: the same
objective, the same expected gradient.

Haarnoja et al. (2018), "Soft Actor-Critic Algorithms and Applications"; two critics: Fujimoto et al. (2018).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
from torch import Generator, Tensor, nn
from torch.distributions import Distribution

import scg
from scg import Estimator, detach, dist
from scg.agents.common.off_policy import Algorithm, OffPolicy, bellman
from scg.agents.environments.action_spaces import action_dim
from scg.agents.execution.options import check_options
from scg.agents.networks.actors import SquashedPolicy
from scg.agents.networks.critics import QCritics, Temperature, target_copy
from scg.agents.networks.encoder import Encoder
from scg.estimators import LeaveOneOut, NoGradient, Pathwise


def sac(
    policy: nn.Module,
    critics: nn.Module,
    target_critics: nn.Module,
    temperature: nn.Module,
    target_entropy: float | None = None,
    actor: Estimator | None = None,
) -> scg.Graph:
    """Without a `target_entropy` the temperature stays what it is. Inputs: obs, action, reward, discount, next_obs."""
    graph = scg.Graph()

    @graph.stochastic(NoGradient())
    def next_action(next_obs: Tensor) -> Distribution:
        return policy(next_obs)

    @graph.deterministic
    def target(reward: Tensor, discount: Tensor, next_obs: Tensor, next_action: Tensor, pi=dist("next_action")) -> Tensor:
        soft_value = target_critics(next_obs, next_action).amin(-1) - temperature() * pi.log_prob(next_action)
        return reward + discount * soft_value

    bellman(graph, critics, half=True)

    soft_actor(graph, policy, lambda obs, action: critics(obs, action).amin(-1), temperature, target_entropy, actor)
    return graph


def soft_actor(
    graph: scg.Graph,
    policy: nn.Module,
    value: Callable[[Tensor, Tensor], Tensor],
    temperature: nn.Module,
    target_entropy: float | None = None,
    actor: Estimator | None = None,
) -> None:
    """The actor's half, of every agent that differs in its critics alone: `value(obs, action)` `[*batch]`."""

    @graph.stochastic(actor or Pathwise(smooth=True))
    def new_action(obs: Tensor) -> Distribution:
        return policy(obs)

    @graph.deterministic
    def log_prob(new_action: Tensor, pi=dist("new_action")) -> Tensor:
        return pi.log_prob(new_action)

    @graph.cost(trains=policy)
    def soft_policy(obs: Tensor, new_action: Tensor, log_prob: Tensor) -> Tensor:
        return temperature() * log_prob - value(obs, new_action)

    if target_entropy is not None:

        @graph.cost(trains=temperature)
        def entropy_gap(log_prob: Tensor = detach("log_prob")) -> Tensor:
            return -temperature().log() * (log_prob + target_entropy)


@dataclass(frozen=True)
class SAC(OffPolicy):
    """Hyperparameters. The defaults are the published ones for MuJoCo."""

    alpha: float = 1.0
    """temperature: its initial value where it is learned"""
    learn_alpha: bool = True
    """learn the temperature that keeps the entropy at its target"""
    target_entropy: float | None = None
    """in nats; without one, minus the number of action dimensions"""
    actor: Literal["pathwise", "score"] = "pathwise"
    """how the actor's gradient is estimated: through the critics' gradient, or from their values alone"""
    actor_samples: int = 8
    """actions a state for the likelihood ratio, each the others' baseline"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, above_zero="alpha")  # its logarithm is the parameter

    def algorithm(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator) -> Algorithm:
        dim, encoder = action_dim(action_space), self.encoder(obs_space, generator)
        policy = SquashedPolicy(encoder(), dim, self.hidden, generator)
        critics = self.make_critics(encoder(), dim, generator)
        target_critics, temperature = target_copy(critics), Temperature(self.alpha)
        modules = {"policy": policy, "critics": critics, "target_critics": target_critics, "temperature": temperature}
        return Algorithm(
            self.make_graph(**modules, target_entropy=self.entropy(dim), actor=self.estimator()),
            objectives={"bellman": critics, **self.actors(policy, temperature)},
            targets={target_critics: critics},
            policy=policy,
            behaviour=policy,
            state=modules,
            watched=("q", "log_prob"),
        )

    def make_critics(self, encoder: Encoder, dim: int, generator: Generator) -> nn.Module:
        return QCritics(encoder, dim, self.hidden, 2, generator)

    def make_graph(self, **parts: Any) -> scg.Graph:
        """The page's graph, of the arguments of `sac`."""
        return sac(**parts)

    def entropy(self, dim: int) -> float | None:
        """The target entropy for so many action dimensions, None where the temperature is fixed."""
        if not self.learn_alpha:
            return None
        return -float(dim) if self.target_entropy is None else self.target_entropy

    def estimator(self) -> Estimator:
        """That of the actor's gradient."""
        return Pathwise(smooth=True) if self.actor == "pathwise" else LeaveOneOut(self.actor_samples)

    def actors(self, policy: nn.Module, temperature: nn.Module) -> dict[str, nn.Module]:
        """The objectives of `soft_actor`."""
        return {"soft_policy": policy, **({"entropy_gap": temperature} if self.learn_alpha else {})}
