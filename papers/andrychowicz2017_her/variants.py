"""What section 4 changes in a task, on PointReach: one goal for all episodes; a reward that says how far the goal is.

OneGoalReach-v0      the goal is always the same
ShapedReach-v0       reward −|achieved − desired|², in place of −1 and 0
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from scg.agents.environments.goal_tasks import Observation, PointReach

GOAL = (0.6, -0.4)


class OneGoalReach(PointReach):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self.goal = np.array(GOAL, np.float32)
        return self._obs(), {}


class ShapedReach(PointReach):
    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: dict[str, Any]) -> Any:
        return -np.square(np.subtract(achieved_goal, desired_goal)).sum(-1)


for _env in (OneGoalReach, ShapedReach):
    gym.register(f"{_env.__name__}-v0", entry_point=f"{__name__}:{_env.__name__}", max_episode_steps=50)
