"""The picture of MovingTarget-v0 is enough to follow its target, and following is not what chance does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scg.agents.environments.probes import MovingTarget
from scg.agents.training.presets import preset


def score(act: Callable[[MovingTarget, np.ndarray], int], episodes: int = 60) -> float:
    env, total = MovingTarget(), 0.0
    for seed in range(episodes):
        obs, _ = env.reset(seed=seed)
        over = False
        while not over:
            obs, reward, _, over, _ = env.step(act(env, obs))
            total += reward
    return total / episodes


def seen(env: MovingTarget, picture: np.ndarray) -> int:
    """The action that comes nearest to where the red square is now, read off the picture alone."""
    place = [np.argwhere(picture[..., colour])[0] for colour in (0, 2)]
    after = np.abs(place[0] - place[1] - env.MOVES)
    return int(np.lexsort((after.sum(1), after.max(1)))[0])


def test_scripted_scores_are_those_that_the_documentation_says() -> None:
    rng = np.random.default_rng(0)
    random, chaser = score(lambda env, _: int(rng.integers(5))), score(lambda env, _: env.chase())
    assert abs(random - 0.26) < 0.06 and abs(chaser - 0.89) < 0.02  # 60 episodes of a deviation of 0.17 and 0.05
    assert score(seen) > 0.9 * chaser
    assert score(lambda env, _: 0) < 0.4


def test_where_the_target_lies_is_a_linear_function_of_the_picture() -> None:
    """One weight a pixel: red minus blue, times the coordinate."""
    env, rng = MovingTarget(), np.random.default_rng(0)
    ys = np.arange(env.SIZE)[:, None] / (255 * env.SQUARE**2)
    for seed in range(20):
        picture, _ = env.reset(seed=int(rng.integers(1000)) + seed)
        shown = float((ys * (picture[..., 0].astype(float) - picture[..., 2])).sum())
        assert abs(shown - (env.target - env.follower)[0]) <= 1.0


def test_the_preset_looks_at_pictures() -> None:
    options = preset("ppo", "MovingTarget-v0", 1000).agent
    assert options["network"] == "cnn" and preset("a2c", "MovingTarget-v0", 1000).agent == {}
