"""A run directory: everything that a result depends on, and everything that it says.

    config.json        agent, hyperparameters, environment, seed: what `--resume` and `eval` start from
    versions.json      interpreter, libraries, simulator, environment settings
    metrics.csv        one row an update               evaluations.csv    one row an evaluation on fresh episodes
    events.out.…       the same for TensorBoard        checkpoints/       the last few, and the best
    graph.dot, .png    the agent's graph               curve.png          the learning curve
    replay/            the replay buffer in pieces

What is there is never overwritten: `--resume` continues it, a new run takes the next free name.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from scg.agents import config_type
from scg.agents.common.agent import Config
from scg.agents.environments import envs
from scg.agents.execution.settings import EAGER, Execution
from scg.agents.experience import files
from scg.agents.training.checkpoint import Checkpoints
from scg.errors import nearest

MOST = 2**16  # environments side by side


class RunError(ValueError):
    """A run directory that cannot be made, or is not one."""


@dataclass(frozen=True)
class RunConfig:
    """How long, on what, and what to keep. The same for every agent."""

    env: str = "CartPole-v1"
    """gymnasium's id of the environment"""
    steps: int = 100_000
    """environment steps in all"""
    seed: int = 0
    """everything random is derived from it"""
    envs: int = 8
    """environments stepped side by side"""
    action_bins: int = 0
    """quantise continuous actions: this many evenly spaced values in every dimension; 0 does not"""
    evaluations: int = 10
    """how often to evaluate, evenly spaced; the last one is at the end; 0 never does"""
    eval_episodes: int = 20
    """fresh episodes in each evaluation"""
    eval_actions: Literal["mode", "sample"] = "mode"
    """evaluate the most probable action, or sample as in training"""
    eval_steps: int = 10_000
    """an evaluation stops an episode after this many steps, and says so; 0 never does"""
    step_timeout: float = 0.0
    """seconds after which a call of an environment that has not returned stops the run; 0: it is waited for"""
    checkpoints: int = 10
    """how often to save after the start, evenly spaced; the last one is at the end"""
    keep_checkpoints: int = 2
    """how many of the newest checkpoints stay; 0 keeps all of them, as `scg overestimation` wants"""
    step_threads: int = 0
    """threads that step MuJoCo environments; 0: one for every four of them, as far as there are cores; changes no bit"""

    def __post_init__(self) -> None:
        for name in ("steps", "envs", "eval_episodes", "checkpoints"):
            if getattr(self, name) < 1:
                raise RunError(f"option {name} is {getattr(self, name)}. Give at least 1.")
        for name in ("envs", "eval_episodes"):
            if getattr(self, name) > MOST:
                raise RunError(f"option {name} is {getattr(self, name)}: one process steps them all. Give at most {MOST}.")
        for name in ("step_threads", "action_bins", "keep_checkpoints", "eval_steps", "evaluations", "step_timeout"):
            if getattr(self, name) < 0:
                raise RunError(f"option {name} is {getattr(self, name)}. Give at least 0.")


