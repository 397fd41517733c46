"""Rollouts: blocks of experience, `[time, batch, …]`, with the ends of episodes marked.

    obs_t ─π→ action_t ─env→ reward_t, terminated_t, truncated_t, next_obs_t
    first_{t+1} = terminated_t ∨ truncated_t

`next_obs_t` is the observation that the action led to, also at an episode's end; `obs_{t+1}` then begins the next episode.

    cost_to_go_t = -reward_t + γ · { 0                     if terminated_t
                                   { value(next_obs_t)     if truncated_t, or at the block's end
                                   { cost_to_go_{t+1}      otherwise

A time limit is not part of the process, so what would have followed is predicted by the critic; after a termination
nothing follows. Both end the sum (Pardo et al. 2018, "Time limits in reinforcement learning").
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Generator, Tensor, nn

from scg import scan
from scg.agents.environments.envs import Environments
from scg.agents.environments.faults import EnvironmentFailed, first_line
from scg.agents.execution import memory
from scg.agents.experience.acting import Act, mode, sampler
from scg.agents.networks.finite_check import REMEDY, NotFinite
from scg.agents.networks.mlp import float_type
from scg.agents.networks.recurrent import Recall, no_memory, seen
from scg.executors import Executor

Rows = dict[str, Tensor]  # named tensors with one element a row: a minibatch, or a recording `[1, rows, …]`


class Episode(NamedTuple):
    total: float  # undiscounted return
    length: int


class Experience(Protocol):
    """What an agent collects: the training loop counts it, the agent learns from it."""

    @property
    def steps(self) -> int: ...

    @property
    def episodes(self) -> list[Episode]: ...


@dataclass(frozen=True)
class Block:
    """Experience `[time, batch, …]` under one policy, and the episodes that ended inside."""

    obs: Tensor  # [time, batch, obs…]
    action: Tensor  # [time, batch, action…] as the policy drew it
    log_prob: Tensor | None  # [time, batch] under the policy that acted; None unless requested
    reward: Tensor  # [time, batch]
    terminated: Tensor  # [time, batch] bool
    truncated: Tensor  # [time, batch] bool
    first: Tensor  # [time, batch] bool: no step before this one belongs to its episode
    next_obs: Tensor  # [time, batch, obs…]
    episodes: list[Episode]
    memory_start: Tensor | None = None  # [batch, size] what a recurrent policy remembered before the block

    @property
    def steps(self) -> int:
        """Environment steps: time × batch."""
        return self.reward.numel()

    def given(self, *names: str) -> dict[str, Tensor]:
        """The named tensors, or all, as `graph.replay` takes them."""
        if names:
            return {name: getattr(self, name) for name in names}
        return {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}

    def cost_to_go(self, value: Callable[[Tensor], Tensor], gamma: float) -> Tensor:
        """The recorded discounted cost-to-go `[time, batch]`, continued by `value` (cost units) where it was cut off, detached."""
        return discounted_cost(-self.reward, self.terminated, self.truncated, self.continuation(value), gamma)

    def continuation(self, value: Callable[[Tensor], Tensor]) -> Tensor:
        """`value(next_obs)` where the episode goes on but the data do not: truncations and the last row. Else 0."""
        cut = self.truncated.clone()
        cut[-1] = True
        cut &= ~self.terminated
        after = torch.zeros_like(self.reward)
        with torch.no_grad():
            after[cut] = value(self.next_obs[cut]).to(after.dtype)
        return after


def discounted_cost(cost: Tensor, terminated: Tensor, truncated: Tensor, continuation: Tensor, gamma: float) -> Tensor:
    """`y_t = cost_t + γ (continuation_t + [the episode goes on at t+1] y_{t+1})`, in one scan; all `[time, batch]`."""
    goes_on = (~(terminated | truncated)).to(cost.dtype)
    return scan.affine(gamma * goes_on, cost + gamma * continuation)


class Rollout:
    """Steps the environments and keeps their state between blocks. Same seeds, same bits. `executor` is for agents that have
    whole episodes run elsewhere (None: here)."""

    def __init__(
        self, envs: Environments, seeds: Sequence[int], generator: Generator, executor: Executor | None = None
    ) -> None:
        self.envs, self.generator, self.executor = envs, generator, executor
        self._obs = envs.reset(seeds).copy()
        self._first = np.ones(envs.batch, bool)
        self._total, self._length = np.zeros(envs.batch), np.zeros(envs.batch, np.int64)
        self._recall = Recall()

    def collect(self, policy: nn.Module, steps: int, log_prob: bool = True, pause: float = 0.0) -> Block:
        """`steps` steps of every environment: a block `[steps, batch]`. Episodes go on in the next block.

        `pause`: sleep at least so many seconds between two steps, so that another thread can take Python's lock.
        """
        record = _Record(steps, self.envs)
        act = self._remembering(policy, sampler(policy, self.generator, steps, self.envs.batch))
        start = self._recall.now
        episodes: list[Episode] = []
        for t in range(steps):
            if pause and t:
                time.sleep(pause)
            episodes += self._step(record, t, act)
        return record.block(policy if log_prob else None, episodes, start)

    def episodes(
        self, policy: nn.Module, each: int = 1, deterministic: bool = False, log_prob: bool = True, limit: int = 0
    ) -> Block:
        """`each` whole episodes of every environment, end to end: a block `[total time, 1]`, restarted by `first`.

        Every environment gives the same number of episodes: the first n to finish would be the short ones. An environment
        that has given its share is stepped further, and those steps are neither kept nor counted. After `limit` steps (0:
        never) an episode is truncated in the block, though not in the environment; this needs `each` = 1.
        """
        if limit and each > 1:
            raise ValueError(
                f"episodes: a limit of {limit} steps and {each} episodes of every environment. Ask for one of each."
            )
        if not self._first.all():  # some environment is in the middle of an episode
            self._obs, self._first = self.envs.reset().copy(), np.ones(self.envs.batch, bool)
            self._total[:], self._length[:] = 0.0, 0
        chunk, count = 256, np.zeros(self.envs.batch, np.int64)
        columns: list[list[dict[str, np.ndarray]]] = [[] for _ in range(self.envs.batch)]
        episodes: list[Episode] = []
        while (count < each).any():
            record = _Record(chunk, self.envs)
            chosen = mode(policy) if deterministic else sampler(policy, self.generator, chunk, self.envs.batch)
            act = self._remembering(policy, chosen)
            wanted = np.zeros((chunk, self.envs.batch), bool)
            for t in range(chunk):
                wanted[t] = count < each
                ended = self._step(record, t, act)
                over = record.terminated[t] | record.truncated[t]
                cut = ~over & (self._length == limit) if limit else np.zeros_like(over)
                if cut.any():
                    record.truncated[t] |= cut
                    totals = iter(ended)
                    ended = [
                        Episode(float(self._total[i]), limit) if cut[i] else next(totals) for i in np.flatnonzero(over | cut)
                    ]
                    over |= cut
                episodes += [e for e, i in zip(ended, np.flatnonzero(over), strict=True) if count[i] < each]
                count += over
                if (count >= each).all():
                    break
            for i, column in enumerate(columns):
                column.append({name: array[wanted[:, i], i] for name, array in record.arrays().items()})
        joined = {
            name: np.concatenate([piece[name] for column in columns for piece in column])[:, None] for name in columns[0][0]
        }
        whole, memory = _Record.of(joined), getattr(policy, "memory", None)
        return whole.block(policy if log_prob else None, episodes, None if memory is None else no_memory(memory, 1).cpu())

    def _remembering(self, policy: nn.Module, act: Act) -> Act:
        """`act`, on what a recurrent policy remembers after an observation; as it is, of any other."""
        self._recall.begins(policy, self.envs.batch)
        if self._recall.now is None:
            return act
        return lambda obs: act(self._recall.after(policy, obs, self._first))

    def _step(self, record: _Record, t: int, act: Act) -> list[Episode]:
        record.obs[t], record.first[t] = self._obs, self._first
        try:
            action = act(self._obs)
        except (NotFinite, ValueError) as error:  # ValueErrors are torch's, of distributions with such parameters
            record.check(t)  # the environment may have been the cause
            if not isinstance(error, NotFinite) and "Expected" not in str(error):
                raise
            raise NotFinite(f"step {t} of the block: {first_line(error)}") from error
        record.action[t] = action  # before stepping: environments may write into the arrays they are given
        try:
            step = self.envs.step(action)
        except EnvironmentFailed as fault:
            if record.action.dtype.kind == "f" and not np.isfinite(action).all():
                record.check(t + 1)
            raise fault.at(f"step {t} of the block") from fault.__cause__
        record.reward[t] = step.reward
        record.terminated[t], record.truncated[t], record.next_obs[t] = step.terminated, step.truncated, step.next_obs
        self._obs = step.obs
        self._total += step.reward
        self._length += 1
        self._first = step.terminated | step.truncated
        if not np.count_nonzero(self._first):
            return []
        over = np.flatnonzero(self._first)
        ended = [Episode(float(self._total[i]), int(self._length[i])) for i in over]
        self._total[over], self._length[over] = 0.0, 0
        return ended

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values. `envs` is None where the environments cannot be saved."""
        return {
            "generator": self.generator.get_state(),
            "envs": self.envs.state_dict(),
            "obs": torch.from_numpy(np.array(self._obs)),
            "first": torch.from_numpy(self._first.copy()),
            "total": torch.from_numpy(self._total.copy()),
            "length": torch.from_numpy(self._length.copy()),
            "memory": self._recall.now,
        }

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Restores the state; False where the environments cannot, so that their episodes start anew with other seeds."""
        self.generator.set_state(state["generator"])
        self._recall.now = state.get("memory")
        if state["envs"] is None:
            fresh = torch.randint(2**31 - 1, (self.envs.batch,), generator=self.generator)
            self._obs, self._first = self.envs.reset(fresh.tolist()).copy(), np.ones(self.envs.batch, bool)
            return False
        self.envs.load_state_dict(state["envs"])
        self._obs = state["obs"].numpy().copy()
        self._first = state["first"].numpy().copy()
        self._total, self._length = state["total"].numpy().copy(), state["length"].numpy().copy()
        return True


class _Record:
    """The arrays of a block while it is being filled."""

    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    first: np.ndarray
    next_obs: np.ndarray

    def __init__(self, steps: int, envs: Environments) -> None:
        shape = (steps, envs.batch)
        needed = steps * envs.batch * row_bytes(envs)
        memory.require(
            needed, f"a block of {steps:,} steps of {envs.batch:,} environments", "Give a smaller --horizon or --envs."
        )
        self.obs, self.next_obs = _empty(shape, envs.obs_space), _empty(shape, envs.obs_space)
        self.action = _empty(shape, envs.action_space)
        self.reward = np.empty(shape, float_type())
        self.terminated, self.truncated, self.first = (np.empty(shape, bool) for _ in range(3))

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> _Record:
        record = cls.__new__(cls)
        vars(record).update(arrays)
        return record

    def arrays(self) -> dict[str, np.ndarray]:
        return vars(self)

    def check(self, steps: int) -> None:
        """EnvironmentFailed or NotFinite, by the first of so many steps with a number that is not finite: in the
        observation, the action, or the outcome."""
        found = []
        for order, name in enumerate(("obs", "action", "reward", "next_obs")):
            array = getattr(self, name)[:steps]
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                t, i, *_ = np.argwhere(~np.isfinite(array))[0].tolist()
                found.append((t, order, name, i, array[~np.isfinite(array)][0]))
        if not found:
            return
        t, _, name, i, value = min(found)
        when = f"step {t} of the block"
        if name == "action":
            raise NotFinite(f"environment {i}, {when}: the policy's action has {value}, its observation is finite. {REMEDY}")
        raise EnvironmentFailed(i, f"{name} has {value}. Look for a diverged simulation, or bound the actions.", when)

    def block(self, policy: nn.Module | None, episodes: list[Episode], memory: Tensor | None = None) -> Block:
        self.check(len(self.reward))
        tensors = {name: torch.from_numpy(array) for name, array in vars(self).items()}
        log_prob = None
        if policy is not None:  # in one pass, by the function that the graph will differentiate
            device = next((p.device for p in policy.parameters()), torch.device("cpu"))
            with torch.no_grad():
                rows = {"obs": tensors["obs"].to(device), "first": tensors["first"].to(device)}
                if memory is not None:
                    rows["memory_start"] = memory.to(device)
                log_prob = policy(seen(policy, rows)).log_prob(tensors["action"].to(device)).cpu()
        return Block(**tensors, log_prob=log_prob, episodes=episodes, memory_start=memory)


def row_bytes(envs: Environments) -> int:
    """Bytes of one step of one environment."""
    obs, action = (math.prod(space.shape or ()) * _kind(space).itemsize for space in (envs.obs_space, envs.action_space))
    return 2 * obs + action + float_type().itemsize + 3


def _empty(shape: tuple[int, int], space: gym.Space) -> np.ndarray:
    return np.empty((*shape, *(space.shape or ())), _kind(space))


def _kind(space: gym.Space) -> np.dtype:
    """Continuous values have the nets' type, whatever the space says; bytes stay what they are."""
    if isinstance(space, spaces.Box):
        return np.dtype(np.uint8) if space.dtype == np.uint8 else float_type()
    return np.dtype(np.int64)
