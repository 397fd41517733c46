"""TQC: SAC with critics that learn the distribution of returns, of whose pooled quantiles the largest are dropped.

    next_obs → (next_action ~ π) → atoms = sort of all critics' quantiles Z̄(next_obs, next_action), without the largest
    atoms → target = reward + discount · (atoms − α log π(next_action))           [*batch, atoms]
    (obs, action) → z = Z(obs, action) → ⟨Σ quantile loss of z at target⟩          trains the critics, target detached
    obs → (new_action ~ π) → ⟨α log π(new_action) − mean Z(obs, new_action)⟩       trains the actor, through all quantiles

`--drop` is the line `atoms`: how many quantiles a critic are left out, of `--quantiles`; 0 keeps the mean, and more of them is
more pessimistic, in finer steps than the smaller of two critics. `--critics` and `--quantiles` are the line `z`.

Apart from the paper: the hidden layers are 2 × 256 (there 3 × 512, `--hidden 512 512 512`).

Kuznetsov, Shvechikov, Grishin & Vetrov (2020), "Controlling overestimation bias with truncated mixture of continuous
distributional quantile critics".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
from torch import Generator, Tensor, nn
from torch.distributions import Distribution

import scg
from scg import Estimator, detach, dist
from scg.agents.common.agent import OptionError
from scg.agents.common.off_policy import Algorithm
from scg.agents.execution.options import check_options
from scg.agents.networks.encoder import Encoder
from scg.agents.networks.quantiles import QuantileCritics, quantile_loss
from scg.agents.sac import SAC, soft_actor
from scg.estimators import NoGradient
from scg.trace import Trace


def tqc(
    policy: nn.Module,
    critics: nn.Module,
    target_critics: nn.Module,
    temperature: nn.Module,
    target_entropy: float | None = None,
    actor: Estimator | None = None,
    drop: int = 2,
) -> scg.Graph:
    """`drop` quantiles a critic are left out. Inputs: obs, action, reward, discount, next_obs."""
    graph = scg.Graph()

    @graph.stochastic(NoGradient())
    def next_action(next_obs: Tensor) -> Distribution:
        return policy(next_obs)

    @graph.deterministic
    def atoms(next_obs: Tensor, next_action: Tensor) -> Tensor:
        z = target_critics(next_obs, next_action)  # [*batch, critics, quantiles]
        return z.flatten(-2).sort(-1).values[..., : z.shape[-2] * (z.shape[-1] - drop)]

    @graph.deterministic
    def target(reward: Tensor, discount: Tensor, atoms: Tensor, next_action: Tensor, pi=dist("next_action")) -> Tensor:
        soft = atoms - (temperature() * pi.log_prob(next_action)).unsqueeze(-1)
        return reward.unsqueeze(-1) + discount.unsqueeze(-1) * soft

    @graph.deterministic
    def z(obs: Tensor, action: Tensor) -> Tensor:
        return critics(obs, action)

    @graph.deterministic
    def q(z: Tensor) -> Tensor:
        return z.mean(-1)

    @graph.cost(trains=critics)
    def bellman(z: Tensor, target: Tensor = detach("target"), importance: float = 1.0) -> Tensor:
        return importance * quantile_loss(z, target.unsqueeze(-2)).sum(-1)

    soft_actor(graph, policy, lambda obs, action: critics(obs, action).mean((-2, -1)), temperature, target_entropy, actor)
    return graph


def errors(trace: Trace) -> Tensor:
    """`|q − mean of the target|`, the mean over critics, for prioritised replay."""
    return (trace["q"] - trace["target"].mean(-1, keepdim=True)).abs().mean(-1)


@dataclass(frozen=True)
class TQC(SAC):
    """Hyperparameters. The defaults are the published ones for MuJoCo, but for the size of the networks."""

    critics: int = 5
    """critics whose quantiles are pooled"""
    quantiles: int = 25
    """quantiles of each"""
    drop: int = 2
    """quantiles a critic that are left out of the target, the largest of all"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, "critics quantiles", "drop")
        if self.drop >= self.quantiles:
            raise OptionError(f"option drop is {self.drop}: of {self.quantiles} quantiles one must be left. Give less.")

    def make_critics(self, encoder: Encoder, dim: int, generator: Generator) -> nn.Module:
        return QuantileCritics(encoder, dim, self.hidden, self.critics, self.quantiles, generator)

    def make_graph(self, **parts: Any) -> scg.Graph:
        return tqc(**parts, drop=self.drop)

    def algorithm(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator) -> Algorithm:
        return replace(super().algorithm(obs_space, action_space, generator), errors=errors)
