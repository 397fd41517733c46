"""States that an environment offers by `get_state` and `set_state`: kept where they are plain, in a checkpoint without pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit

from scg.agents.environments import environment_state
from scg.agents.experience import tensor_files
from scg.agents.training import loop
from scg.agents.training.run_directory import RunConfig, RunDirectory
from tests.agents.training.test_loop import SMALL, assert_same, last_state


class Walk(gym.Env):
    """A random walk whose place is nowhere but in an object of its own."""

    observation_space, action_space = gym.spaces.Box(-99.0, 99.0, (2,)), gym.spaces.Discrete(2)

    class Place:
        def __init__(self) -> None:
            self.x, self.seen = np.zeros(2), [0]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.place = self.Place()
        return self.place.x.astype(np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.place.x = self.place.x + self.np_random.normal(2 * action - 1, 1.0, 2)
        self.place.seen.append(int(action))
        return self.place.x.astype(np.float32), float(self.place.x[0]), len(self.place.seen) > 40, False, {}


class Offers(Walk):
    def get_state(self) -> Any:
        return {"x": self.place.x, "seen": self.place.seen, "pair": (1, None)}

    def set_state(self, state: Any) -> None:
        assert state["pair"] == (1, None)
        self.place.x, self.place.seen = state["x"], list(state["seen"])


class Strange(Offers):
    def get_state(self) -> Any:
        return {"place": self.place}


gym.register("Offers-v0", entry_point=Offers, max_episode_steps=30)


def test_an_offered_state_goes_on_to_the_bit(tmp_path: Path) -> None:
    one, other = (TimeLimit(Offers(), 30) for _ in range(2))
    one.reset(seed=1), other.reset(seed=2)
    for action in (0, 1, 1):
        one.step(action)
    state = environment_state.save(one)
    assert state is not None
    tensor_files.save(tmp_path / "state.pt", state)
    environment_state.load(other, tensor_files.load(tmp_path / "state.pt"))
    for action in [1, 0] * 14:
        (x, *rest), (y, *same) = one.step(action), other.step(action)
        assert np.array_equal(x, y) and rest == same
    assert rest[2]  # the wrapper's count went on too: truncated after 30 steps


@pytest.mark.parametrize("kind", [Walk, Strange])
def test_a_state_that_is_not_offered_or_not_plain_is_not_saved(kind: type[gym.Env]) -> None:
    env = kind()
    env.reset(seed=0)
    assert environment_state.save(env) is None


def test_a_run_on_it_that_is_killed_ends_in_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = RunConfig(env="Offers-v0", steps=640, envs=2, evaluations=1, eval_episodes=1, checkpoints=4)
    whole, killed = (RunDirectory.create("reinforce", short, SMALL, tmp_path / name) for name in ("whole", "killed"))
    monkeypatch.setattr(loop, "draw", lambda *_: None)
    loop.train(whole, quiet=True)
    update = loop._Training._update

    def die(self: Any) -> None:
        if self.counters.step >= 352:
            raise KeyboardInterrupt
        update(self)

    monkeypatch.setattr(loop._Training, "_update", die)
    with pytest.raises(KeyboardInterrupt):
        loop.train(killed, quiet=True)
    monkeypatch.setattr(loop._Training, "_update", update)
    loop.train(RunDirectory.open(killed.path), resume=True, quiet=True)
    assert_same(last_state(whole), last_state(killed))
