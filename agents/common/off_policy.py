"""What the off-policy agents share: collecting into a replay buffer, and learning from draws of it.

    act for `horizon` steps → replay → `updates` × (draw a minibatch → a gradient step on every objective → the targets' step)

The first block is the warm-up: uniformly random actions, so that the first minibatch has something to draw from. A page gives
an `Algorithm`: its graph, what each objective trains, what follows what, and who acts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Generator, Tensor, nn

import scg
from scg.agents.common.agent import Agent, AgentConfig, OptionError, Stateful, check_options
from scg.agents.common.bellman import bellman_errors
from scg.agents.environments.flat_space import mask_of
from scg.agents.execution.settings import EAGER, Execution
from scg.agents.execution.worker_thread import WorkerThread
from scg.agents.experience.exploration import uniform_policy
from scg.agents.experience.hindsight import Hindsight, PrioritisedHindsight, Strategy
from scg.agents.experience.prioritised import PrioritisedReplay
from scg.agents.experience.replay import Multistep, Replay
from scg.agents.experience.rollout import Block, Rollout, Rows
from scg.agents.networks.networks import make_network, refused, with_whole_path
from scg.agents.networks.policy import FastPolicy
from scg.agents.networks.recurrent import is_recurrent
from scg.agents.updates.metrics import Means, Metrics
from scg.agents.updates.off_policy_step import OffPolicyStep
from scg.agents.updates.off_policy_update import OffPolicyUpdate
from scg.agents.updates.optimiser import Adam
from scg.agents.updates.prefetch import Prefetch, PrefetchedBlock
from scg.trace import Trace


@dataclass(frozen=True)
class OffPolicy(AgentConfig):
    """Hyperparameters that every off-policy agent has."""

    warmup: int = 10_000
    """environment steps with random actions at first"""
    horizon: int = 1
    """steps of every environment between updates"""
    updates: int = 1
    """gradient steps after each of them"""
    batch: int = 256
    """rows of a minibatch"""
    replay: int = 1_000_000
    """environment steps that the buffer holds"""
    gamma: float = 0.99
    """discount"""
    n_step: int = 1
    """rewards in a target before the critic takes over"""
    tau: float = 0.005
    """share of the way that the targets go at each step"""
    lr: float = 3e-4
    """learning rate"""
    hidden: tuple[int, ...] = (256, 256)
    """widths of the hidden layers of actor and critics"""
    network: str = "mlp"
    """before the hidden layers: mlp, residual, cnn, or path/to/file.py:name"""
    features: int = 128
    """width of a network other than mlp"""
    prioritised: bool = False
    """draw in proportion to the critics' errors"""
    priority_alpha: float = 0.6
    """exponent of the priorities; 0 is uniform"""
    priority_beta: float = 0.4
    """exponent of the importance weights at first; 1 at the end"""
    her: Literal["none"] | Strategy = "none"
    """hindsight: goals that an episode reached, chosen so, in place of those that it had; needs a goal environment"""
    her_k: float = 4.0
    """rows with another goal to each with its own"""
    mapped: str = ""
    """directory for a memory-mapped buffer, larger than memory; empty keeps it in memory"""
    report: int = 1000
    """environment steps between two rows of metrics"""

    family: ClassVar[str] = "off-policy"
    environments: ClassVar[int] = 1  # and an update a step
    compile_from: ClassVar[int | None] = 10_000  # an update is 256 rows of wide nets: 4 ms saved a step
    executes: ClassVar[tuple[str, ...]] = ("device", "compile", "bf16", "threads", "overlap", "together", "cuda_graphs")

    def __post_init__(self) -> None:
        object.__setattr__(self, "network", with_whole_path(self.network))
        check_options(
            self,
            "warmup horizon updates batch replay n_step report features",
            "lr priority_alpha her_k",
            "gamma tau priority_beta",
        )

    def check(self, execution: Execution) -> None:
        super().check(execution)
        if self.updates % execution.together:
            raise OptionError(f"--together {execution.together} does not divide --updates {self.updates}.")

    def build(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator, execution: Execution = EAGER) -> Agent:
        self.check(execution)
        algorithm = self.algorithm(obs_space, action_space, generator)
        return off_policy(self, algorithm, obs_space, action_space, generator, execution)

    def algorithm(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator) -> Algorithm:
        """The page's part."""
        raise NotImplementedError

    def encoder(self, space: gym.Space, generator: Generator) -> Callable[[], Any]:
        """Makes the network that stands before a module's hidden layers; every module has one of its own."""

        def make() -> nn.Module:
            network = make_network(self.network, space, self.features, generator)
            if is_recurrent(network):
                raise OptionError(refused(self.network, type(self).__name__))
            return network

        return make

    def optimiser(self, module: nn.Module, max_norm: float | None = None) -> Adam:
        """Adam with ε as published, which shortens gradients to `max_norm`."""
        adam = Adam(module.parameters(), float("inf") if max_norm is None else max_norm, eps=1e-8)
        adam.rate.fill_(self.rate(0.0))
        return adam

    def rate(self, progress: float) -> float:
        """The learning rate after this share of the run."""
        return self.lr

    def memory(self, space: gym.Space) -> Replay:
        target = Multistep(self.gamma, self.n_step)
        priorities: dict[str, Any] = {"alpha": self.priority_alpha, "beta": self.priority_beta} if self.prioritised else {}
        if self.her != "none":
            buffer = PrioritisedHindsight if self.prioritised else Hindsight
            return buffer(self.replay, target, self.mapped, space=space, strategy=self.her, k=self.her_k, **priorities)
        if self.prioritised:
            return PrioritisedReplay(self.replay, target, self.mapped, **priorities)
        return Replay(self.replay, target, self.mapped)


