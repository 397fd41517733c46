"""CrossQ: SAC without target networks, with critics that are normalised over both batches of a regression together.

    next_obs → (next_action ~ π)
    (obs, action), (next_obs, next_action) → passes = Q of both batches, one normalisation      joint
    passes → q                                                   its first half
    passes → target = reward + discount · (min − α log π(next_action))      its second half, detached
    ⟨Σ (q − target)² / 2⟩                                        trains the critics
    ⟨Σ (running − batch moments)² / 2⟩                           trains the critics' running moments, a running average
    obs → (new_action ~ π) → ⟨α log π(new_action) − min Q(obs, new_action)⟩      trains the actor, by the running moments

`--ahead` changes the line of `target`: `joint`, as above; `separate`, each batch normalised by itself, so that actions of the
buffer and of the policy are seen through different moments; `target`, by a target network with running moments, as SAC.
`--renorm-from` is the update at which the line `passes` turns from batch normalisation to renormalisation. No weight multiplies what mixes the batch (`next_action` has none, and the actor's critics
mix nothing), so that the likelihood-ratio form of the actor, `--actor score`, is right here too.

Apart from the paper: critics are 512 units wide (there 2048, `--critic-hidden 2048 2048`), the actor has no normalisation, and
Adam's first decay is 0.9 (there 0.5).

Bhatt, Palenicek, Belousov, Argus, Amiranashvili, Brox & Peters (2024), "CrossQ: Batch normalization in deep reinforcement
learning for greater sample efficiency and simplicity"; renormalisation: Ioffe (2017).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
from torch import Generator, Tensor, nn
from torch.distributions import Distribution

import scg
from scg import Estimator, detach, dist
from scg.agents.common.off_policy import Algorithm, bellman
from scg.agents.environments.action_spaces import action_dim
from scg.agents.execution.options import check_options
from scg.agents.networks.actors import SquashedPolicy
from scg.agents.networks.batch_renorm import RenormalisedCritics, RunningMoments
from scg.agents.networks.critics import Temperature, target_copy
from scg.agents.sac import SAC, soft_actor
from scg.agents.updates.metrics import Metrics
from scg.agents.updates.optimiser import Optimiser, RunningAverage
from scg.estimators import NoGradient

Ahead = Literal["joint", "separate", "target"]


def crossq(
    policy: nn.Module,
    critics: RenormalisedCritics,
    temperature: nn.Module,
    target_entropy: float | None = None,
    actor: Estimator | None = None,
    ahead: Ahead = "joint",
    target_critics: nn.Module | None = None,
) -> scg.Graph:
    """`target_critics` for `ahead="target"`. Inputs: obs, action, reward, discount, next_obs."""
    graph = scg.Graph()

    @graph.stochastic(NoGradient())
    def next_action(next_obs: Tensor) -> Distribution:
        return policy(next_obs)

    if ahead == "joint":

        @graph.deterministic
        def passes(obs: Tensor, action: Tensor, next_obs: Tensor, next_action: Any = detach("next_action")) -> Any:
            return critics.fitted((obs, action), (next_obs, next_action))

        graph.deterministic(lambda passes: passes[0][..., 1, :], name="values_ahead")
    else:

        @graph.deterministic(name="passes")
        def one_pass(obs: Tensor, action: Tensor) -> Any:
            return critics.fitted((obs, action))

        @graph.deterministic
        def values_ahead(next_obs: Tensor, next_action: Any = detach("next_action")) -> Tensor:
            if target_critics is not None:
                return target_critics(next_obs, next_action)
            return critics.fitted((next_obs, next_action))[0].squeeze(-2)

    @graph.deterministic
    def target(reward: Tensor, discount: Tensor, values_ahead: Tensor, next_action: Tensor, pi=dist("next_action")) -> Tensor:
        return reward + discount * (values_ahead.amin(-1) - temperature() * pi.log_prob(next_action))

    bellman(graph, critics.body, lambda passes: passes[0][..., 0, :], half=True)

    @graph.cost(trains=critics.running)
    def moments(reward: Tensor, passes: Any = detach("passes")) -> Tensor:
        return critics.running.distance(passes[1]).expand(reward.shape)

    soft_actor(graph, policy, lambda obs, action: critics(obs, action).amin(-1), temperature, target_entropy, actor)
    return graph


@dataclass(frozen=True)
class CrossQ(SAC):
    """Hyperparameters. The defaults are the published ones for MuJoCo, but for what the page says."""

    warmup: int = 5000
    """environment steps with random actions at first"""
    lr: float = 1e-3
    """learning rate"""
    delay: int = 3
    """steps of the critics to each of the actor and the temperature"""
    critic_hidden: tuple[int, ...] = (512, 512)
    """widths of the critics' hidden layers; `--hidden` are the actor's"""
    ahead: Ahead = "joint"
    """how the next values are computed: normalised together with the present ones, by themselves, or by a target network"""
    renorm_from: int = 100_000
    """updates until the minibatch's normalisation is renormalised by the running moments"""
    momentum: float = 0.99
    """share of the running moments that a minibatch leaves"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, at_least_one="delay", at_least_zero="renorm_from", unit="momentum")

    def algorithm(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator) -> Algorithm:
        dim, encoder = action_dim(action_space), self.encoder(obs_space, generator)
        policy = SquashedPolicy(encoder(), dim, self.hidden, generator)
        critics = RenormalisedCritics(encoder(), dim, self.critic_hidden, 2, generator, self.renorm_from)
        temperature = Temperature(self.alpha)
        target_critics = target_copy(critics) if self.ahead == "target" else None
        graph = crossq(policy, critics, temperature, self.entropy(dim), self.estimator(), self.ahead, target_critics)
        modules: dict[str, nn.Module] = {"policy": policy, "critics": critics, "temperature": temperature}
        if target_critics is not None:
            modules["target_critics"] = target_critics

        def schedule(progress: float) -> Metrics:
            critics.updated(self.updates)
            return {}

        return Algorithm(
            graph,
            objectives={"bellman": critics.body, "moments": critics.running, **self.actors(policy, temperature)},
            targets={} if target_critics is None else {target_critics: critics},
            policy=policy,
            behaviour=policy,
            state=modules,
            watched=("q", "log_prob"),
            delay=self.delay,
            prompt=("moments",),
            schedule=schedule,
        )

    def optimiser(self, module: nn.Module, max_norm: float | None = None) -> Optimiser:
        if isinstance(module, RunningMoments):
            return RunningAverage(module.parameters(), 1 - self.momentum)
        return super().optimiser(module, max_norm)
