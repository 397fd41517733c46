"""Prefetch: the next block's environment steps run on a worker thread while the gradient steps before it are computed.

    block k + 1 is collected by the policy as it was before the updates that follow block k       PolicySnapshot
    while these updates run, on a replay buffer without block k + 1                               PrefetchedBlock

Why: the simulator and compiled updates release Python's lock, so two cores are busy. Cost: data arrive in the buffer one update
late.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from typing import Any

import torch
from torch import nn

from scg.agents.execution.worker_thread import WorkerThread
from scg.agents.experience.rollout import Block, Episode, Experience, Rollout
from scg.agents.updates.metrics import Metrics
from scg.agents.updates.off_policy_update import OffPolicyUpdate

PAUSE = 1e-6  # seconds; a sleep takes at least some 60 µs. It lets the waiting thread take Python's lock.


class PrefetchedBlock:
    """A block of `steps` steps of every environment; `begin` collects it on another thread."""

    def __init__(self, rollout: Rollout, policy: nn.Module, steps: int) -> None:
        self.steps = steps * rollout.envs.batch
        self._collect = lambda: rollout.collect(policy, steps, log_prob=False, pause=PAUSE)
        self._future: Future[Block] | None = None

    @property
    def episodes(self) -> list[Episode]:
        return self.block().episodes

    def begin(self, thread: WorkerThread) -> None:
        self._future = thread.start(self._collect)

    def wait(self) -> None:
        if self._future is not None:
            wait([self._future])

    def block(self) -> Block:
        """The block, waited for."""
        assert self._future is not None
        return self._future.result()


class PolicySnapshot:
    """A copy of the behaviour with the weights and statistics of the last call of `remember`; it shares noise and schedules."""

    def __init__(self, behaviour: nn.Module, state: Mapping[str, Any]) -> None:
        shared = {id(part): part for part in state.values() if not isinstance(part, nn.Module)}
        self.policy = copy.deepcopy(behaviour, shared)
        self._own: list[torch.Tensor] = [*self.policy.parameters(), *self.policy.buffers()]
        self._live: list[torch.Tensor] = [*behaviour.parameters(), *behaviour.buffers()]

    @torch.no_grad()
    def remember(self) -> None:
        torch._foreach_copy_(self._own, self._live)


class Collector:
    """Collects blocks with `behaviour`: before the updates of `learner` or, where it has a worker thread, during them."""

    def __init__(self, learner: OffPolicyUpdate, behaviour: nn.Module, state: Mapping[str, Any]) -> None:
        self.learner, self.behaviour = learner, behaviour
        self.snapshot = None if learner.thread is None else PolicySnapshot(behaviour, state)

    def collect(self, rollout: Rollout, steps: int) -> Experience:
        if self.snapshot is not None:
            return PrefetchedBlock(rollout, self.snapshot.policy, steps)
        return rollout.collect(self.behaviour, steps, log_prob=False)

    def update(self, experience: Experience, add: Callable[[Block], object], learn: Callable[[], Metrics]) -> Metrics:
        """Call `add`, which stores the block in the replay buffer, and `learn`; in the other order for a prefetched block."""
        if isinstance(experience, Block):
            add(experience)
            return learn()
        thread = self.learner.thread
        assert isinstance(experience, PrefetchedBlock)
        assert self.snapshot is not None
        assert thread is not None
        self.snapshot.remember()
        self.learner.begin = lambda: experience.begin(thread)
        try:
            metrics = learn()
        finally:
            experience.wait()  # the environments must not be closed while they are stepped
        add(experience.block())
        return metrics
