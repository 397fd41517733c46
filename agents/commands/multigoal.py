"""`scg multigoal RUN`: the picture of a run on MultiGoal-v0, and how often each goal is reached.

    scg train soft-q --env MultiGoal-v0 --steps 20000 --eval-actions sample
    scg multigoal runs/soft-q-MultiGoal-v0-seed0

A policy with several modes has to be sampled: its most probable action is one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from torch import nn
from tyro.conf import Positional

from scg.agents.commands.shared import check_figure, reported, trained
from scg.agents.environments.multigoal import GOALS
from scg.agents.training.goal_coverage import picture
from scg.agents.training.run_directory import RunError


@dataclass(frozen=True)
class Picture:
    run: Positional[Path]
    """run directory"""
    out: Path = Path("multigoal.png")
    """PNG, PDF or SVG by its ending"""
    episodes: int = 40
    """paths to draw"""
    seed: int = 0
    """seed of the episodes and samples"""
    best: bool = False
    """the best checkpoint in place of the last one"""
    trust: bool = False
    """import the code that the run names, of its environment or agent, without a question"""


@reported
def multigoal(argv: list[str]) -> int:
    """Draw a policy's paths to the four goals, and its samples on the level sets of Q."""
    wish = tyro.cli(Picture, prog="scg multigoal", args=argv)
    if wish.episodes < 1:
        raise RunError(f"option episodes is {wish.episodes}. Give at least 1.")
    check_figure(wish.out)
    run, agent, path = trained(wish.run, wish.best, wish.trust)
    critics = agent.state.get("critics")
    if run.run.env != "MultiGoal-v0" or run.run.action_bins or not isinstance(critics, nn.Module):
        raise RunError(
            f"run {wish.run}: {run.name} on {run.run.env}. The picture is of an agent with critics of continuous actions "
            "(soft-q, sac, sac-v1, svg, td3) on MultiGoal-v0."
        )
    counts = picture(agent.policy, critics, wish.out, wish.episodes, seed=wish.seed)
    reached = ", ".join(f"({x:g}, {y:g}): {count}" for (x, y), count in zip(GOALS, counts, strict=True))
    print(f"{wish.out}: {path}, of {wish.episodes} episodes reached {reached}")
    return 0
