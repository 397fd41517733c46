"""Collecting while learning: the next block's environment steps beside the gradient steps that come before it.

    block k + 1 is collected by the policy as it was before the updates of block k            Ahead
    while these run, which do not know block k + 1 yet                                        Upcoming

For one environment step to a gradient step this means: the action is the newest policy's, and a step is learned from one
gradient step later than without.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from concurrent.futures import Future, wait
from typing import Any

import torch
from torch import nn

from scg.agents.execution.worker_thread import WorkerThread
from scg.agents.experience.rollout import Block, Episode, Rollout

PAUSE = 1e-6  # seconds; sleeping at all takes some 60 µs. A thread that never sleeps keeps Python's lock from one that waits.


class PrefetchedBlock:
    """A block of `steps` steps of every environment that is collected when somebody begins with it, on another thread."""

    def __init__(self, rollout: Rollout, policy: nn.Module, steps: int) -> None:
        self.steps = steps * rollout.envs.batch
        self._collect = lambda: rollout.collect(policy, steps, log_prob=False, pause=PAUSE)
        self._future: Future[Block] | None = None

    @property
    def episodes(self) -> list[Episode]:
        return self.block().episodes

    def begin(self, beside: WorkerThread) -> None:
        self._future = beside.start(self._collect)

    def wait(self) -> None:
        if self._future is not None:
            wait([self._future])

    def block(self) -> Block:
        """The block, waited for."""
        assert self._future is not None
        return self._future.result()


class PolicySnapshot:
    """A behaviour with weights of its own: those that it had when it last was told to `remember`. All else it shares."""

    def __init__(self, behaviour: nn.Module, state: Mapping[str, Any]) -> None:
        shared = {id(part): part for part in state.values() if not isinstance(part, nn.Module)}
        self.policy = copy.deepcopy(behaviour, shared)
        self._own: list[torch.Tensor] = list(self.policy.parameters())
        self._live: list[torch.Tensor] = list(behaviour.parameters())

    @torch.no_grad()
    def remember(self) -> None:
        torch._foreach_copy_(self._own, self._live)
