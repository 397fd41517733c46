"""Replay: a ring buffer of environment steps, sampled uniformly and saved in pieces.

    slot t   obs_t, action_t, reward_t, next_obs_t, terminated_t, first_t, over_t = terminated_t ∨ truncated_t      [slots, envs, …]

    n-step   R = Σ_{k<m} γ^k reward_{t+k}     next_obs = next_obs_{t+m-1}     discount = γ^m (1 − terminated_{t+m-1})

m ≤ n is the number of steps until the sum stops: after a termination (discount 0), after a truncation, where the critic
predicts the rest (discount γ^m), and at the newest slot. `next_obs` is the observation that the action led to, never the first
one of another episode.

A checkpoint does not write a buffer of a million steps anew: `save` writes the steps since the last call to a file of their
own, and returns the names of the files that hold the ring. Files that no kept checkpoint needs are removed. A restored buffer
has the same bits.

Lin (1992); Mnih et al. (2015). Truncation: Pardo et al. (2018).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from scg.agents.execution import memory
from scg.agents.execution.options import OptionError
from scg.agents.experience import tensor_files
from scg.agents.experience.rollout import Block, Rows
from scg.agents.experience.tensor_files import CheckpointError

FIELDS = ("obs", "action", "reward", "next_obs", "terminated", "first", "over")


@dataclass(frozen=True)
class Drawn:
    """A minibatch: the rows that a graph takes, and their flat indices, slot · envs + environment."""

    rows: Rows
    index: Tensor


@dataclass(frozen=True)
class Multistep:
    """The n-step target: the sum of `steps` rewards, discounted by `gamma`, before the critic's value."""

    gamma: float = 0.99
    steps: int = 1


