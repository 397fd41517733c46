"""A3C: actor-learners that share their parameters and wait for nobody.

    every worker, for ever:    θ' ← θ        block ← act by θ' for a few steps        θ ← θ − rate · RMSprop(∇ surrogate(θ'))

    obs_t → (action_t ~ π) → reward_t                the graph, its objectives and its critic are A2C's
    obs_t → value_t → ⟨(value_t − target_t)²⟩
    obs_t ┄→ ⟨−η entropy(π)⟩

θ and RMSprop's running squares lie in memory that all processes share, and are read and written without a lock: now and
then a worker reads a half-written step or loses one, which costs less than waiting (Recht et al. 2011). A gradient is
that of the parameters which acted, a few steps old when it is applied. Each worker has environments, generators and reward
statistics of its own; the first one alone moves the observations' statistics, which all share.

So no two runs are the same, a resumed one least of all: it goes on from the saved parameters with fresh episodes. Workers
run only as far as the training loop has granted steps: during an evaluation they stand still.

Mnih et al. (2016), "Asynchronous methods for deep reinforcement learning".
"""

from __future__ import annotations

import queue
import signal
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Generator, Tensor, multiprocessing

from scg.agents.a2c import A2C
from scg.agents.common.agent import Agent
from scg.agents.common.on_policy import ActorCritic
from scg.agents.environments import envs
from scg.agents.environments.faults import EnvironmentFailed, EnvironmentFault
from scg.agents.environments.recipe import Recipe
from scg.agents.execution.options import OptionError, check_options
from scg.agents.execution.settings import EAGER, Execution
from scg.agents.experience.rollout import Episode, Rollout
from scg.agents.updates.metrics import Means, Metrics, NotFinite
from scg.agents.updates.optimiser import Optimiser, RMSprop

MOST_WORKERS = 256
PATIENCE = 120.0  # seconds without a word from any worker, after which something is wrong


class Report(NamedTuple):
    """What a worker did with one block."""

    steps: int
    episodes: list[Episode]
    metrics: Metrics


class Ended(NamedTuple):
    """A worker whose environment or whose numbers ended it: the environment's index (None: not known), step and fault."""

    worker: int
    of_environment: bool
    environment: int | None
    when: str
    found: str

    def error(self) -> Exception:
        if not self.of_environment:
            return NotFinite(f"worker {self.worker}: {self.found}")
        return EnvironmentFailed(
            self.environment, self.found, f"{self.when} of worker {self.worker}" if self.when else f"worker {self.worker}"
        )


@dataclass(frozen=True)
class Progress:
    """Blocks of several workers, as the training loop counts them."""

    steps: int
    episodes: list[Episode]
    metrics: Metrics


@dataclass(frozen=True)
class A3C(A2C):
    """Hyperparameters: A2C's, and the actor-learners'."""

    learners: int = 2
    """processes that act and learn; the run's `envs` are how many environments each of them steps"""

    compile_from: ClassVar[int | None] = None
    remembers: ClassVar[bool] = False
    executes: ClassVar[tuple[str, ...]] = ("compile", "bf16", "threads")  # the shared memory is on the CPU

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, "learners")
        if self.learners > MOST_WORKERS:
            raise OptionError(f"option learners is {self.learners}: each is a process. Give at most {MOST_WORKERS}.")

    def around(self, nets: ActorCritic, generator: Generator) -> Agent:
        rmsprop = RMSprop(nets.parameters, self.max_grad_norm)
        common = Common.of(nets, rmsprop)
        for tensor in (*common.networks, *common.squares, common.rate):
            tensor.share_memory_()
        seed = int(torch.randint(2**31 - 1, (), generator=generator))
        pool: list[WorkerPool] = []

        def collect(rollout: Rollout, steps_left: int) -> Progress:
            if not pool:
                pool.append(WorkerPool(self, common, rollout.envs, seed, nets.updates.execution))
            return pool[0].advance(min(self.report, steps_left))

        def update(progress: Progress, share: float) -> Metrics:
            rmsprop.rate.fill_(self.lr * (1 - share))
            return progress.metrics

        return Agent(self.graph(nets), nets.policy, collect, update, {**nets.state, "rmsprop": rmsprop})


class Common(NamedTuple):
    """What all processes have in common: networks with the observations' statistics, running squares, the rate."""

    networks: list[Tensor]
    squares: list[Tensor]
    rate: Tensor

    @classmethod
    def of(cls, nets: ActorCritic, optimiser: Optimiser) -> Common:
        found = [tensor for module in (nets.policy, nets.value) for tensor in module.state_dict(keep_vars=True).values()]
        return cls(found, optimiser.squares, optimiser.rate)


