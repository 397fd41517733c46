"""Hindsight experience replay: rows are replayed as if a goal that their episode achieved had been the desired one.

    row t of an episode (begin … t … end):     goal ← achieved_goal of next_obs_j           with probability k / (k + 1)

    final     j = end                      future    j uniform on t … end
    episode   j uniform on begin … end     random    j uniform on the whole buffer

    reward ← compute_reward(achieved_goal of next_obs_t, goal)       terminated ← compute_terminated(the same)

An n-step target sums recomputed rewards under the one goal, up to the first recomputed termination; where the episode ended
at its own goal or time limit, but not at the new goal, the critic predicts the rest. For an episode that still continues, the
newest step counts as its end. Goals are drawn together with the rows, so the buffer holds every step once.

The other rows keep their own goal and their recorded reward. The first 1000 recorded steps are compared with the environment's
reward function: if it depends on more than the goals, the recomputed rewards would be wrong, and the run stops.

Andrychowicz et al. (2017), "Hindsight experience replay".
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
import torch
from torch import Generator, Tensor

from scg.agents.environments.envs import EnvironmentFault
from scg.agents.environments.goal_space import GoalFunction, GoalSpace
from scg.agents.experience.prioritised import PrioritisedReplay
from scg.agents.experience.replay import Drawn, Multistep, Replay
from scg.agents.experience.rollout import Block, Rows

Strategy = Literal["final", "future", "episode", "random"]
OPEN = 2**62  # the end of an episode that still continues
CHECKED = 1000  # recorded steps compared with the environment's functions
ROUNDED = 1e-3  # share of them that may differ: a goal rounded to float32 can cross a threshold


class Hindsight(Replay):
    """The last `capacity` steps of a goal environment; `k` of `k + 1` rows get a goal that their episode achieved."""

    def __init__(
        self,
        capacity: int,
        target: Multistep | None = None,
        mapped: str = "",
        *,
        space: gym.Space,
        strategy: Strategy = "future",
        k: float = 4,
        **options: Any,
    ) -> None:
        if not isinstance(space, GoalSpace):
            raise EnvironmentFault(
                f"hindsight: observation space {space} has no goals. Choose a goal environment "
                "(observation, achieved_goal, desired_goal), or leave hindsight out."
            )
        if strategy not in get_args(Strategy):
            raise ValueError(f"hindsight: strategy {strategy!r}. Known: {', '.join(get_args(Strategy))}.")
        super().__init__(capacity, target, mapped, **options)
        self.space, self.strategy, self.share = space, strategy, 1 - 1 / (k + 1)
        # Of each row's episode [slots, envs], and of those that go on [envs]; allocated with the first block.
        self._begin = self._end = self._open = torch.empty(0)
        self._checked = 0

    # -- writing: where episodes begin and end ---------------------------------------------------------------

    def add(self, block: Block) -> Tensor:
        if self._checked < CHECKED:
            self._check(block)
        return super().add(block)

    def _allocate(self, fields: dict[str, Tensor]) -> None:
        super()._allocate(fields)
        shape = (self.slots, self.envs)
        self._begin, self._end = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
        self._open = torch.full((self.envs,), self.count)

    def _append(self, fields: dict[str, Tensor]) -> Tensor:
        slots = super()._append(fields)
        self._mark(fields["first"], fields["over"], slots)
        return slots

    def _mark(self, first: Tensor, over: Tensor, slots: Tensor) -> None:
        """Note begin and end, counted in slots ever written, of the episodes in the newest rows `[time, envs]`."""
        steps, start = len(first), self.count - len(first)
        time = torch.arange(start, self.count)[:, None]
        begin = torch.where(first, time, -1)
        begin[0] = torch.where(first[0], start, self._open)
        begin = begin.cummax(0).values
        last = over.clone()
        last[:-1] |= first[1:]
        end = torch.where(last, time, OPEN).flip(0).cummin(0).values.flip(0)
        self._begin[slots], self._end[slots] = begin[steps - len(slots) :], end[steps - len(slots) :]
        # The ends of episodes that began in earlier blocks, except of rows that this block overwrites.
        ended = torch.where(first[0], start - 1, end[0])
        for env in torch.nonzero((ended < OPEN) & (self._open < start)).flatten().tolist():
            kept = min(start, max(int(self._open[env]), self.count - self.slots))
            self._end[torch.arange(kept, start) % self.slots, env] = ended[env]
        self._open = begin[-1]

    # -- reading ---------------------------------------------------------------------------------------------

    def sample(self, rows: int, generator: Generator, progress: float = 0.0) -> Drawn:
        drawn = super().sample(rows, generator, progress)
        chosen = torch.nonzero(torch.rand(rows, generator=generator) < self.share).flatten()
        index = drawn.index[chosen]
        goal = self._goals(self.sources(index, generator), self.space.achieved)
        for name, value in self.relabelled(index, goal).items():
            drawn.rows[name][chosen] = value
        return drawn

    def sources(self, index: Tensor, generator: Generator) -> Tensor:
        """For rows at flat indices, the flat indices of the rows whose achieved goals replace their desired ones."""
        if self.strategy == "random":
            return torch.randint(len(self), index.shape, generator=generator)
        slot, env = index // self.envs, index % self.envs
        end = self._ends(index)
        match self.strategy:
            case "final":
                low = end
            case "future":
                low = self._time(slot)
            case _:
                low = self._begin[slot, env].clamp(min=self.count - self.slots)
        uniform = torch.rand(len(index), generator=generator, dtype=torch.float64)
        return (low + (uniform * (end - low + 1)).long()) % self.slots * self.envs + env

    def relabelled(self, index: Tensor, goal: Tensor) -> Rows:
        """The rows at flat indices as a graph takes them, with `goal [rows, …]` as the desired goals."""
        gamma, total, end, kind = self.target.gamma, self.slots * self.envs, self._ends(index), self._data["reward"].dtype
        last, time, power = index, self._time(index // self.envs), torch.full((len(index),), gamma, dtype=kind)
        reward, over = self._outcome(last, goal)
        for _ in range(self.target.steps - 1):
            goes_on = ~over & (time < end)
            if not goes_on.any():
                break
            last, time = torch.where(goes_on, (last + self.envs) % total, last), time + 1
            more, ended = self._outcome(last, goal)
            reward = reward + torch.where(goes_on, power * more, 0.0)
            over = over | (goes_on & ended)
            power = torch.where(goes_on, power * gamma, power)
        obs, next_obs = (self._rows[name].index_select(0, at) for name, at in (("obs", index), ("next_obs", last)))
        obs[:, self.space.desired] = next_obs[:, self.space.desired] = goal
        return {"obs": obs, "next_obs": next_obs, "reward": reward, "discount": power * (~over).to(kind)}

    def _time(self, slot: Tensor) -> Tensor:
        """When a slot was written: slots ever written before it."""
        newest = self.count - 1
        return newest - (newest - slot) % self.slots

    def _ends(self, index: Tensor) -> Tensor:
        return self._end[index // self.envs, index % self.envs].clamp(max=self.count - 1)

    def _goals(self, index: Tensor, part: slice) -> Tensor:
        """The achieved or desired goals of the next observations at flat indices."""
        return self._rows["next_obs"].index_select(0, index)[:, part]

    def _outcome(self, index: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        achieved = self._goals(index, self.space.achieved).numpy()
        reward, terminated = (self._ask(f, achieved, goal.numpy()) for f in (self.space.reward, self.space.terminated))
        return torch.from_numpy(reward).to(self._data["reward"].dtype), torch.from_numpy(terminated)

    # -- checking --------------------------------------------------------------------------------------------

    def _ask(self, function: GoalFunction, achieved: np.ndarray, goal: np.ndarray) -> np.ndarray:
        try:
            return np.array(function(achieved, goal))
        except (KeyError, TypeError, IndexError) as error:
            raise EnvironmentFault(
                f"hindsight: the environment's goal functions raised {type(error).__name__}: {error}, given goals and an "
                "empty info. They must depend on the goals alone: put what else they need into the goals."
            ) from error

    def _check(self, block: Block) -> None:
        """EnvironmentFault unless the environment's functions give what was recorded."""
        obs, shape = block.next_obs.flatten(0, 1).numpy(), block.reward.shape
        for name, function in (("reward", self.space.reward), ("terminated", self.space.terminated)):
            recorded = getattr(block, name).numpy()
            again = self._ask(function, obs[:, self.space.achieved], obs[:, self.space.desired]).reshape(shape)
            differ = np.argwhere(~np.isclose(recorded, again, rtol=1e-4, atol=1e-5))
            if len(differ) > 1 + ROUNDED * recorded.size:
                t, env = differ[0]
                raise EnvironmentFault(
                    f"hindsight: {len(differ)} of {recorded.size} steps have another {name} than the environment's functions "
                    f"compute from their goals; the first is step {t} of environment {env}: recorded {recorded[t, env]}, "
                    f"computed {again[t, env]}. They must depend on the next achieved goal and the desired one alone."
                )
        self._checked += block.steps


class PrioritisedHindsight(Hindsight, PrioritisedReplay):
    """Rows drawn in proportion to the critics' errors, then given goals that their episodes reached."""