class Replay:
    """The last `capacity` environment steps (rounded up to whole slots), sampled uniformly with replacement.

    `mapped` names a directory for a memory-mapped buffer (an unlinked file: gone with the process), "" keeps it in memory.
    """

    def __init__(self, capacity: int, target: Multistep | None = None, mapped: str = "") -> None:
        self.capacity, self.target, self.mapped = capacity, target or Multistep(), mapped
        self.count = 0  # slots ever written
        self.envs = self.slots = 0  # known with the first block
        # One memory three times: [slots, envs, …], in numpy (a step is written in a tenth of a tensor's time), and [slots · envs, …].
        self._data: dict[str, Tensor] = {}
        self._rings: dict[str, np.ndarray] = {}
        self._rows: dict[str, Tensor] = {}
        self._files: list[tuple[int, int]] = []  # saved pieces [from, to) that the ring still needs
        self._oldest = 0  # the first slot that the last saved ring holds

    def __len__(self) -> int:
        """Environment steps to draw from."""
        return min(self.count, self.slots) * self.envs

    # -- writing -------------------------------------------------------------------------------------------

    def add(self, block: Block) -> Tensor:
        """Append a block `[time, envs, …]`. Returns the slots that it took."""
        return self._append(self._fields(block))

    def _fields(self, block: Block) -> dict[str, Tensor]:
        """What of a block is kept."""
        return {**block.given(*FIELDS[:-1]), "over": block.terminated | block.truncated}

    def _append(self, fields: dict[str, Tensor]) -> Tensor:
        steps, envs = fields["reward"].shape
        if not self._data:
            self._allocate(fields)
        if envs != self.envs:
            raise ValueError(f"replay: a block of {envs} environments, but the buffer was begun with {self.envs}.")
        skipped = max(0, steps - self.slots)  # the block itself would overwrite it
        slots = np.arange(self.count + skipped, self.count + steps) % self.slots
        for name, ring in self._rings.items():
            ring[slots] = fields[name].numpy()[skipped:]
        self.count += steps
        return torch.from_numpy(slots)

    def require(self, row: int) -> None:
        """OptionError unless there is room for rows of so many bytes: in memory, or where the buffer is mapped."""
        what = f"option replay: a buffer of {self.capacity:,} steps, {row:,} bytes each,"
        if not self.mapped:
            fits = int(min(memory.free() / 2 / row, self.capacity))
            remedy = f"Give --replay {fits} or less, or --mapped DIRECTORY to keep it on a disk."
            return memory.require(self.capacity * row, what, remedy)
        try:
            room = shutil.disk_usage(self.mapped).free
        except OSError as error:
            raise OptionError(f"option mapped: {self.mapped!r}: {error.strerror}. Give a directory that exists.") from error
        if self.capacity * row > room:
            needed, has = memory.shown(self.capacity * row), memory.shown(room)
            raise OptionError(f"{what} needs {needed} in {self.mapped}, {has} are free. Give a smaller --replay.")

    def _allocate(self, fields: dict[str, Tensor]) -> None:
        self.require(sum(fields[name][:1, :1].nbytes for name in FIELDS))
        self.envs = fields["reward"].shape[1]
        self.slots = -(-self.capacity // self.envs)
        for name in FIELDS:
            like = fields[name]
            shape = (self.slots, *like.shape[1:])
            self._data[name] = _mapped(shape, like.dtype, self.mapped) if self.mapped else torch.zeros(shape, dtype=like.dtype)
        self._rings = {name: ring.numpy() for name, ring in self._data.items()}
        self._rows = {name: ring.flatten(0, 1) for name, ring in self._data.items()}

    # -- reading -------------------------------------------------------------------------------------------

    def sample(self, rows: int, generator: Generator, progress: float = 0.0) -> Drawn:
        """A minibatch of `rows`: obs, action, reward, next_obs, discount."""
        index = torch.randint(len(self), (rows,), generator=generator)
        return Drawn(self.rows(index), index)

    def minibatches(
        self, count: int, rows: int, generator: Generator, progress: float = 0.0, together: int = 1
    ) -> Iterator[Drawn]:
        """`count` minibatches from one draw, which takes as long as a small update; `together` of them end to end."""
        drawn = self.sample(count * rows, generator, progress)
        for part, index in zip(parts(drawn.rows, count // together), drawn.index.split(together * rows), strict=True):
            yield Drawn(part, index)

    def learned(self, index: Tensor, error: Tensor) -> None:
        """Takes the critics' errors at drawn rows. Uniform sampling ignores them."""

    def rows(self, index: Tensor) -> Rows:
        """The rows at flat indices, as a graph takes them."""
        data = self._rows
        last, reward, power = index, data["reward"].index_select(0, index), self.target.gamma
        if self.target.steps > 1:
            last, reward, power = self._multistep(data, index, reward)
        return {
            "obs": data["obs"].index_select(0, index),
            "action": data["action"].index_select(0, index),
            "reward": reward,
            "next_obs": data["next_obs"].index_select(0, last),
            "discount": power * (~data["terminated"].index_select(0, last)).to(reward.dtype),
        }

    def windows(self, steps: int, count: int, generator: Generator) -> Rows:
        """`count` runs of `steps` consecutive steps of one episode, `[steps, count, …]`: obs, action, reward, next_obs."""
        total, newest = self.slots * self.envs, (self.count - 1) % self.slots
        tries = torch.randint(len(self), (8 * count,), generator=generator)
        index, whole = [tries], torch.ones(len(tries), dtype=torch.bool)
        for _ in range(steps - 1):
            last = index[-1]
            index.append((last + self.envs) % total)
            whole &= ~self._rows["over"][last] & (last // self.envs != newest) & ~self._rows["first"][index[-1]]
        kept = torch.stack(index)[:, whole]
        if not kept.shape[1]:
            raise OptionError(f"no {steps} recorded steps in a row belong to one episode. Ask for shorter windows.")
        chosen = kept[:, torch.arange(count) % kept.shape[1]]
        return {name: self._rows[name][chosen] for name in ("obs", "action", "reward", "next_obs")}

    def _multistep(self, data: Rows, index: Tensor, reward: Tensor) -> tuple[Tensor, Tensor, Any]:
        gamma, total, newest = self.target.gamma, self.slots * self.envs, (self.count - 1) % self.slots
        last, power = index, torch.full_like(reward, gamma)
        for _ in range(self.target.steps - 1):
            following = (last + self.envs) % total
            # `over` is False where a resumed run restarted the episodes of environments that cannot be saved.
            goes_on = ~data["over"][last] & (last // self.envs != newest) & ~data["first"][following]
            last = torch.where(goes_on, following, last)
            reward = reward + torch.where(goes_on, power * data["reward"][last], 0.0)
            power = torch.where(goes_on, power * gamma, power)
            if not goes_on.any():
                break
        return last, reward, power

    # -- saving --------------------------------------------------------------------------------------------

    def save(self, directory: Path) -> dict[str, Any]:
        """Write the steps since the last call to `directory`; returns the other state that `load` needs."""
        saved = self._files[-1][1] if self._files else 0
        if self.count > saved:
            start = max(saved, self.count - self.slots)
            slots = torch.arange(start, self.count) % self.slots
            tensor_files.save(_piece(directory, start), {name: ring[slots] for name, ring in self._data.items()})
            self._files.append((start, self.count))
        oldest, before = max(0, self.count - self.slots), self._oldest
        for piece in [piece for piece in self._files if piece[1] <= before]:  # the checkpoint before this one is kept too
            self._files.remove(piece)
            _piece(directory, piece[0]).unlink(missing_ok=True)
        self._oldest = oldest
        files = [list(piece) for piece in self._files if piece[1] > oldest]
        return {"count": self.count, "envs": self.envs, "files": files}

    def load(self, directory: Path, state: dict[str, Any]) -> None:
        """Put back what `save` wrote when it returned `state`. Files that a later, lost checkpoint left are removed."""
        self.count = 0
        files = [(start, end) for start, end in state["files"]]
        for start, end in files:
            if start > self.count:
                self.count = start  # earlier slots have left the ring
            fields = tensor_files.load(_piece(directory, start))
            fields.pop("format")
            if len(fields["reward"]) != end - start:
                raise CheckpointError(
                    f"replay {_piece(directory, start)}: {len(fields['reward'])} steps, the checkpoint says {end - start}. "
                    "Use an earlier checkpoint."
                )
            self._append(fields)
        self._files, self._oldest = files, max(0, self.count - self.slots)
        known = {_piece(directory, start) for start, _ in files}
        for path in directory.glob("from-*.pt"):
            if path not in known:
                path.unlink()


def parts(rows: Rows, count: int) -> list[Rows]:
    """`rows` in `count` equal parts."""
    if count == 1:
        return [rows]
    pieces = {name: value.split(len(value) // count) for name, value in rows.items()}
    return [{name: piece[i] for name, piece in pieces.items()} for i in range(count)]


def _piece(directory: Path, start: int) -> Path:
    return directory / f"from-{start:012d}.pt"


def _mapped(shape: tuple[int, ...], dtype: torch.dtype, directory: str) -> Tensor:
    """Zeros in an unlinked file, to which the system writes pages when memory is short."""
    kind = torch.zeros((), dtype=dtype).numpy().dtype
    with tempfile.TemporaryFile(dir=directory) as file:
        file.truncate(max(1, int(np.prod(shape)) * kind.itemsize))
        return torch.from_numpy(np.memmap(file, kind, "r+", shape=shape))
