"""DQN: action values of discrete choices, learned from replayed steps; double DQN; a head for each of several choices.

    next_obs → best = argmax_a Q(next_obs, a) → target = reward + discount · Q̄(next_obs, best)       double
    next_obs →                                   target = reward + discount · max_a Q̄(next_obs, a)    not
    (obs, action) → q = Q(obs, action) → ⟨huber(q − target)⟩           trains Q, target detached
    Q̄ ← Q at every so many steps of Q, or Q̄ ← Q̄ + τ (Q − Q̄) at each

    with a distribution of returns Z, whose mean is Q:                                              returns
    next_obs → best → target = backup of reward + discount · Z̄(next_obs, best)
    (obs, action) → z = Z(obs, action) → ⟨loss(z, target)⟩             of quantiles, or a cross-entropy on a grid

The maximum over noisy values is too large on average; double DQN lets one network choose and the other one judge.

Rainbow's parts, each a flag that changes one line: `--double`, `--n-step` and `--prioritised` (the rows), `--duelling` (how Q is
read from its network), `--returns quantiles | categorical` (the lines above). Noisy layers are not among them.

A MultiDiscrete action has a head in each dimension, each maximised alone: the target is the mean over heads, and so is the
loss (action branching). One dimension is the same formula with one head. Continuous actions are quantised to such choices
by `--action-bins`.

Mnih et al. (2015); van Hasselt, Guez & Silver (2016); Wang et al. (2016); Hessel et al. (2018), "Rainbow"; distributions:
Bellemare, Dabney & Munos (2017), Dabney et al. (2018); branching: Tavakoli, Pardo & Kormushev (2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import gymnasium as gym
from torch import Generator, Tensor, nn
from torch.nn.functional import huber_loss

import scg
from scg import detach
from scg.agents.common.off_policy import Algorithm, OffPolicy
from scg.agents.execution.options import OptionError, check_options
from scg.agents.experience.exploration import Epsilon, EpsilonGreedy, RandomChoice
from scg.agents.networks.critics import target_copy
from scg.agents.networks.q_heads import QHeads
from scg.agents.networks.returns import Categorical, Distribution, Quantiles
from scg.agents.updates.optimiser import Optimiser
from scg.trace import Trace


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


def distributional_dqn(critic: QHeads, target_critic: QHeads, returns: Distribution, double: bool = True) -> scg.Graph:
    """The heads' atoms are read by `returns`. Inputs: obs, action, reward, discount, next_obs."""
    graph = scg.Graph()

    @graph.deterministic
    def target(reward: Tensor, discount: Tensor, next_obs: Tensor) -> Tensor:
        ahead = target_critic.atoms(next_obs)  # [*batch, dims, choices, atoms]
        best = (critic(next_obs) if double else target_critic.valued(ahead, next_obs)).argmax(-1)
        return returns.backup(reward, discount, target_critic.atoms_at(ahead, best))

    @graph.deterministic
    def z(obs: Tensor, action: Tensor) -> Tensor:
        return critic.atoms_at(critic.atoms(obs), action.unsqueeze(-1) if critic.scalar else action)

    @graph.deterministic
    def q(z: Tensor) -> Tensor:
        return returns.mean(z)

    @graph.cost(trains=critic)
    def bellman(z: Tensor, target: Tensor = detach("target"), importance: float = 1.0) -> Tensor:
        return importance * returns.loss(z, target.unsqueeze(-2)).mean(-1)

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
    duelling: bool = False
    """a value and an advantage of each choice, in place of one output a choice"""
    returns: Literal["expected", "quantiles", "categorical"] = "expected"
    """what is learned of returns: their mean, quantiles (QR-DQN), or probabilities on a grid (C51)"""
    atoms: int = 51
    """quantiles, or points of the grid"""
    value_low: float = -10.0
    """the grid's least return"""
    value_high: float = 10.0
    """and its greatest; returns beyond are clipped"""
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
        check_options(self, "target_every atoms", "max_grad_norm", "epsilon epsilon_last epsilon_share lr_last")
        if self.returns == "categorical" and not (self.value_low < self.value_high and self.atoms > 1):
            raise OptionError(
                f"options value_low {self.value_low}, value_high {self.value_high}, atoms {self.atoms}: they make no grid. "
                "Give two points or more, and a low end below the high one."
            )

    def algorithm(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator) -> Algorithm:
        returns = self.distribution()
        encoder = self.encoder(obs_space, generator)()
        critic = QHeads(encoder, action_space, self.hidden, generator, obs_space, self.duelling, returns)
        target_critic = target_copy(critic)
        epsilon = Epsilon(self.epsilon, self.epsilon_last, self.epsilon_share)
        old: Any = target_critic
        graph = dqn(critic, old, self.double, self.huber)
        if returns is not None:
            graph = distributional_dqn(critic, old, returns, self.double)

        def errors(trace: Trace) -> Tensor:
            wanted = trace["target"] if returns is None else returns.target_mean(trace["target"])
            return (trace["q"] - wanted.unsqueeze(-1)).abs().mean(-1)

        return Algorithm(
            graph,
            objectives={"bellman": critic},
            targets={target_critic: critic},
            policy=critic,
            behaviour=EpsilonGreedy(critic, RandomChoice(action_space, obs_space), epsilon),
            state={"critic": critic, "target_critic": target_critic, "epsilon": epsilon},
            delay=self.target_every,
            errors=errors,
            schedule=epsilon.follow,
        )

    def distribution(self) -> Distribution | None:
        """What is learned of returns, None where it is their mean alone."""
        if self.returns == "expected":
            return None
        return (
            Quantiles(self.atoms) if self.returns == "quantiles" else Categorical(self.value_low, self.value_high, self.atoms)
        )

    def optimiser(self, module: nn.Module, max_norm: float | None = None) -> Optimiser:
        return super().optimiser(module, self.max_grad_norm)

    def rate(self, progress: float) -> float:
        return self.lr * (1 - (1 - self.lr_last) * progress)
