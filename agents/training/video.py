"""Videos of a policy: rendered frames at the speed of simulated time, without a display.

    obs ─most probable action→ step → picture → one frame of GIF or MP4, whenever 1/fps of simulated time has passed

MuJoCo draws with EGL where no other way is chosen (`MUJOCO_GL`). GIFs need nothing else; MP4 and the pictures of classic
control need the packages of the extra `torch-scg[video]`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
from gymnasium.error import DependencyNotInstalled
from PIL import Image
from torch import nn

from scg.agents.environments import envs
from scg.agents.environments.faults import EnvironmentFailed, described
from scg.agents.environments.recipe import Recipe
from scg.agents.experience.acting import mode
from scg.files import whole_file

EXTRA = 'pip install "torch-scg[video]"'


class VideoError(ValueError):
    """A film that cannot be made. The message says why and what to do."""


@dataclass(frozen=True)
class Camera:
    """Where the film goes, how many frames a second, how wide (0: as the environment draws)."""

    out: Path
    fps: int = 25
    width: int = 320

    def __post_init__(self) -> None:
        if self.out.suffix not in (".gif", ".mp4"):
            raise VideoError(f"{self.out}: a film is a .gif or an .mp4 file. Change the ending.")
        if self.fps < 1 or self.width < 0:
            raise VideoError(f"{self.fps} frames a second, {self.width} pixels wide: give at least 1 and 0.")

    @contextmanager
    def open(self) -> Iterator[Any]:
        """A writer of frames; the film takes its name when it is whole."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(self.out) as file, self._writer(file.name) as film:
            yield film

    def _writer(self, name: str) -> Any:
        if self.out.suffix == ".gif":
            return imageio.get_writer(name, duration=1000 / self.fps, loop=0)
        try:
            return imageio.get_writer(name, fps=self.fps, macro_block_size=2)
        except (ImportError, ValueError) as error:
            raise VideoError(f"{self.out}: MP4 needs a codec ({error}). Remedy: {EXTRA}, or choose a .gif file.") from error

    def frame(self, picture: np.ndarray) -> np.ndarray:
        if not self.width:
            return picture
        height = round(picture.shape[0] * self.width / picture.shape[1] / 2) * 2
        return np.asarray(Image.fromarray(picture).resize((self.width, height)))


def record(
    policy: nn.Module,
    world: str | Recipe,
    camera: Camera,
    episodes: int = 1,
    seed: int = 0,
    steps: int = 1000,
    bins: int = 0,
    step_timeout: float = 0.0,
) -> list[float]:
    """Film `episodes` episodes of the policy's most probable actions. Their returns, as far as they were filmed."""
    if "DISPLAY" not in os.environ:
        os.environ.setdefault("MUJOCO_GL", "egl")
    act, returns = mode(policy), []
    with envs.make(world, 1, bins=bins, step_timeout=step_timeout, render_mode="rgb_array") as vector, camera.open() as film:
        env = vector.vector.envs[0]  # type: ignore[attr-defined]
        rate = env.metadata.get("render_fps", camera.fps)
        for episode_seed in envs.seeds(seed, "video", episodes):
            obs, total, shown = vector.reset([episode_seed]), 0.0, 0
            for t in range(steps):
                if t * camera.fps >= shown * rate:
                    film.append_data(camera.frame(_picture(env, str(world), t)))
                    shown += 1
                step = _step(vector, act(obs), t)
                total += float(step.reward[0])
                if step.terminated[0] or step.truncated[0]:
                    break
                obs = step.obs
            returns.append(total)
    return returns


def _step(vector: envs.Environments, action: np.ndarray, t: int) -> envs.Step:
    when = f"step {t} of the episode"
    try:
        step = vector.step(action)
    except EnvironmentFailed as fault:
        raise fault.at(when) from fault.__cause__
    for name, value in (("reward", step.reward), ("next_obs", step.next_obs)):
        if not np.isfinite(value).all():
            raise EnvironmentFailed(0, f"{name} has {value[~np.isfinite(value)][0]}.", when)
    return step


def _picture(env: Any, env_id: str, t: int) -> np.ndarray:
    try:
        picture = env.render()
    except (DependencyNotInstalled, ImportError) as error:
        missing = getattr(error.__cause__ or error, "name", None)  # gymnasium's own words name another package's extra
        found = f"{missing} is not installed. Remedy: {EXTRA}." if missing == "pygame" else f"{error}"
        raise VideoError(f"{env_id} cannot draw itself: {found}") from error
    except Exception as error:
        raise EnvironmentFailed(0, f"render raised {described(error)}", f"step {t} of the episode") from error
    if not (isinstance(picture, np.ndarray) and picture.ndim == 3 and picture.shape[2] == 3 and picture.dtype == np.uint8):
        found = f"{picture.dtype} of shape {picture.shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
        wanted = "With render_mode='rgb_array' it must return a picture: uint8 [height, width, 3]."
        raise EnvironmentFailed(0, f"render returned {found}. {wanted}", f"step {t} of the episode")
    return picture
