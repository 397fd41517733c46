"""Agents that differentiate through dynamics: where these come from, and where roll-outs start.

    known, MuJoCo's     nothing is recorded: `--steps` counts simulated steps, and starts are those of the environment's reset
    learned             act → replay → fit the ensemble;  `--steps` counts real steps, and starts are recorded observations

Which of them a run has is the option `dynamics`; an agent's graph and update are the same. Evaluations are always in the run's own
environment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import torch
from torch import Generator, Tensor, nn

from scg.agents.common.agent import AgentConfig, Stateful, check_options
from scg.agents.dynamics import LEARNED, known
from scg.agents.dynamics.base import Dynamics
from scg.agents.dynamics.ensemble import Ensemble
from scg.agents.environments.action_spaces import action_dim
from scg.agents.environments.faults import EnvironmentFault
from scg.agents.experience.exploration import uniform_policy
from scg.agents.experience.replay import Multistep, Replay
from scg.agents.experience.rollout import Block, Episode, Experience, Rollout
from scg.agents.networks.encoder import Encoder
from scg.agents.networks.policies import make_policy
from scg.agents.updates.metrics import Metrics
from scg.agents.updates.optimiser import Adam


@dataclass(frozen=True)
class ModelBased(AgentConfig):
    """Options of every agent that differentiates through dynamics."""

    dynamics: str = LEARNED
    """learned; or equations: pendulum, cartpole, double-integrator, wall, push; or mujoco:ID, path/to/file.py:Name"""
    batch: int = 64
    """roll-outs side by side"""
    gamma: float = 0.99
    """discount"""
    hidden: tuple[int, ...] = (64, 64)
    """widths of the hidden layers of policy and critic"""
    log_scale: float = -1.0
    """initial log-scale of the policy's noise, before tanh"""
    lr: float = 3e-3
    """learning rate of the policy, falling linearly to a twentieth"""
    max_grad_norm: float = 1.0
    """longer gradients of the policy are shortened to this"""
    warmup: int = 400
    """learned dynamics: real steps with random actions at first"""
    collect: int = 200
    """learned dynamics: real steps between fits"""
    updates: int = 20
    """learned dynamics: updates of the policy after each fit"""
    members: int = 5
    """learned dynamics: networks of the ensemble"""
    model_hidden: tuple[int, ...] = (128, 128)
    """learned dynamics: widths of each network's hidden layers"""
    model_lr: float = 1e-3
    """learned dynamics: learning rate of the fit"""
    fits: int = 150
    """learned dynamics: minibatches of each fit, of 128 rows for each member"""
    replay: int = 100_000
    """learned dynamics: real steps that the buffer holds"""

    family: ClassVar[str] = "model-based"
    environments: ClassVar[int] = 1
    executes: ClassVar[tuple[str, ...]] = ("threads",)

    def __post_init__(self) -> None:
        check_options(self, "batch warmup collect updates members fits replay", "lr max_grad_norm model_lr", "gamma")

    def policy(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator) -> nn.Module:
        """A squashed Gaussian: smooth, and within the bounds that actions have."""
        action_dim(action_space)
        return make_policy(obs_space, action_space, self.hidden, generator, kind="squashed", log_scale=self.log_scale)

    def world(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator) -> World:
        if self.dynamics == LEARNED:
            return LearnedWorld(self, obs_space, action_space, generator)
        return World(known(self.dynamics), obs_space, action_space, generator)

    def rate(self, progress: float) -> float:
        return self.lr * max(1 - progress, 0.05)


@dataclass(frozen=True)
class Simulated:
    """So many steps that the update will simulate."""

    steps: int

    @property
    def episodes(self) -> list[Episode]:
        return []


