"""Off-policy agents: act, fill a replay buffer, and learn from minibatches drawn from it.

    act for `horizon` steps → replay → `updates` × (draw a minibatch → a step on it)
    a step:   g_J = ∇ J(minibatch) for every objective J      θ_J ← θ_J − rate · Adam(g_J)      θ̄ ← θ̄ + τ (θ − θ̄)

All gradients of a step are taken at the same parameters, from one sample of the graph. The first block is the warm-up:
uniformly random actions, so that the buffer is filled before the first minibatch. A page gives an `Algorithm`: its graph, what
each objective trains, what the target networks follow, and who acts; `bellman` is the objective that most of them share.
How a step is executed (compiled, on two threads, several in one call) is `scg.agents.updates.off_policy_update`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import torch
from torch import Generator, Tensor, nn

import scg
from scg import detach
from scg.agents.common.agent import Agent, AgentConfig, Stateful, check_options
from scg.agents.experience.buffers import ReplayOptions, example_rows, replay_buffer
from scg.agents.experience.exploration import uniform_policy
from scg.agents.experience.prioritised import bellman_errors
from scg.agents.experience.replay import Multistep
from scg.agents.experience.rollout import Block, Experience, Rollout
from scg.agents.networks.networks import encoders, with_whole_path
from scg.agents.networks.normalisers import ObsNormaliser
from scg.agents.updates.factory import Updates
from scg.agents.updates.metrics import Means, Metrics
from scg.agents.updates.optimiser import Adam, Optimiser
from scg.trace import Trace


@dataclass(frozen=True)
class OffPolicy(ReplayOptions, AgentConfig):
    """Hyperparameters that every off-policy agent has, besides those of its replay buffer."""

    warmup: int = 10_000
    """environment steps with random actions at first"""
    horizon: int = 1
    """steps of every environment between updates"""
    updates: int = 1
    """gradient steps after each of them"""
    batch: int = 256
    """rows of a minibatch"""
    gamma: float = 0.99
    """discount"""
    n_step: int = 1
    """rewards that a target sums before the critic's value"""
    tau: float = 0.005
    """share of the way to the trained networks that the targets move at each step"""
    lr: float = 3e-4
    """learning rate"""
    hidden: tuple[int, ...] = (256, 256)
    """widths of the hidden layers of actor and critics"""
    network: str = "mlp"
    """before the hidden layers: mlp, residual, cnn, or path/to/file.py:name"""
    features: int = 128
    """width of a network other than mlp"""
    normalise_obs: bool = False
    """normalise observations by their running moments; replayed ones by the moments at the time of the draw"""
    report: int = 1000
    """environment steps between two rows of metrics"""

    family: ClassVar[str] = "off-policy"
    environments: ClassVar[int] = 1  # and an update a step
    compile_from: ClassVar[int | None] = 10_000  # an update is 256 rows of wide nets: 4 ms saved a step
    executes: ClassVar[tuple[str, ...]] = ("device", "compile", "bf16", "threads", "overlap", "together", "cuda_graphs")

    def __post_init__(self) -> None:
        object.__setattr__(self, "network", with_whole_path(self.network))
        super().__post_init__()
        check_options(self, "warmup horizon updates batch n_step report features", "lr", "gamma tau")

    def algorithm(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator) -> Algorithm:
        """The page's part."""
        raise NotImplementedError

    def encoder(self, space: gym.Space, generator: Generator) -> Callable[[], Any]:
        """Makes the network before a module's hidden layers: every module has one of its own."""
        return encoders(self.network, space, self.features, generator, self.normalise_obs, type(self).__name__)

    def optimiser(self, module: nn.Module, max_norm: float | None = None) -> Optimiser:
        """Adam with ε as published, which shortens gradients to `max_norm`."""
        adam = Adam(module.parameters(), float("inf") if max_norm is None else max_norm, eps=1e-8)
        adam.rate.fill_(self.rate(0.0))
        return adam

    def rate(self, progress: float) -> float:
        """The learning rate after this share of the run."""
        return self.lr

    def agent(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator, updates: Updates) -> Agent:
        algorithm = self.algorithm(obs_space, action_space, generator)
        parts = (*algorithm.state.values(), *algorithm.objectives.values(), *algorithm.targets)
        modules = [part for part in (*parts, algorithm.policy, algorithm.behaviour) if isinstance(part, nn.Module)]
        for module in modules:
            updates.place(module)
        within = dict.fromkeys(part for module in modules for part in module.modules())
        normalisers = [part for part in within if isinstance(part, ObsNormaliser)]
        optimisers = {cost: self.optimiser(module) for cost, module in algorithm.objectives.items()}
        memory = replay_buffer(self, Multistep(self.gamma, self.n_step), obs_space)
        random = uniform_policy(action_space, obs_space)
        own = Generator().manual_seed(int(torch.randint(2**31 - 1, (), generator=generator)))  # minibatches and noise
        step = updates.off_policy(OffPolicyStep(algorithm, optimisers, self.tau), own)
        step.examine(example_rows(obs_space, random, own, self.prioritised))
        collector = updates.collector(step, algorithm.behaviour, algorithm.state)

        def collect(rollout: Rollout, steps_left: int) -> Experience:
            warmup = memory.count == 0
            steps = -(-self.warmup // rollout.envs.batch) if warmup else self.horizon
            steps = min(steps, -(-steps_left // rollout.envs.batch))
            return rollout.collect(random, steps, log_prob=False) if warmup else collector.collect(rollout, steps)

        def learn(progress: float) -> Metrics:
            scheduled, means = algorithm.schedule(progress), Means()
            for optimiser in optimisers.values():
                optimiser.rate.fill_(self.rate(progress))
            for drawn in memory.minibatches(self.updates, self.batch, own, progress, updates.together):
                metrics, errors = step(drawn.rows, updates.together)
                memory.learned(drawn.index, errors)
                means.add(*metrics)
            return {**means.take(), **scheduled}

        def add(block: Block) -> None:
            memory.add(block)
            for normaliser in normalisers:
                normaliser.absorb(block.obs.to(updates.device))

        def update(experience: Experience, progress: float) -> Metrics:
            return collector.update(experience, add, lambda: learn(progress))

        saved = {f"{cost}_optimiser": optimiser for cost, optimiser in optimisers.items()}
        state = {**algorithm.state, **saved, "learner": step}
        return Agent(algorithm.graph, algorithm.policy, collect, update, state, memory, self.report)


def bellman(graph: scg.Graph, critics: nn.Module, q: Callable[..., Tensor] | None = None, half: bool = False) -> None:
    """The regression that trains the critics; `target` `[*batch]` is the page's node.

        (obs, action) → q = Q(obs, action) → ⟨importance · Σ (q − target)²⟩        target detached

    `q` `[*batch, critics]` are the critics themselves by default; `half` halves the square. `importance` is 1, or the weight of
    prioritised replay.
    """

    def values(obs: Tensor, action: Tensor) -> Tensor:
        return critics(obs, action)

    graph.deterministic(values if q is None else q, name="q")

    @graph.cost(name="bellman", trains=critics)
    def _(q: Tensor, target: Tensor = detach("target"), importance: float = 1.0) -> Tensor:
        squares = importance * (q - target.unsqueeze(-1)).square().sum(-1)
        return squares / 2 if half else squares


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
    prompt: Sequence[str] = ()
    """other objectives that have a step with the first one, whatever the delay"""
    errors: Callable[[Trace], Tensor] = bellman_errors
    """the critics' absolute error at each row, for prioritised replay"""
    schedule: Callable[[float], Metrics] = lambda progress: {}
    """called before each update with the share of the run that is over; what it returns is logged"""


class OffPolicyStep:
    """Gradients → the optimisers' steps → the targets' step, on one minibatch. `optimisers` has one for every objective."""

    def __init__(self, algorithm: Algorithm, optimisers: Mapping[str, Optimiser], tau: float) -> None:
        self.graph, self.optimisers, self.tau = algorithm.graph, dict(optimisers), tau
        self.prompt = [next(iter(self.optimisers)), *algorithm.prompt]
        self.watched, self.delay, self.errors = algorithm.watched, algorithm.delay, algorithm.errors
        self.targets: list[Tensor] = [p for target in algorithm.targets for p in target.parameters()]
        self.sources: list[Tensor] = [p for source in algorithm.targets.values() for p in source.parameters()]

    def __call__(self, rows: dict[str, Any], due: bool = True) -> tuple[Tensor, Tensor]:
        """The step; its metrics, named by `names(due)`, and the critics' errors at each row. `due`: it is the turn of the
        delayed objectives and of the targets too."""
        costs = self.costs(due)
        gradients, means, errors = self.gradients(rows, costs, self.watched)
        return torch.cat([means, self.descend(gradients, costs, due)]), errors

    def costs(self, due: bool) -> list[str]:
        return [cost for cost in self.optimisers if due or cost in self.prompt]

    def names(self, due: bool) -> list[str]:
        costs = self.costs(due)
        return [*costs, *self.watched, *[f"{cost}_grad_norm" for cost in costs]]

    def gradients(
        self, rows: dict[str, Any], costs: Sequence[str], watched: Sequence[str]
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Gradients of `costs`; the means of these and of `watched`; with the first objective, the errors at each row."""
        trace = self.graph.sample(**rows)
        # Each objective's gradient reaches its own parameters alone, so that of the sum is all of theirs.
        parameters = [p for cost in costs for p in self.optimisers[cost].parameters]
        gradients = torch.autograd.grad(trace.surrogate(*costs), parameters)
        with torch.no_grad():
            means = torch.stack([trace[name].mean() for name in (*costs, *watched)])
            errors = self.errors(trace) if costs[0] == next(iter(self.optimisers)) else means[:0]
        return list(gradients), means, errors

    def descend(self, gradients: list[Tensor], costs: Sequence[str], due: bool) -> Tensor:
        """The optimisers' steps, and that of the targets where it is `due`; the gradients' norms."""
        each = iter(gradients)
        norms = [self.optimisers[cost].step([next(each) for _ in self.optimisers[cost].parameters]) for cost in costs]
        with torch.no_grad():
            if due and self.targets:
                torch._foreach_lerp_(self.targets, self.sources, self.tau)
            return torch.stack(norms)
