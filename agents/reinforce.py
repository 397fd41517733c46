"""REINFORCE: the likelihood-ratio policy gradient, with a baseline of your choice.

    obs_t → (action_t ~ π(·|obs_t)) → reward_t          ∇ = mean_t (cost_to_go_t - b_t) ∇ log π(action_t|obs_t)
    obs_t → value(obs_t) → ⟨(value - cost_to_go)²⟩      trains the critic, cost_to_go recorded

    baseline   none       b_t = 0
               mean       the running mean of the cost-to-go of *earlier* blocks
               optimal    the same, every cost counted by ‖∇ log π‖²: the constant of least variance (Greensmith et al. 2004)
               value      the critic at obs_t

A baseline lowers the variance and leaves the gradient's mean alone, for the action does not influence it. `cost_to_go` is
Monte Carlo to the end of the episode; where the data are cut (a time limit, the block's end) the critic stands in for the
rest, whatever the baseline: a bias that vanishes as it learns. `horizon=0` collects whole episodes instead.

Williams (1992); Sutton et al. (2000).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import gymnasium as gym
import torch
from torch import Generator, Tensor, nn
from torch.distributions import Distribution

import scg
from scg import ScoreFunction, prev
from scg.agents.common.agent import Agent, AgentConfig, OptionError, check_options
from scg.agents.common.on_policy import gain, regression
from scg.agents.experience.rollout import Block, Rollout
from scg.agents.networks.critics import value_critic
from scg.agents.networks.networks import refused, with_whole_path
from scg.agents.networks.normalisers import RewardScale
from scg.agents.networks.policies import make_policy
from scg.agents.updates.factory import Updates
from scg.agents.updates.metrics import Metrics, explained_variance, parts_signal_to_noise
from scg.agents.updates.optimiser import Adam
from scg.estimators.baselines import MovingAverage, scores, squared_norm

ENDLESS = 10_000  # steps; whole episodes that are longer, and longer than what is left of the run, are cut
MEMORY = 0.9  # of the running levels: about ten blocks


def reinforce(policy: nn.Module, value: nn.Module, baseline: str | nn.Module | None = "value") -> scg.Graph:
    graph = scg.Graph()
    with graph.sequence(first="first"):
        graph.observed("first")
        graph.observed("obs", parents=[prev("obs"), prev("action")])
        graph.deterministic(value, name="value", parents=["obs"])

        @graph.stochastic(ScoreFunction(), credit="cost_to_go", baseline=baseline)
        def action(obs: Tensor) -> Distribution:
            return policy(obs)

        graph.observed("reward", parents=["obs", "action"])
        graph.observed("cost_to_go", parents=["reward"])

        gain(graph, policy)
        regression(graph, value, target="cost_to_go")

    return graph


@dataclass(frozen=True)
class Reinforce(AgentConfig):
    """Hyperparameters. The defaults solve CartPole-v1 in 100,000 steps."""

    baseline: Literal["none", "mean", "optimal", "value"] = "value"
    """what is subtracted from the cost-to-go"""
    horizon: int = 64
    """time steps of each block; 0 collects one whole episode of every environment"""
    gamma: float = 0.99
    """discount of the cost-to-go"""
    hidden: tuple[int, ...] = (64, 64)
    """widths of the hidden layers of policy and critic"""
    network: str = "mlp"
    """before the hidden layers: mlp, residual, cnn, or path/to/file.py:name"""
    features: int = 128
    """width of a network other than mlp"""
    scale_reward: bool = True
    """with the baseline "value": shape and scale rewards as `RewardScale` says"""
    lr: float = 3e-3
    """learning rate of the policy, falling linearly to a twentieth"""
    value_lr: float = 1e-2
    """learning rate of the critic, falling likewise"""
    value_steps: int = 5
    """regression steps of the critic on each block"""
    max_grad_norm: float = 0.5
    """longer gradients of the policy are shortened to this; their direction stays"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "network", with_whole_path(self.network))
        check_options(self, "value_steps features", "horizon lr value_lr max_grad_norm", "gamma")

    def agent(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator, updates: Updates) -> Agent:
        network = {"network": self.network, "features": self.features}
        policy = updates.place(make_policy(obs_space, action_space, self.hidden, generator, **network))  # type: ignore[arg-type]
        if hasattr(policy, "memory"):
            raise OptionError(refused(self.network, type(self).__name__))
        # A critic has returns of size 1 to learn. Costs of size 1 sum to 1/(1-γ); a quarter of it is a middling state's.
        scaled = self.baseline == "value" and self.scale_reward
        scale = 0.25 / (1 - self.gamma) if self.gamma < 1 and not scaled else 1.0
        value = updates.place(value_critic(obs_space, self.hidden, generator, scale, **network))  # type: ignore[arg-type]
        shaping = RewardScale(self.gamma) if scaled else None
        average = MovingAverage(MEMORY) if self.baseline in ("mean", "optimal") else None
        graph = reinforce(policy, value, {"none": None, "value": "value"}.get(self.baseline, average))
        actor, critic = Adam(policy.parameters(), self.max_grad_norm, eps=1e-8), Adam(value.parameters(), eps=1e-8)
        policy_step = updates.minibatch(graph, actor, ["gain"])
        value_step = updates.minibatch(graph, critic, ["regression"])

        def collect(rollout: Rollout, steps_left: int) -> Block:
            if self.horizon == 0:
                return rollout.episodes(policy, limit=max(ENDLESS, -(-steps_left // rollout.envs.batch)))
            return rollout.collect(policy, min(self.horizon, -(-steps_left // rollout.envs.batch)))

        def update(block: Block, progress: float) -> Metrics:
            updates.usual = len(block.reward) == self.horizon
            rate = max(1 - progress, 0.05)
            actor.rate.fill_(self.lr * rate), critic.rate.fill_(self.value_lr * rate)
            if shaping is not None:
                block = replace(block, reward=shaping(block.reward, block.first, block.terminated))
            given = {**block.given("first", "obs", "action", "reward"), "cost_to_go": block.cost_to_go(value, self.gamma)}
            given = {name: x.to(updates.device) for name, x in given.items()}
            cost_to_go, everything = given["cost_to_go"], torch.arange(block.reward.shape[1])
            trace = graph.replay(given)
            metrics = {
                "explained_variance": explained_variance(trace["value"].detach(), cost_to_go),
                "entropy": float(-trace.log_prob("action").detach().mean()),
                "grad_snr": parts_signal_to_noise(graph, given, actor.parameters, "gain"),
            }
            weight: Tensor | float = 1.0
            if self.baseline == "optimal":
                weight = squared_norm(scores(trace, "action", actor.parameters)).view_as(cost_to_go)
            policy_step(given, everything)
            metrics["actor_grad_norm"] = policy_step.mean_norm()
            if average is not None:
                average.update(cost_to_go, weight)  # only now: a level that has seen its own sample is biased
                metrics["baseline"] = float(average())
            for _ in range(self.value_steps):
                value_step(given, everything)
            return {**metrics, "critic_grad_norm": value_step.mean_norm()}

        modules: dict[str, nn.Module] = {"policy": policy, "value": value}
        modules |= {name: part for name, part in {"baseline": average, "reward_scale": shaping}.items() if part is not None}
        return Agent(graph, policy, collect, update, {**modules, "actor_optimiser": actor, "critic_optimiser": critic})