class RunDirectory:
    """The files of one run, by name."""

    def __init__(self, path: Path, name: str, run: RunConfig, agent: Config, execution: Execution = EAGER) -> None:
        self.path, self.name, self.run, self.agent, self.execution = path, name, run, agent, execution
        self.checkpoints = Checkpoints(path / "checkpoints", run.keep_checkpoints)

    @classmethod
    def create(
        cls, name: str, run: RunConfig, agent: Config, out: Path | None = None, execution: Execution = EAGER
    ) -> RunDirectory:
        """A new directory: `out`, or `runs/<agent>-<env>-seed<seed>` with a number behind it if that is taken."""
        if out is not None and out.exists() and not out.is_dir():
            raise RunError(f"run {out}: is a file. Choose another --out.")
        if out is not None and out.exists() and any(out.iterdir()):
            raise RunError(f"run {out}: exists already. Continue it with --resume {out}, or choose another --out.")
        path = out if out is not None else _free(Path("runs") / f"{name}-{run.env.replace('/', '-')}-seed{run.seed}")
        directory, existed = cls(path, name, run, agent, execution), path.exists()
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_json(path / "versions.json", envs.versions(run.env))
            directory._write_config()
        except OSError as error:
            directory._remove(existed)
            raise RunError(
                f"run {path}: cannot be written: {files.told(error)}. Choose another --out, or make room."
            ) from error
        return directory

    def _remove(self, keep_directory: bool) -> None:
        """Take back what `create` has written."""
        with suppress(OSError):
            for name in ("versions.json", "config.json"):
                (self.path / name).unlink(missing_ok=True)
            if not keep_directory:
                self.path.rmdir()

    def extend(self, steps: int) -> None:
        """Another total of steps; schedules that follow the share of steps done stretch with it."""
        self.run = replace(self.run, steps=steps)
        self._write_config()

    def _write_config(self) -> None:
        content = {
            "agent": self.name,
            "run": dataclasses.asdict(self.run),
            "config": dataclasses.asdict(self.agent),
            "execution": dataclasses.asdict(self.execution),
        }
        write_json(self.path / "config.json", content)

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """An existing run. RunError says what is missing from it or unknown in it."""
        file = path / "config.json"
        if not file.exists():
            raise RunError(f"run {path}: no config.json there. Give a directory that `scg train` has made.")
        try:
            content = json.loads(file.read_text())
            name = content["agent"]
            run, agent, execution = content["run"], content["config"], content["execution"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise RunError(f"run {path}: config.json is damaged ({error}). Train again.") from error
        where = f"run {path}: config.json"
        made = (
            _from_json(kind, values, where)
            for kind, values in ((RunConfig, run), (config_type(name), agent), (Execution, execution))
        )
        return cls(path, name, *made)

    def changed_versions(self) -> list[str]:
        """What differs from the libraries that the run began with, as `name: then → now`."""
        then = json.loads((self.path / "versions.json").read_text())
        now = json.loads(json.dumps(envs.versions(self.run.env)))
        return [f"{key}: {then.get(key)} → {now[key]}" for key in now if then.get(key) != now[key]]


class Table:
    """A CSV file with a fixed header, flushed row by row. The first column is the step."""

    def __init__(self, path: Path, upto: int | None = None) -> None:
        """Append to `path`; rows after step `upto` are dropped first (a resumed run writes them again)."""
        self.path = path
        self.columns: list[str] | None = None
        if upto is None:
            path.unlink(missing_ok=True)
        elif path.exists():
            header, *rows = _complete_rows(path) or [[]]
            self.columns = header or None
            temporary = path.with_suffix(".tmp")
            with open(temporary, "w", newline="") as file:
                kept = [row for row in rows if int(row[0]) <= upto]
                csv.writer(file, lineterminator="\n").writerows([header, *kept] if header else [])
            os.replace(temporary, path)

    def write(self, step: int, values: dict[str, float]) -> None:
        row = {"step": step, **values}
        new = self.columns is None
        self.columns = self.columns or list(row)
        with files.writing(self.path), open(self.path, "a", newline="") as file:
            writer = csv.DictWriter(file, self.columns, extrasaction="ignore", restval="", lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)


def read_table(path: Path) -> list[dict[str, float]]:
    """The rows of a CSV written by `Table`; a row cut short by a kill is left out, an empty cell is NaN."""
    header, *rows = _complete_rows(path) or [[]]
    return [{key: float(cell) if cell else float("nan") for key, cell in zip(header, row, strict=True)} for row in rows]


def _complete_rows(path: Path) -> list[list[str]]:
    """Header and rows, without a last line that does not end."""
    with open(path, newline="") as file:
        lines = [line for line in file if line.endswith("\n")]
    return list(csv.reader(lines))


def write_json(path: Path, content: Any) -> None:
    temporary = path.with_suffix(".tmp")
    try:
        with files.writing(path):
            temporary.write_text(json.dumps(content, indent=2) + "\n")
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _free(path: Path) -> Path:
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate


def _from_json(cls: Any, values: dict[str, Any], where: str) -> Any:
    known = [field.name for field in dataclasses.fields(cls)]
    for key in values:
        if key not in known:
            raise RunError(
                f"{where}: {cls.__name__} has no option {key!r}.{nearest(key, known)} Was it made by another version?"
            )
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
