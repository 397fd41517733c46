"""TD3: the deterministic policy gradient, with three parts against overestimated values, each a switch.

    next_obs, (noise ~ N(0, σ²)) → next_action = μ̄(next_obs) + clip(noise)             smoothing
    next_action → target = reward + discount · min Q̄(next_obs, next_action)             twin
    (obs, action) → q = Q(obs, action) → ⟨Σ (q − target)²⟩     trains the critics, target detached
    obs → [new_action = μ(obs)] → ⟨−Q₁(obs, new_action)⟩       trains the actor, through the first critic
    the actor and all targets have a step at every second step of the critics           delay

The policy gradient is E[∇_θ μ(obs) ∇_a Q(obs, a)] at a = μ(obs): here, the derivative of a cost through a deterministic
node. With all three switches off this is DDPG.

Fujimoto, van Hoof & Meger (2018), "Addressing function approximation error in actor-critic methods"; Silver et al. (2014).
"""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium as gym
from torch import Generator, Tensor, nn
from torch.distributions import Distribution

import scg
from scg.agents.common.off_policy import Algorithm, OffPolicy, bellman
from scg.agents.environments.action_spaces import action_dim
from scg.agents.execution.options import check_options
from scg.agents.experience.exploration import ActionNoise, NoisyActor
from scg.agents.networks.actors import DeterministicPolicy
from scg.agents.networks.critics import QCritics, target_copy
from scg.agents.networks.gaussian_noise import gaussian_noise
from scg.estimators import NoGradient


def td3(
    actor: DeterministicPolicy,
    critics: QCritics,
    target_actor: nn.Module,
    target_critics: nn.Module,
    smoothing: float = 0.2,
    clip: float = 0.5,
) -> scg.Graph:
    """One critic or several; `smoothing` 0 has none. Inputs: obs, action, reward, discount, next_obs."""
    graph = scg.Graph()

    if smoothing:

        @graph.stochastic(NoGradient())
        def noise(next_obs: Tensor) -> Distribution:
            return gaussian_noise(next_obs, actor.dim, smoothing)

        @graph.deterministic
        def next_action(next_obs: Tensor, noise: Tensor) -> Tensor:
            return (target_actor(next_obs) + noise.clamp(-clip, clip)).clamp(-1.0, 1.0)

    else:
        graph.deterministic(lambda next_obs: target_actor(next_obs), name="next_action")

    @graph.deterministic
    def target(reward: Tensor, discount: Tensor, next_obs: Tensor, next_action: Tensor) -> Tensor:
        return reward + discount * target_critics(next_obs, next_action).amin(-1)

    bellman(graph, critics)

    @graph.deterministic
    def new_action(obs: Tensor) -> Tensor:
        return actor(obs)

    @graph.reward(trains=actor)
    def gain(obs: Tensor, new_action: Tensor) -> Tensor:
        return critics.first(obs, new_action)

    return graph


@dataclass(frozen=True)
class TD3(OffPolicy):
    """Hyperparameters. The defaults are the published ones for MuJoCo."""

    noise: float = 0.1
    """standard deviation of the exploration's Gaussian noise"""
    twin: bool = True
    """targets from the smaller of two critics, in place of one"""
    smoothing: float = 0.2
    """standard deviation of the noise on the targets' actions; 0 has none"""
    smoothing_clip: float = 0.5
    """the targets' noise is clipped to this"""
    delay: int = 2
    """steps of the critics to each of the actor and the targets"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, at_least_one="delay", at_least_zero="noise smoothing smoothing_clip")

    def algorithm(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator) -> Algorithm:
        dim, encoder = action_dim(action_space), self.encoder(obs_space, generator)
        actor = DeterministicPolicy(encoder(), dim, self.hidden, generator)
        critics = QCritics(encoder(), dim, self.hidden, 2 if self.twin else 1, generator)
        target_actor, target_critics = target_copy(actor), target_copy(critics)
        graph = td3(actor, critics, target_actor, target_critics, self.smoothing, self.smoothing_clip)
        noise = ActionNoise(dim, self.noise)
        modules = {"policy": actor, "critics": critics, "target_policy": target_actor, "target_critics": target_critics}
        return Algorithm(
            graph,
            objectives={"bellman": critics, "gain": actor},
            targets={target_critics: critics, target_actor: actor},
            policy=actor,
            behaviour=NoisyActor(actor, noise),
            state={**modules, "noise": noise},
            delay=self.delay,
        )