class World:
    """Known dynamics: starts are drawn, and there is nothing to record or to fit."""

    memory: Replay | None = None

    def __init__(self, dynamics: Dynamics, obs_space: gym.Space, action_space: gym.Space, generator: Generator) -> None:
        self.dynamics = dynamics
        dim, size = action_dim(action_space), Encoder(obs_space).features
        if (dynamics.obs_size, dynamics.action_size) != (size, dim):
            raise EnvironmentFault(
                f"option dynamics: {type(dynamics).__name__} has {dynamics.obs_size} observed numbers and {dynamics.action_size} "
                f"actions, the environment {size} and {dim}. Name the environment's own dynamics, or learned."
            )
        self.generator = Generator().manual_seed(int(torch.randint(2**31 - 1, (), generator=generator)))

    def collect(self, rollout: Rollout, policy: nn.Module, steps_left: int, planned: int) -> Experience:
        """The experience behind one update: `planned` simulated steps, or the real steps that are due."""
        return Simulated(min(planned, steps_left))

    def learn(self, experience: Any) -> Metrics:
        return {}

    def rounds(self, experience: Any) -> int:
        """How many updates of the policy follow this experience."""
        return 1

    def start(self, batch: int) -> Tensor:
        return self.dynamics.start(batch, self.generator)

    @property
    def state(self) -> dict[str, Stateful]:
        return {"world": _GeneratorState(self.generator)}


class LearnedWorld(World):
    """An ensemble, fitted to all recorded steps."""

    ROWS = 128

    def __init__(self, config: ModelBased, obs_space: gym.Space, action_space: gym.Space, generator: Generator) -> None:
        self.config, size, dim = config, Encoder(obs_space).features, action_dim(action_space)
        self.model = Ensemble(size, dim, config.model_hidden, config.members, generator)
        super().__init__(self.model, obs_space, action_space, generator)
        self.optimiser = Adam(self.model.parameters(), eps=1e-8, rate=config.model_lr)
        self.memory = Replay(config.replay, Multistep())
        self.random = uniform_policy(action_space, obs_space)

    def collect(self, rollout: Rollout, policy: nn.Module, steps_left: int, planned: int) -> Experience:
        assert self.memory is not None
        begun = self.memory.count > 0
        steps = min(self.config.collect if begun else self.config.warmup, steps_left)
        return rollout.collect(policy if begun else self.random, -(-steps // rollout.envs.batch), log_prob=False)

    def rounds(self, experience: Any) -> int:
        return self.config.updates

    def learn(self, experience: Block) -> Metrics:
        """Add the block, and go on with the fit: every member on minibatches of its own."""
        assert self.memory is not None
        model, members = self.model, self.config.members
        self.memory.add(experience)
        everything = self.memory.rows(torch.arange(len(self.memory)))
        model.normalise(*_fields(everything))
        error = model.error(*_fields(self.memory.rows(torch.arange(len(self.memory))[-experience.steps :])))
        losses = []
        for rows in self._minibatches(self.config.fits):
            loss = model.loss(*(x.unflatten(0, (members, self.ROWS)) for x in _fields(rows)))
            self.optimiser.step(torch.autograd.grad(loss, self.optimiser.parameters))
            losses.append(float(loss.detach()))
        return {"model_loss": sum(losses) / len(losses), "model_error": error}

    def _minibatches(self, count: int) -> Iterator[dict[str, Tensor]]:
        assert self.memory is not None
        for _ in range(count):
            yield self.memory.sample(self.config.members * self.ROWS, self.generator).rows

    def start(self, batch: int) -> Tensor:
        """Recorded observations."""
        assert self.memory is not None
        return self.model.state(self.memory.sample(batch, self.generator).rows["obs"])

    @property
    def state(self) -> dict[str, Stateful]:
        return {**super().state, "model": self.model, "model_optimiser": self.optimiser}


def _fields(rows: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return rows["obs"], rows["action"], rows["next_obs"], rows["reward"]


class _GeneratorState:
    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    def state_dict(self) -> dict[str, Tensor]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.generator.set_state(state["generator"])
