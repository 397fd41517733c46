"""What `scg train` refuses leaves no folder behind, and the way on that its message names works when it is followed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import RescaleAction, TransformAction

from scg.agents.commands import cli


class Acts(gym.Env):
    """One step; what it was given lies in its action space."""

    observation_space = spaces.Box(-1.0, 1.0, (2,))

    def __init__(self, action_space: gym.Space) -> None:
        self.action_space = action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        return np.zeros(2, np.float32), 0.0, True, False, {}


def unbounded() -> gym.Env:
    return Acts(spaces.Box(-np.inf, np.inf, (1,)))


def rescaled() -> gym.Env:
    return RescaleAction(unbounded(), np.float32(-1), np.float32(1))


def transformed() -> gym.Env:
    """The way on of the message about a Box without bounds."""
    return TransformAction(unbounded(), lambda action: action, spaces.Box(-2.0, 2.0, (1,)))


MADE = {
    "RemedyUnbounded-v0": unbounded,
    "RemedyRescaled-v0": rescaled,
    "RemedyTransformed-v0": transformed,
    "RemedyRange-v0": lambda: Acts(spaces.Box(-1.0, 1.0, (1,))),
    "RemedySwitches-v0": lambda: Acts(spaces.MultiBinary(3)),
}
for _id, _make in MADE.items():
    gym.register(_id, entry_point=_make)

SHORT = "--steps 40 --hidden 4 --evaluations 1 --eval-episodes 1"
REPLAY = f"{SHORT} --warmup 24 --batch 4 --replay 64"


@pytest.mark.parametrize(
    ("refused", "said", "followed"),
    [
        (
            f"sac --env RemedyUnbounded-v0 {REPLAY}",
            "gymnasium.wrappers.TransformAction",
            f"sac --env RemedyTransformed-v0 {REPLAY}",
        ),
        (
            f"sac --env RemedyRescaled-v0 {REPLAY}",
            "'RemedyRescaled-v0' cannot start",
            f"sac --env RemedyTransformed-v0 {REPLAY}",
        ),
        (f"ppo --env RemedyRescaled-v0 {SHORT}", "'RemedyRescaled-v0' cannot start", f"ppo --env RemedyUnbounded-v0 {SHORT}"),
        (
            f"dqn --env RemedyUnbounded-v0 {REPLAY} --action-bins 3",
            "make it smaller by a wrapper",
            f"dqn --env RemedyTransformed-v0 {REPLAY} --action-bins 3",
        ),
        (
            f"dqn --env RemedyRange-v0 {REPLAY}",
            "Quantise it with --action-bins 11",
            f"dqn --env RemedyRange-v0 {REPLAY} --action-bins 11",
        ),
        (
            f"dqn --env RemedySwitches-v0 {REPLAY} --action-bins 3",
            "only a bounded Box",
            f"dqn --env RemedySwitches-v0 {REPLAY}",
        ),
        (f"ppo --env RemedySwitches-v0 {SHORT} --action-bins 3", "only a bounded Box", f"ppo --env RemedySwitches-v0 {SHORT}"),
        (
            f"sac --env RemedyRange-v0 {REPLAY} --alpha 0",
            "option alpha is 0.0. Give a number above 0",
            f"sac --env RemedyRange-v0 {REPLAY} --alpha 1e-9",
        ),
        (
            f"sac --env RemedyRange-v0 {REPLAY} --alpha 0 --no-learn-alpha",
            "Give a number above 0",
            f"sac --env RemedyRange-v0 {REPLAY} --alpha 1e-9 --no-learn-alpha",
        ),
        (
            f"sac-discrete --env RemedyRange-v0 {REPLAY} --action-bins 3 --alpha 0",
            "Give a number above 0",
            f"sac-discrete --env RemedyRange-v0 {REPLAY} --action-bins 3 --alpha 1e-9",
        ),
        (f"sac-discrete --env RemedySwitches-v0 {REPLAY}", "Use dqn", f"dqn --env RemedySwitches-v0 {REPLAY}"),
    ],
)
def test_a_refusal_leaves_nothing_and_its_remedy_works(
    refused: str, said: str, followed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.train(refused.split()) == 2
    shown = capsys.readouterr().err
    flat = " ".join(word for word in shown.split() if word.strip("│╭╰─╮╯"))  # as the parser's boxes break it
    assert said in flat, shown
    assert not list(tmp_path.iterdir())
    assert cli.train(followed.split()) == 0, capsys.readouterr().err
    assert list(tmp_path.glob("runs/*/config.json"))
