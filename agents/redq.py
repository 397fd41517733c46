"""REDQ: SAC with an ensemble of critics, targets from a random few of them, and many updates a step.

    next_obs → (next_action ~ π),  (rank ~ N(0, 1) of each critic) → chosen = the critics of the highest ranks
    target = reward + discount · (min over chosen Q̄(next_obs, next_action) − α log π(next_action))     subset
    (obs, action) → q = Q(obs, action) → ⟨Σ (q − target)² / 2⟩                       trains all critics, target detached
    obs → (new_action ~ π) → ⟨α log π(new_action) − mean Q(obs, new_action)⟩         trains the actor, through all critics

`--subset` changes the line of `target`: 1 has no minimum at all, and as many as there are `--critics` is that of all of them,
without ranks. `--updates` is how often a step of the environment is learned from: 20 in the paper, which a processor pays for.
The few are drawn for each row, in the paper for each minibatch: the same expectation.

Chen, Wang, Zhou & Ross (2021), "Randomized ensembled double Q-learning: learning fast without a model".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Generator, Tensor, nn
from torch.distributions import Distribution

import scg
from scg import Estimator, detach, dist
from scg.agents.common.agent import OptionError
from scg.agents.common.off_policy import bellman
from scg.agents.execution.options import check_options
from scg.agents.networks.critics import QCritics
from scg.agents.networks.encoder import Encoder
from scg.agents.networks.gaussian_noise import gaussian_noise
from scg.agents.sac import SAC, soft_actor
from scg.estimators import NoGradient


def redq(
    policy: nn.Module,
    critics: nn.Module,
    target_critics: nn.Module,
    temperature: nn.Module,
    target_entropy: float | None = None,
    actor: Estimator | None = None,
    subset: int = 2,
    count: int = 10,
) -> scg.Graph:
    """`count` critics, of which `subset` make the target. Inputs: obs, action, reward, discount, next_obs."""
    graph = scg.Graph()

    @graph.stochastic(NoGradient())
    def next_action(next_obs: Tensor) -> Distribution:
        return policy(next_obs)

    if subset < count:

        @graph.stochastic(NoGradient())
        def rank(next_obs: Tensor) -> Distribution:
            return gaussian_noise(next_obs, count, 1.0)

        @graph.deterministic
        def values(next_obs: Tensor, next_action: Tensor, rank: Any = detach("rank")) -> Tensor:
            return target_critics(next_obs, next_action).gather(-1, rank.topk(subset, -1).indices)

    else:

        @graph.deterministic(name="values")
        def every_value(next_obs: Tensor, next_action: Tensor) -> Tensor:
            return target_critics(next_obs, next_action)

    @graph.deterministic
    def target(reward: Tensor, discount: Tensor, values: Tensor, next_action: Tensor, pi=dist("next_action")) -> Tensor:
        return reward + discount * (values.amin(-1) - temperature() * pi.log_prob(next_action))

    bellman(graph, critics, half=True)
    soft_actor(graph, policy, lambda obs, action: critics(obs, action).mean(-1), temperature, target_entropy, actor)
    return graph


@dataclass(frozen=True)
class REDQ(SAC):
    """Hyperparameters. The defaults are the published ones for MuJoCo."""

    warmup: int = 5000
    """environment steps with random actions at first"""
    updates: int = 20
    """gradient steps after each step of every environment"""
    critics: int = 10
    """critics of the ensemble"""
    subset: int = 2
    """critics, drawn at random for each row, whose minimum is the target"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, "critics subset")
        if self.subset > self.critics:
            raise OptionError(f"option subset is {self.subset}: there are {self.critics} critics. Give no more.")

    def make_critics(self, encoder: Encoder, dim: int, generator: Generator) -> nn.Module:
        return QCritics(encoder, dim, self.hidden, self.critics, generator)

    def make_graph(self, **parts: Any) -> scg.Graph:
        return redq(**parts, subset=self.subset, count=self.critics)
