"""Films: as many frames as time has passed, clear errors, and MuJoCo without a display where the machine can draw."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio.v3 as imageio
import numpy as np
import pytest
from gymnasium import spaces
from torch import Generator

from scg.agents.commands import cli
from scg.agents.environments import envs
from scg.agents.networks.policies import make_policy
from scg.agents.training import video
from scg.agents.training.run_directory import RunConfig, RunDirectory
from scg.agents.training.video import Camera, VideoError


class Drawn(gym.Env):
    """Ends after 20 steps of 1/10 s; its picture is as bright as the step."""

    observation_space = spaces.Box(0.0, 100.0, (2,), np.float32)
    action_space = spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (gymnasium's protocol)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode, self.count = render_mode, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.count += 1
        return np.zeros(2, np.float32), 1.0, self.count >= 20, False, {}

    def render(self) -> np.ndarray:
        return np.full((40, 60, 3), 10 * self.count, np.uint8)


gym.register("Drawn-v0", entry_point=Drawn)


def policy(env_id: str) -> Any:
    with envs.make(env_id, 1) as one:
        return make_policy(one.obs_space, one.action_space, [4], Generator().manual_seed(0))


@pytest.mark.parametrize(("fps", "frames"), [(10, 20), (5, 10), (25, 20)])
def test_a_film_keeps_simulated_time(tmp_path: Path, fps: int, frames: int) -> None:
    """2 s at 5 frames a second are 10 frames; no picture is shown twice where the film is faster than the environment."""
    out = tmp_path / "deep" / "film.gif"
    assert video.record(policy("Drawn-v0"), "Drawn-v0", Camera(out, fps, width=30)) == [20.0]
    film = imageio.imread(out)
    assert film.shape[1:3] == (20, 30)
    assert len(film) == frames
    assert film[0].max() == 0
    assert abs(int(film[1].mean()) - 10 * max(1, 10 // fps)) <= 2


def test_episodes_follow_each_other_and_are_cut(tmp_path: Path) -> None:
    out = tmp_path / "film.gif"
    assert video.record(policy("Drawn-v0"), "Drawn-v0", Camera(out, 10, 0), episodes=2, steps=7) == [7.0, 7.0]
    assert imageio.imread(out).shape == (14, 40, 60, 3)


def test_what_cannot_be_filmed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"film\.avi: a film is a \.gif or an \.mp4"):
        Camera(tmp_path / "film.avi")
    with pytest.raises(VideoError, match="0 frames a second"):
        Camera(tmp_path / "film.gif", fps=0)


def test_the_command_films_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDirectory.create(
        "reinforce", RunConfig(env="Drawn-v0"), cli.config_type("reinforce")(hidden=(4,)), tmp_path / "run"
    )
    assert cli.video([str(run.path)]) == 2  # no checkpoint yet
    assert "checkpoint" in capsys.readouterr().err
    with envs.make("Drawn-v0", 1) as one:
        agent = run.agent.build(one.obs_space, one.action_space, Generator().manual_seed(0))
    run.checkpoints.save(5, {"agent": agent.state_dict()})
    out = tmp_path / "film.gif"
    assert cli.video([str(run.path), "--out", str(out), "--steps", "3"]) == 0
    assert "return 3.0" in capsys.readouterr().out
    assert out.stat().st_size > 0
    assert cli.video([str(run.path), "--out", str(tmp_path / "film.png")]) == 2


def test_mujoco_is_filmed_without_a_display(tmp_path: Path) -> None:
    out = tmp_path / "film.gif"
    try:
        video.record(policy("InvertedPendulum-v5"), "InvertedPendulum-v5", Camera(out, width=64), steps=3)
    except Exception as error:  # no EGL here: whatever the driver raises
        pytest.skip(f"this machine cannot draw: {type(error).__name__}: {error}")
    assert imageio.imread(out).std() > 5  # something is to be seen


def test_a_missing_pygame_is_one_message_with_one_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(VideoError) as caught:
        video.record(policy("CartPole-v1"), "CartPole-v1", Camera(tmp_path / "film.gif"), steps=3)
    assert (
        str(caught.value) == 'CartPole-v1 cannot draw itself: pygame is not installed. Remedy: pip install "torch-scg[video]".'
    )
    assert not list(tmp_path.iterdir())
