"""DQN: action values of discrete choices, learned from replayed steps; double DQN; a head for each of several choices.

    next_obs → best = argmax_a Q(next_obs, a) → target = reward + discount · Q̄(next_obs, best)       double
    next_obs →                                   target = reward + discount · max_a Q̄(next_obs, a)    not
    (obs, action) → q = Q(obs, action) → ⟨huber(q − target)⟩           trains Q, target detached
    Q̄ ← Q at every so many steps of Q, or Q̄ ← Q̄ + τ (Q − Q̄) at each

The maximum over noisy values is too large on average; double DQN lets one network choose and the other one judge.

A MultiDiscrete action has a head in each dimension, each maximised alone: the target is the mean over heads, and so is the
loss (action branching). One dimension is the same formula with one head. Continuous actions are quantised to such choices
by `--action-bins`.

Mnih et al. (2015); van Hasselt, Guez & Silver (2016); branching: Tavakoli, Pardo & Kormushev (2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import gymnasium as gym
from torch import Generator, Tensor, nn
from torch.nn.functional import huber_loss

import scg
from scg import detach
from scg.agents.common.off_policy import Algorithm, OffPolicy
from scg.agents.execution.options import check_options
from scg.agents.experience.exploration import Epsilon, EpsilonGreedy, RandomChoice
from scg.agents.networks.critics import target_copy
from scg.agents.networks.q_heads import QHeads
from scg.agents.updates.optimiser import Adam


def dqn(critic: QHeads, target_critic: QHeads, double: bool = True, huber: bool = True) -> scg.Graph:
    """Without `huber` the loss is half the square. Inputs: obs, action, reward, discount, next_obs."""
    graph = scg.Graph()

    @graph.deterministic
    def target(reward: Tensor, discount: Tensor, next_obs: Tensor) -> Tensor:
        ahead = target_critic(next_obs)  # [*batch, dims, choices]
        best = (critic(next_obs) if double else ahead).argmax(-1, keepdim=True)
        return reward + discount * ahead.gather(-1, best).squeeze(-1).mean(-1)

    @graph.deterministic
    def q(obs: Tensor, action: Tensor) -> Tensor:
        return critic.at(critic(obs), action)

    @graph.cost(trains=critic)
    def bellman(q: Tensor, target: Tensor = detach("target"), importance: float = 1.0) -> Tensor:
        wanted = target.unsqueeze(-1).expand_as(q)
        error = huber_loss(q, wanted, reduction="none") if huber else (q - wanted).square() / 2
        return importance * error.mean(-1)

    return graph


@dataclass(frozen=True)
class DQN(OffPolicy):
    """Hyperparameters."""

    warmup: int = 1000
    """environment steps with random actions at first"""
    horizon: int = 4
    """steps of every environment between updates"""
    batch: int = 64
    """rows of a minibatch"""
    replay: int = 100_000
    """environment steps that the buffer holds"""
    lr: float = 5e-4
    """learning rate"""
    double: bool = True
    """the critic chooses the next action and the target judges it, in place of both by the target"""
    huber: bool = True
    """errors beyond 1 count linearly, in place of quadratically"""
    tau: float = 1.0
    """share of the way that the target goes: 1 copies the critic"""
    target_every: int = 500
    """gradient steps between two steps of the target"""
    lr_last: float = 1.0
    """share of the learning rate that is left at the end of the run, where it falls linearly to"""
    max_grad_norm: float = 10.0
    """longer gradients are shortened to this"""
    epsilon: float = 1.0
    """probability of a random action at first"""
    epsilon_last: float = 0.05
    """and at last"""
    epsilon_share: float = 0.2
    """share of the run in which it falls from one to the other"""

    family: ClassVar[str] = "off-policy, discrete actions"
    compile_from: ClassVar[int | None] = None  # its updates are small, and there is one in four steps

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, "target_every", "max_grad_norm", "epsilon epsilon_last epsilon_share lr_last")

    def algorithm(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator) -> Algorithm:
        critic = QHeads(self.encoder(obs_space, generator)(), action_space, self.hidden, generator, obs_space)
        target_critic = target_copy(critic)
        epsilon = Epsilon(self.epsilon, self.epsilon_last, self.epsilon_share)
        return Algorithm(
            dqn(critic, target_critic, self.double, self.huber),  # type: ignore[arg-type]
            objectives={"bellman": critic},
            targets={target_critic: critic},
            policy=critic,
            behaviour=EpsilonGreedy(critic, RandomChoice(action_space, obs_space), epsilon),
            state={"critic": critic, "target_critic": target_critic, "epsilon": epsilon},
            delay=self.target_every,
            schedule=epsilon.follow,
        )

    def optimiser(self, module: nn.Module, max_norm: float | None = None) -> Adam:
        return super().optimiser(module, self.max_grad_norm)

    def rate(self, progress: float) -> float:
        return self.lr * (1 - (1 - self.lr_last) * progress)