class WorkerPool:
    """The worker processes, from the first step to the end of the agent."""

    def __init__(
        self, config: A3C, common: Common, environments: envs.Environments, seed: int, execution: Execution = EAGER
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.reports: Any = context.Queue()
        self.granted, self.taken = context.Value("q", 0), context.Value("q", 0)
        options = {
            "batch": environments.batch,
            "threads": 1,
            "bins": environments.bins,
            "step_timeout": environments.step_timeout,
        }
        self.processes: list[BaseProcess] = []
        for index in range(config.learners):
            what = (config, execution, environments.recipe, options, common, seed, index)
            process = context.Process(target=_work, args=(*what, self.granted, self.taken, self.reports), daemon=True)
            process.start()
            self.processes.append(process)
        weakref.finalize(self, _stop, self.processes)

    def advance(self, steps: int) -> Progress:
        """Grant `steps` more steps and wait until they are done: a worker finishes the block that it has begun."""
        with self.granted.get_lock():
            self.granted.value += steps
        done, episodes, means = 0, list[Episode](), Means()
        while done < steps:
            try:
                report = self._next()
            except Exception:
                _stop(self.processes)  # the others would go on as long as anybody looks at the error
                raise
            done, episodes = done + report.steps, episodes + report.episodes
            means.add(report.metrics)
        with self.granted.get_lock():
            self.granted.value += done - steps  # what the last block did beyond the grant is done
        return Progress(done, episodes, means.take())

    def _next(self) -> Report:
        until = time.monotonic() + PATIENCE
        while True:
            ended = {i: process.exitcode for i, process in enumerate(self.processes) if process.exitcode is not None}
            try:  # after the look at who has ended: what those said is in the queue by now
                return self._heard(self.reports.get(timeout=min(1.0, PATIENCE)))
            except queue.Empty:
                if ended:
                    said = ", ".join(f"worker {i} with exit code {code}" for i, code in ended.items())
                    raise NotFinite(
                        f"ended without a word: {said}. Something outside killed it, or it could not start."
                    ) from None
                if time.monotonic() > until:
                    raise NotFinite(f"no worker has reported for {PATIENCE:.0f} s.") from None

    @staticmethod
    def _heard(report: Report | Ended) -> Report:
        if isinstance(report, Ended):
            raise report.error()
        return report


def _stop(processes: list[BaseProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(timeout=10)


def _work(
    config: A3C,
    execution: Execution,
    env: Recipe,
    options: dict[str, Any],
    common: Common,
    seed: int,
    index: int,
    granted: Any,
    taken: Any,
    reports: Any,
) -> None:
    """One worker: copies, acts, learns, reports, until it is stopped."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the training loop is the one to stop
    torch.set_num_threads(1)  # this process is the worker's own
    try:
        weights, acting = (Generator().manual_seed(envs.seeds(seed, stream, 1, index)[0]) for stream in ("weights", "actions"))
        with envs.make(env, **options) as vector:
            nets = ActorCritic(config, vector.obs_space, vector.action_space, weights, execution)
            learn = apprentice(config, nets, common, moves_statistics=index == 0)
            rollout = Rollout(vector, envs.seeds(seed, "environments", vector.batch, index), acting)
            while _parent_lives():
                with taken.get_lock():
                    go = taken.value < granted.value
                    if go:
                        taken.value += config.horizon * vector.batch
                if not go:
                    time.sleep(0.001)
                    continue
                reports.put(learn(rollout))
    except EnvironmentFailed as fault:  # to the main process, which knows what to do with it
        reports.put(Ended(index, True, fault.index, fault.when, fault.found))
    except EnvironmentFault as fault:
        reports.put(Ended(index, True, None, "", str(fault)))
    except NotFinite as error:
        reports.put(Ended(index, False, None, "", str(error)))
    except Exception as error:
        reports.put(Ended(index, False, None, "", f"{type(error).__name__}: {error}"))


def _parent_lives() -> bool:
    """Whether the training loop is still there: a process that is killed does not stop its daemons."""
    parent = multiprocessing.parent_process()  # type: ignore[attr-defined]
    return parent is not None and parent.is_alive()


def apprentice(config: A3C, nets: ActorCritic, common: Common, moves_statistics: bool) -> Callable[[Rollout], Report]:
    """A block and its update: read the common parameters, act, step the common parameters by the own ones' gradient."""
    own = Common.of(nets, RMSprop(nets.parameters))
    shared = {id(mine): theirs for mine, theirs in zip(own.networks, common.networks, strict=True)}
    trained = {id(parameter) for parameter in nets.parameters}
    statistics = [(mine, theirs) for mine, theirs in zip(own.networks, common.networks, strict=True) if id(mine) not in trained]
    rmsprop = RMSprop([shared[id(parameter)] for parameter in nets.parameters], config.max_grad_norm)
    rmsprop.squares, rmsprop.rate = common.squares, common.rate
    learn = config.learner(nets, config.graph(nets), rmsprop, absorbs=moves_statistics)

    def work(rollout: Rollout) -> Report:
        with torch.no_grad():
            torch._foreach_copy_(own.networks, common.networks)
        block = nets.collect(rollout, 10**9, log_prob=False)
        metrics = learn(block)
        if moves_statistics:
            for mine, theirs in statistics:
                theirs.copy_(mine)
        return Report(block.steps, block.episodes, metrics)

    return work
