"""An environment that hangs stops the run in time, and is named."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from scg.agents.commands import cli
from scg.agents.environments import envs
from scg.agents.environments.faults import StepTimeout


class Hanging(gym.Env):
    """Sleeps for `pause` seconds in step `at` of its life, or in `reset` where `at` is 0."""

    observation_space, action_space = gym.spaces.Box(-1.0, 1.0, (1,)), gym.spaces.Discrete(2)
    pause, at = 30.0, 3

    def __init__(self) -> None:
        self.count = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        time.sleep(0 if Hanging.at else Hanging.pause)
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.count += 1
        time.sleep(Hanging.pause if self.count == Hanging.at else 0)
        return np.zeros(1, np.float32), 1.0, self.count % 5 == 0, False, {}


gym.register("Hanging-v0", entry_point=Hanging)
WORDS = ["--env", "Hanging-v0", "--steps", "64", "--eval-episodes", "1", "--step-timeout", "0.3"]


@pytest.mark.parametrize("agent", ["reinforce --horizon 8 --hidden 4", "es --population 4"])
def test_a_step_that_hangs_stops_the_run(
    agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Hanging, "at", 3)
    before, began = signal.getsignal(signal.SIGALRM), time.monotonic()
    assert cli.train([*agent.split(), *WORDS, "--out", str(tmp_path / "run")]) == 1
    assert time.monotonic() - began < 20
    shown = capsys.readouterr().err
    assert shown.startswith("stopped: update 1, after step 0: environment 0")
    assert "step has not returned after 0.3 seconds (--step-timeout)." in shown
    assert "Last good checkpoint: " in shown
    assert signal.getsignal(signal.SIGALRM) is before
    assert not [thread for thread in threading.enumerate() if thread.name == "step-timeout" and thread.join(2) is not None]


def test_a_reset_that_hangs_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Hanging, "at", 0)
    assert cli.train(["reinforce", *WORDS, "--out", str(tmp_path / "run")]) == 1
    assert "environment 0: reset has not returned after 0.3 seconds" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_step_within_the_limit_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hanging, "pause", 0.3)
    with envs.make("Hanging-v0", 1, step_timeout=2.0) as vector:
        vector.reset([0])
        assert [vector.step(np.zeros(1, np.int64)).reward[0] for _ in range(4)] == [1.0] * 4
    with envs.make("Hanging-v0", 1, step_timeout=0.1) as vector:
        vector.reset([0])
        with pytest.raises(StepTimeout, match=r"environment 0: step has not returned after 0\.1 seconds"):
            all(vector.step(np.zeros(1, np.int64)) for _ in range(4))


@pytest.mark.parametrize("how", ["swallows", "thread"])
def test_a_step_that_cannot_be_interrupted_ends_the_process(how: str) -> None:
    program = f"""
        import threading, time
        import gymnasium as gym, numpy as np
        from scg.agents.environments import envs

        class Deaf(gym.Env):
            observation_space, action_space = gym.spaces.Box(-1.0, 1.0, (1,)), gym.spaces.Discrete(2)
            def reset(self, *, seed=None, options=None):
                return np.zeros(1, np.float32), {{}}
            def step(self, action):
                while True:
                    try:
                        time.sleep(0.01)
                    except Exception:
                        pass

        gym.register("Deaf-v0", entry_point=Deaf)
        vector = envs.make("Deaf-v0", 1, step_timeout=0.2)
        vector.reset([0])
        if {how!r} == "thread":
            thread = threading.Thread(target=vector.step, args=(np.zeros(1, np.int64),))
            thread.start(), thread.join()
        vector.step(np.zeros(1, np.int64))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert "stopped: environment 0: step has not returned after 0.2 seconds (--step-timeout), and cannot" in done.stderr
    assert "Traceback" not in done.stderr
