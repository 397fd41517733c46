"""Evaluation: the mean return of whole episodes in fresh environments, with seeds that training never sees."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Generator, nn

from scg.agents.environments import envs
from scg.agents.environments.faults import FewInstances
from scg.agents.environments.goal_space import GoalSpace
from scg.agents.environments.recipe import Recipe
from scg.agents.experience.acting import one_blas_thread
from scg.agents.experience.rollout import Block, Rollout


class Evaluation(NamedTuple):
    returns: list[float]
    lengths: list[int]
    success: float | None = None  # share of episodes that end at their goal, in goal environments
    cut: int = 0  # episodes that were stopped by the limit of steps: their returns are those of a part

    @property
    def mean(self) -> float:
        return float(np.mean(self.returns))

    @property
    def remark(self) -> str:
        """What must be said beside the mean."""
        return f", {self.cut} of them stopped after {max(self.lengths)} steps" if self.cut else ""

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        count = len(self.returns)
        return float(np.std(self.returns, ddof=1) / np.sqrt(count)) if count > 1 else float("nan")

    def shown(self, value: float) -> str:
        """A return, or the error of one, in as many decimal places as tell returns of this size apart."""
        return f"{value:.{1 if max(map(abs, self.returns)) >= 10 else 3}f}"

    def row(self) -> dict[str, float]:
        return {
            "return": self.mean,
            "error": self.error,
            "min": min(self.returns),
            "max": max(self.returns),
            "length": float(np.mean(self.lengths)),
            "episodes": len(self.returns),
            "cut": self.cut,
            **({} if self.success is None else {"success": self.success}),
        }


def evaluate(
    policy: nn.Module,
    env: str | Recipe,
    episodes: int,
    seed: int,
    at: int,
    actions: str,
    bins: int = 0,
    limit: int = 0,
    step_timeout: float = 0.0,
) -> Evaluation:
    """One episode in each of `episodes` new environments, by the policy's "mode" or its "sample"d actions.

    `at` (the training step) chooses among families of seeds. An episode is stopped after `limit` steps (0: never).
    """
    generator = Generator().manual_seed(envs.seeds(seed, "evaluation-actions", 1, at)[0])
    seeds = envs.seeds(seed, "evaluation", episodes, at)

    def over(seeds: list[int]) -> Evaluation:
        with one_blas_thread(), envs.make(env, len(seeds), bins=bins, step_timeout=step_timeout) as vector:
            return _evaluation(policy, Rollout(vector, seeds, generator), actions == "mode", limit)

    try:
        return over(seeds)
    except FewInstances:
        return _joined([over([one]) for one in seeds])


def _evaluation(policy: nn.Module, rollout: Rollout, deterministic: bool, limit: int) -> Evaluation:
    block = rollout.episodes(policy, deterministic=deterministic, log_prob=False, limit=limit)
    space, success = rollout.envs.obs_space, None
    if isinstance(space, GoalSpace):
        last = block.next_obs[block.terminated | block.truncated].numpy()
        success = float(space.success(last[:, space.achieved], last[:, space.desired]).mean())
    returns, lengths = [episode.total for episode in block.episodes], [episode.length for episode in block.episodes]
    cut = _cut(block, limit) if limit else 0
    return Evaluation(returns, lengths, success, cut)


def _joined(parts: list[Evaluation]) -> Evaluation:
    """Evaluations of one episode each."""
    reached = [part.success for part in parts if part.success is not None]
    success = float(np.mean(reached)) if reached else None
    return Evaluation([part.mean for part in parts], [part.lengths[0] for part in parts], success, sum(p.cut for p in parts))


def _cut(block: Block, limit: int) -> int:
    """How many episodes of a block `[total time, 1]` were truncated at step `limit`, by us or by the environment itself."""
    starts = block.first.flatten().nonzero().flatten()
    ends = (block.terminated | block.truncated).flatten().nonzero().flatten()
    return int((block.truncated.flatten()[ends] & (ends - starts + 1 == limit)).sum())
