"""Malformed command lines and declarations, and environments that misbehave."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shlex
from collections.abc import Iterator
from pathlib import Path

from scg.graph import GraphError
from tests.agents.commands.test_malformed import FILES, LINES
from tests.agents.training.test_environment_faults import FAULTS, Faulty
from tests.faults.trials import Trial, refused, say
from tests.scg.test_api_errors import MISTAKES

AGENTS = {
    "reinforce": "--horizon 8",
    "ppo": "--horizon 8 --epochs 1",
    "npg": "--horizon 8",
    "dqn": "--warmup 16 --batch 4",
    "sac-discrete": "--warmup 16 --batch 4",
}


def trials(whole: Path, share: float = 1.0, seed: int = 0) -> Iterator[Trial]:
    """All of them, or a random share."""
    dice = random.Random(seed)
    for line in LINES:
        if dice.random() < share:
            yield Trial("malformed command line", line, functools.partial(malformed, line=line, whole=whole))
    for name in MISTAKES:
        if dice.random() < share:
            yield Trial("malformed declaration", name, functools.partial(mistaken, name=name))
    for fault in FAULTS:
        for agent in AGENTS:
            if dice.random() < share:
                run = functools.partial(faulty, fault=fault, agent=agent, at=dice.randint(1, 40), who=dice.randint(0, 3))
                yield Trial("faulty environment", f"{agent}: {fault}", run)


def malformed(folder: Path, line: str, whole: Path) -> None:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "run").symlink_to(whole)
    before = set(folder.iterdir())
    with contextlib.chdir(folder):
        code, shown = say(*shlex.split(line))
    refused(code, shown)
    assert set(folder.iterdir()) - before <= {folder / "__pycache__"}, "it left something behind"


def mistaken(folder: Path, name: str) -> None:
    make, phrase = MISTAKES[name]
    try:
        make()
    except (GraphError, TypeError, ValueError) as error:
        text = "\n".join([str(error), *getattr(error, "__notes__", [])])
        assert phrase in text, text
        return
    raise AssertionError("it was accepted")


def faulty(folder: Path, fault: str, agent: str, at: int, who: int) -> None:
    """Instance `who` and those after it misbehave in their `at`th step; two are made to see whether they start."""
    Faulty.fault, Faulty.at, Faulty.who, Faulty.made = fault, at, who, 0
    out = folder / "run"
    words = f"train {agent} --env Faulty-v0 --hidden 4 --steps 256 --envs 2 --evaluations 1 --eval-episodes 2 {AGENTS[agent]}"
    code, shown = say(*words.split(), "--out", os.fspath(out))
    refused(code, shown, "environment", FAULTS[fault], "Last good checkpoint")
