"""PES: evolution strategies inside long episodes, an unbiased update every few steps.

    every K steps:   ξ_i ← ξ_i + ε_i,  act with mean + scale ε_i          mean ← Adam(mean, 1/(n scale) Σ_i Σ_t reward_t ξ_i)

    (theta ~ N(mean, scale² I)) → utility → ⟨gain⟩          theta's credit: the window's reward, its score the sum of all ε

`persistent` (PES) draws ε anew in every window and counts their sum, since the state is due to all of them. `reused` (NRES) keeps
one ε for the whole episode, and is the less noisy the more the gains of all windows agree. Plain ES would wait for the episode's
end; ES on windows alone forgets the past, and is biased. The environments (`--envs`) are the members, in mirrored pairs.

Vicol, Metz & Sohl-Dickstein (2021), "Unbiased gradient estimation in unrolled computation graphs with persistent evolution
strategies"; Li, Harrison, Sohl-Dickstein, Smith & Metz (2023), "Noise-reuse in online evolution strategies".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.optim import Adam

from scg.agents.common.agent import Agent, Stateful, set_rate
from scg.agents.execution.options import OptionError, check_options
from scg.agents.experience.rollout import Episode, Rollout
from scg.agents.networks.policy import NumpyActor
from scg.agents.search.agent import SearchConfig, grad_norm
from scg.agents.search.distributions import DiagonalGaussian
from scg.agents.search.policies import Crowd
from scg.agents.search.specification import search_graph, surrogate
from scg.agents.search.unroll import Lives
from scg.agents.updates.factory import Updates
from scg.agents.updates.metrics import Metrics


@dataclass(frozen=True)
class Window:
    """K steps of every slot: rewards, and the perturbations that they are due to, one row for each slot and episode."""

    due: Tensor  # [rows, d]
    reward: Tensor  # [rows]
    slots: int
    steps: int
    episodes: list[Episode]
    obs: Tensor


class _Acting(nn.Module):
    """A crowd as the rollout's policy."""

    def __init__(self, crowd: Crowd) -> None:
        super().__init__()
        self.crowd = crowd

    def noise(self, shape: Sequence[int], generator: Generator) -> np.ndarray:
        return np.zeros((*shape, 0), np.float32)

    def numpy_actor(self) -> NumpyActor:
        return lambda obs, noise: self.crowd.act(obs)


@dataclass(frozen=True)
class PES(SearchConfig):
    """Hyperparameters. The members are the run's `envs`; `population`, `episodes` and `scenarios` do not matter."""

    noise: Literal["persistent", "reused"] = "persistent"
    """new perturbations in every window, summed (PES), or one for an episode (NRES)"""
    window: int = 20
    """environment steps of each member from one update to the next"""
    lr: float = 0.02
    """Adam's rate, falling linearly to a tenth"""

    spreads: ClassVar[bool] = False  # a window is too short to send away

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, "window", "lr")

    def agent(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator, updates: Updates) -> Agent:
        search = self.search(obs_space, action_space, generator)
        policy = search.policy
        distribution = DiagonalGaussian(search.start, self.scale, learn_scale=False)
        graph = search_graph(distribution, "reward_of_window")
        optimiser = Adam([distribution.mean], self.lr)
        lives = Lives(search.perturbations(mirrored=True), 0, self.noise == "reused")

        def collect(rollout: Rollout, steps_left: int) -> Window:
            slots = rollout.envs.batch
            if slots % 2:
                raise OptionError(f"option envs is {slots}. Mirrored pairs of members need an even number.")
            if lives.slots != slots:
                lives.settle(slots)
            crowd = policy.crowd(slots)
            acting = _Acting(crowd)
            lives.open()

            def load(which: Sequence[int]) -> None:
                theta = distribution.members(lives.now[list(which)]).numpy()
                for slot, row in zip(which, theta, strict=True):
                    crowd.load(slot, row)

            load(range(slots))
            due, rewards, episodes, seen = [], [], list[Episode](), []
            total = np.zeros(slots)
            for _ in range(self.window):
                block = rollout.collect(acting, 1, log_prob=False)
                total += block.reward[0].numpy()
                episodes += block.episodes
                seen.append(block.obs)
                for slot in (block.terminated | block.truncated)[0].nonzero()[:, 0].tolist():
                    due.append(lives.due[slot].clone())
                    rewards.append(total[slot])
                    total[slot] = 0.0
                    lives.end(slot)
                    load([slot])
            table = torch.cat([torch.stack(due), lives.due]) if due else lives.due.clone()
            reward = torch.tensor([*rewards, *total], dtype=torch.float64)
            return Window(table, reward, slots, self.window * slots, episodes, torch.cat(seen))

        def update(window: Window, progress: float) -> Metrics:
            set_rate(optimiser, self.lr * (1 - 0.9 * progress))
            optimiser.zero_grad()
            share = len(window.reward) / window.slots  # the graph's mean is over rows, ours over members
            surrogate(
                graph, "reward_of_window", distribution.members(window.due), window.reward, share * window.reward
            ).backward()
            norm = grad_norm(distribution)
            optimiser.step()
            if policy.encoder is not None and policy.encoder.normaliser is not None:
                policy.encoder.normaliser.absorb(window.obs)
            policy.hold(distribution.mean)
            return {"grad_norm": norm, "reward": float(window.reward.sum()) / window.steps}

        state: dict[str, Stateful] = {"policy": policy, "distribution": distribution, "optimiser": optimiser, "lives": lives}
        return Agent(graph, policy, collect, update, state)