@dataclass(frozen=True)
class Algorithm:
    """What makes an off-policy agent: everything that is not the same for all of them."""

    graph: scg.Graph
    objectives: Mapping[str, nn.Module]
    """costs and the module that each trains; the first one's have a step at every minibatch"""
    targets: Mapping[nn.Module, nn.Module]
    """target networks and what they follow"""
    policy: nn.Module
    """what is evaluated"""
    behaviour: nn.Module
    """what collects after the warm-up"""
    state: Mapping[str, Stateful]
    """what must survive a restart: all modules, and noise processes or schedules"""
    watched: Sequence[str] = ("q",)
    """nodes whose means are metrics"""
    delay: int = 1
    """steps of the first objective to each of the others and of the targets"""
    errors: Callable[[Trace], Tensor] = bellman_errors
    """the critics' absolute error at each row, for prioritised replay"""
    schedule: Callable[[float], Metrics] = lambda progress: {}
    """called before each update with the share of the run that is over; what it returns is logged"""


def off_policy(
    config: OffPolicy,
    algorithm: Algorithm,
    obs_space: gym.Space,
    action_space: gym.Space,
    generator: Generator,
    execution: Execution = EAGER,
) -> Agent:
    """The agent of an algorithm: a replay buffer, minibatches from it, and a step on each."""
    modules = [part for part in algorithm.state.values() if isinstance(part, nn.Module)]
    for module in (*modules, *algorithm.objectives.values(), *algorithm.targets, algorithm.policy, algorithm.behaviour):
        module.to(execution.device)
    optimisers = {cost: config.optimiser(module) for cost, module in algorithm.objectives.items()}
    memory, random = config.memory(obs_space), uniform_policy(action_space, obs_space)
    own = Generator().manual_seed(int(torch.randint(2**31 - 1, (), generator=generator)))  # minibatches and noise
    step = OffPolicyStep(
        algorithm.graph,
        optimisers,
        list(algorithm.targets.items()),
        config.tau,
        algorithm.delay,
        algorithm.watched,
        algorithm.errors,
    )
    thread = WorkerThread() if execution.overlap else None
    learner = OffPolicyUpdate(step, own, execution, thread)
    rows = examples(obs_space, random, own, config.prioritised)
    learner.examine({name: value.to(execution.device) for name, value in rows.items()})
    prefetch = None if thread is None else Prefetch(thread, algorithm.behaviour, algorithm.state)

    def collect(rollout: Rollout, steps_left: int) -> Block | PrefetchedBlock:
        first = memory.count == 0
        steps = -(-config.warmup // rollout.envs.batch) if first else config.horizon
        steps = min(steps, -(-steps_left // rollout.envs.batch))
        if first:
            return rollout.collect(random, steps, log_prob=False)
        if prefetch is not None:
            return prefetch.collect(rollout, steps)
        return rollout.collect(algorithm.behaviour, steps, log_prob=False)

    def learn(progress: float, begin: Callable[[], object] | None = None) -> Metrics:
        scheduled, means = algorithm.schedule(progress), Means()
        for optimiser in optimisers.values():
            optimiser.rate.fill_(config.rate(progress))
        for drawn in memory.minibatches(config.updates, config.batch, own, progress, execution.together):
            rows = {name: value.to(execution.device) for name, value in drawn.rows.items()}
            metrics, errors = learner(rows, len(drawn.index) // config.batch, begin)
            begin = None
            memory.learned(drawn.index, errors)
            for of_step in metrics:
                means.add(of_step)
        return {**means.take(), **scheduled}

    def update(experience: Block | PrefetchedBlock, progress: float) -> Metrics:
        if isinstance(experience, Block):
            memory.add(experience)
            return learn(progress)
        assert prefetch is not None
        metrics = prefetch.update(experience, lambda begin: learn(progress, begin))
        memory.add(experience.block())
        return metrics

    saved = {f"{cost}_optimiser": optimiser for cost, optimiser in optimisers.items()}
    state = {**algorithm.state, **saved, "learner": learner}
    return Agent(algorithm.graph, algorithm.policy, collect, update, state, memory, config.report)


def examples(space: gym.Space, random: FastPolicy, generator: Generator, importance: bool = False, rows: int = 8) -> Rows:
    """Rows that look like a minibatch, to try a graph on."""

    def obs() -> torch.Tensor:
        if isinstance(space, spaces.Discrete):
            return int(space.start) + torch.randint(int(space.n), (rows,), generator=generator)
        if space.dtype == np.uint8:
            return torch.randint(256, (rows, *(space.shape or ())), generator=generator, dtype=torch.uint8)
        found, masked = torch.randn(rows, *(space.shape or ()), generator=generator), mask_of(space)
        if masked is not None:
            masked.mask(found).fill_(1.0)
        return found

    here = obs()
    made = {
        "obs": here,
        "action": torch.from_numpy(random.numpy_actor()(here.numpy(), random.noise((rows,), generator))),
        "reward": torch.randn(rows, generator=generator),
        "next_obs": obs(),
        "discount": torch.full((rows,), 0.9),
    }
    return {**made, "importance": torch.rand(rows, generator=generator)} if importance else made
