"""Tasks that workers import by name."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

_own = torch.Generator().manual_seed(0)


def draws(index: int) -> tuple[int, float, float, float]:
    """A number from each default generator."""
    return index, float(torch.randn(())), float(np.random.random()), random.random()  # noqa: NPY002


def draws_of_its_process(index: int) -> float:
    """What no task should do: the numbers of a generator that goes on from task to task."""
    return float(torch.randn((), generator=_own))


def settings(index: int) -> tuple[int, str]:
    return torch.get_num_threads(), str(torch.get_default_dtype())


def sleeps(index: int) -> int:
    time.sleep(0.2 * (index == 0))
    return index


def dies_once(folder: str, index: int) -> tuple[int, float, float, float]:
    """Kills the worker that takes task 1 first."""
    if index == 1 and not (seen := Path(folder) / "died").exists():
        seen.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return draws(index)


def kills(index: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def divides(index: int) -> float:
    return 1 / index


class Peculiar(Exception):
    """An error that cannot be made again from its arguments."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


def peculiar() -> None:
    raise Peculiar(1, 2)


def unpicklable() -> Any:
    return lambda: None


class Walk:
    """A random walk, which counts its steps in a file too."""

    def __init__(self, folder: str, start: float) -> None:
        self.steps, self.at = Path(folder) / "steps", start

    def step(self, size: float) -> float:
        with open(self.steps, "a") as file:
            file.write(".")
        self.at += size * float(torch.randn(()))
        return self.at

    def pid(self) -> int:
        return os.getpid()

    def state_dict(self) -> float:
        return self.at

    def load_state_dict(self, state: float) -> None:
        self.at = state
