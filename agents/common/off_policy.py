"""What the off-policy agents share: collecting into a replay buffer, and learning from draws of it.

    act for `horizon` steps → replay → `updates` × (draw a minibatch → one step on every objective)

The first block is the warm-up: uniformly random actions, so that the first minibatch has something to draw from.

With `overlap` a block is collected while the updates run that would have come before it: the policy acts as it was before
them, which a copy remembers, and they do not know the block yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import torch
from torch import Generator, nn

import scg
from scg.agents.common.agent import Agent, Stateful
from scg.agents.execution.options import OptionError, check_options
from scg.agents.execution.worker_thread import WorkerThread
from scg.agents.experience.exploration import uniform_policy
from scg.agents.experience.hindsight import Hindsight, PrioritisedHindsight, Strategy
from scg.agents.experience.prioritised import PrioritisedReplay
from scg.agents.experience.replay import Multistep, Replay
from scg.agents.experience.rollout import Block, Rollout, Rows
from scg.agents.networks.encoder import Encoder
from scg.agents.networks.policy import FastPolicy
from scg.agents.updates.metrics import Means, Metrics
from scg.agents.updates.off_policy_update import OffPolicyUpdate
from scg.agents.updates.optimiser import Adam
from scg.agents.updates.prefetch import PolicySnapshot, PrefetchedBlock


@dataclass(frozen=True)
class OffPolicy:
    """Hyperparameters that every off-policy agent has."""

    warmup: int = 10_000
    """environment steps with random actions at first"""
    horizon: int = 1
    """steps of every environment between updates"""
    updates: int = 1
    """gradient steps after each of them"""
    together: int = 1
    """gradient steps in one call of a compiled update, which takes so many times as long to compile; divides `updates`"""
    overlap: bool = False
    """a second thread collects the next block while an update runs, and takes the actor's gradient while the critics' is taken:
    with `--threads 1` two cores are busy"""
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
    compile: bool = False
    """compile the whole update: 1.5 times the speed, after half a minute (a few seconds once it is cached)"""
    bf16: bool = False
    """matrix products of numbers rounded to bfloat16: faster on processors with instructions for them"""
    device: str = "cpu"
    """where updates run, "cuda" say; acting stays in numpy"""
    cuda_graphs: bool = False
    """compiled updates on a GPU are replayed as CUDA graphs"""

    def __post_init__(self) -> None:
        check_options(
            self,
            "warmup horizon updates together batch replay n_step report",
            "lr priority_alpha her_k",
            "gamma tau priority_beta",
        )
        if self.cuda_graphs and not (self.compile and self.device.startswith("cuda")):
            raise OptionError("--cuda-graphs needs --compile and --device cuda.")
        if self.updates % self.together:
            raise OptionError(f"--together {self.together} does not divide --updates {self.updates}.")

    def memory(self, space: gym.Space) -> Replay:
        target = Multistep(self.gamma, self.n_step)
        priorities: dict[str, Any] = {"alpha": self.priority_alpha, "beta": self.priority_beta} if self.prioritised else {}
        if self.her != "none":
            buffer = PrioritisedHindsight if self.prioritised else Hindsight
            return buffer(self.replay, target, self.mapped, space=space, strategy=self.her, k=self.her_k, **priorities)
        if self.prioritised:
            return PrioritisedReplay(self.replay, target, self.mapped, **priorities)
        return Replay(self.replay, target, self.mapped)

    def adam(self, *modules: nn.Module, lr: float | None = None, max_norm: float = float("inf")) -> Adam:
        """Adam for the parameters of `modules`, with ε as published."""
        optimiser = Adam([p for module in modules for p in module.parameters()], max_norm, eps=1e-8)
        optimiser.rate.fill_(self.lr if lr is None else lr)
        return optimiser


def off_policy(
    config: OffPolicy,
    spaces: tuple[gym.Space, gym.Space],
    generator: Generator,
    graph: scg.Graph,
    objectives: Mapping[str, Adam],
    targets: Sequence[tuple[nn.Module, nn.Module]],
    policy: nn.Module,
    behaviour: nn.Module,
    state: Mapping[str, Stateful],
    watched: Sequence[str] = ("q",),
    delay: int = 1,
) -> Agent:
    """The agent around a graph: `policy` is what is evaluated, `behaviour` what collects after the warm-up."""
    memory, random = config.memory(spaces[0]), uniform_policy(spaces[1])
    own = Generator().manual_seed(int(torch.randint(2**31 - 1, (), generator=generator)))  # minibatches and noise
    beside = WorkerThread() if config.overlap else None
    learner = OffPolicyUpdate(
        graph, objectives, targets, own, config.tau, delay, watched, config.compile, config.bf16, beside, config.cuda_graphs
    )
    learner.examine({k: v.to(config.device) for k, v in examples(spaces[0], random, own, config.prioritised).items()})
    ahead = PolicySnapshot(behaviour, state) if config.overlap else None

    def collect(rollout: Rollout, steps_left: int) -> Block | PrefetchedBlock:
        first = memory.count == 0
        steps = -(-config.warmup // rollout.envs.batch) if first else config.horizon
        steps = min(steps, -(-steps_left // rollout.envs.batch))
        if first:
            return rollout.collect(random, steps, log_prob=False)
        if ahead is None:
            return rollout.collect(behaviour, steps, log_prob=False)
        return PrefetchedBlock(rollout, ahead.policy, steps)

    def learn(progress: float, begin: Callable[[], object] | None = None) -> Metrics:
        means = Means()
        for drawn in memory.minibatches(config.updates, config.batch, own, progress, config.together):
            rows = {name: value.to(config.device) for name, value in drawn.rows.items()}
            metrics, error = learner(rows, len(drawn.index) // config.batch, begin)
            begin = None
            memory.learned(drawn.index, error)
            for step in metrics:
                means.add(step)
        return means.take()

    def update(experience: Block | PrefetchedBlock, progress: float) -> Metrics:
        if isinstance(experience, Block):
            memory.add(experience)
            return learn(progress)
        assert ahead is not None
        assert beside is not None
        ahead.remember()
        try:
            metrics = learn(progress, lambda: experience.begin(beside))
        finally:
            experience.wait()  # nobody may close the environments while they are stepped
        memory.add(experience.block())
        return metrics

    optimisers = {f"{cost}_optimiser": optimiser for cost, optimiser in objectives.items()}
    return Agent(graph, policy, collect, update, {**state, **optimisers, "learner": learner}, memory, config.report)


def examples(space: gym.Space, random: FastPolicy, generator: Generator, importance: bool = False, rows: int = 8) -> Rows:
    """Rows that look like a minibatch, to try a graph on."""

    def obs() -> torch.Tensor:
        encoder = Encoder(space)
        if encoder.start is not None:
            return encoder.start + torch.randint(encoder.features, (rows,), generator=generator)
        return torch.randn(rows, *(space.shape or ()), generator=generator)

    made = {
        "obs": obs(),
        "action": torch.from_numpy(random.noise((rows,), generator)),
        "reward": torch.randn(rows, generator=generator),
        "next_obs": obs(),
        "discount": torch.full((rows,), 0.9),
    }
    return {**made, "importance": torch.rand(rows, generator=generator)} if importance else made
