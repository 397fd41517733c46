"""A run directory: the inputs of a run, so that it can be repeated or resumed, and its results.

    config.json        agent, hyperparameters, environment, seed: what `--resume` and `eval` start from (`run_config.py`)
    versions.json      interpreter, libraries, simulator, environment settings
    metrics.csv        one row an update               evaluations.csv    one row an evaluation on fresh episodes
    events.out.…       the same for TensorBoard        checkpoints/       the last few, and the best
    graph.dot, .png    the agent's graph               curve.png          the learning curve
    replay/            the replay buffer in pieces     lock               held while a process writes in it

An existing run is never overwritten: `--resume` continues it, and a new run takes the next free name.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from scg.agents import target_of, title
from scg.agents.common.agent import Config
from scg.agents.environments import envs
from scg.agents.environments.faults import first_line
from scg.agents.execution.settings import EAGER, Execution
from scg.agents.training.checkpoint import Checkpoints
from scg.agents.training.run_config import RunConfig as RunConfig
from scg.agents.training.run_config import RunError as RunError
from scg.agents.training.run_config import Settings, read, written
from scg.agents.training.run_lock import LOCK, locked
from scg.files import TEMPORARY, remove_temporaries, told, whole_file, writing

DAMAGED = "The file is damaged, or is not this run's: put back a copy of it."
FORMER_TEMPORARIES = ("config.tmp", "versions.tmp", "metrics.tmp", "evaluations.tmp")  # of earlier versions


def _to_stderr(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


class RunDirectory:
    """The files of one run, by name."""

    def __init__(self, path: Path, name: str, run: RunConfig, agent: Config, execution: Execution = EAGER) -> None:
        self.path, self.name, self.run, self.agent, self.execution = path, name, run, agent, execution
        self.checkpoints = Checkpoints(path / "checkpoints", run.keep_checkpoints)
        self.extended = False

    @classmethod
    def create(
        cls, name: str, run: RunConfig, agent: Config, out: Path | None = None, execution: Execution = EAGER
    ) -> RunDirectory:
        """A new directory: `out`, or `runs/<agent>-<env>-seed<seed>` with a number behind it if that is taken."""
        shown, name = title(name), target_of(name)
        written(Settings(name, run, agent, execution))  # what cannot be read back leaves nothing behind
        versions = envs.versions(run.env)
        existed = out is not None and out.exists()
        path = _new(out, Path("runs") / f"{shown}-{short(run.env)}-seed{run.seed}")
        directory = cls(path, name, run, agent, execution)
        try:
            with locked(path):
                if not _is_free(path):
                    raise _exists(path)
                remove_temporaries(path)
                write_json(path / "versions.json", versions)
                directory.record()  # last: with it the directory is a run
        except OSError as error:
            directory._remove(existed)
            raise RunError(f"run {path}: cannot be written: {told(error)}. Choose another --out, or make room.") from error
        return directory

    def _remove(self, keep_directory: bool) -> None:
        """Remove the files that `create` has written."""
        with suppress(OSError):
            for name in ("versions.json", "config.json", LOCK):
                (self.path / name).unlink(missing_ok=True)
            if not keep_directory:
                self.path.rmdir()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Lock the run for this process, and remove half-written files of killed ones. RunError names the process that holds
        the lock, or a folder that is a symbolic link, through which files elsewhere would be written or deleted."""
        with locked(self.path):
            folders = [self.path, self.path / "checkpoints", self.path / "replay"]
            for folder in folders[1:]:
                if folder.is_symlink():
                    raise RunError(f"run {self.path}: {folder.name} is a symbolic link. Put the folder itself in its place.")
            for folder in folders:
                remove_temporaries(folder)
            for name in FORMER_TEMPORARIES:
                (self.path / name).unlink(missing_ok=True)
            yield

    def has_begun(self) -> bool:
        """Whether the run has saved a checkpoint. Without one, the run starts again from step 0 and loses nothing: the tables
        are begun after the first checkpoint."""
        tables = [self.path / name for name in ("metrics.csv", "evaluations.csv")]
        return any(map(os.path.lexists, [*self.checkpoints.paths(), self.checkpoints.best, *tables]))

    def goes_on_to_the_bit(self) -> bool:
        """Whether the last checkpoint leads to the bits of a run that was never interrupted: it holds the environments'
        states. CheckpointError where there is none that can be read."""
        _, state = self.checkpoints.load_latest(_to_stderr)
        return state["rollout"]["envs"] is not None

    def begin_again(self) -> None:
        """Remove what the run has done, and keep what it is."""
        with self.writing():
            for name in ("checkpoints", "replay"):
                if (self.path / name).is_dir():
                    shutil.rmtree(self.path / name)
            for file in [self.path / name for name in ("metrics.csv", "evaluations.csv")] + list(self.path.glob("events.*")):
                file.unlink(missing_ok=True)

    def extend(self, steps: int) -> None:
        """Change the total number of steps, which schedules follow. It is written to `config.json` once the run has resumed, so
        that a failed resumption changes nothing."""
        self.run, self.extended = replace(self.run, steps=steps), True

    def record(self) -> None:
        """Write the configuration if it differs from the file's."""
        file, content = self.path / "config.json", written(Settings(self.name, self.run, self.agent, self.execution))
        if not file.exists() or file.is_symlink() or file.read_bytes() != json_bytes(content):
            write_json(file, content)

    @classmethod
    def open(cls, path: Path, say: Callable[[str], None] = _to_stderr, trusted: bool = False) -> RunDirectory:
        """An existing run. RunError says what is missing from it, unknown in it or of another type.

        Code that the run names, an agent of one's own, is imported only where it is `trusted`.
        """
        file = path / "config.json"
        if not file.exists():
            raise RunError(f"run {path}: no config.json there. Give a directory that `scg train` has made.")
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"run {path}: config.json is damaged ({error}). Train again.") from error
        return cls(path, *read(content, f"run {path}: config.json", say, trusted))

    def changed_versions(self) -> list[str]:
        """Changes since the libraries that the run began with, as `name: then → now`."""
        try:
            then = dict(json.loads((self.path / "versions.json").read_text(encoding="utf-8")))
        except (OSError, TypeError, ValueError):
            return ["versions.json cannot be read: the libraries may have changed"]
        now = json.loads(json.dumps(envs.versions(self.run.env)))
        return [f"{key}: {_printable(then.get(key))} → {now[key]}" for key in now if then.get(key) != now[key]]


class Table:
    """A CSV file, flushed row by row. The first column is the step; a column that comes later is empty above."""

    def __init__(self, path: Path, upto: int | None = None) -> None:
        """Append to `path`; rows after step `upto` are dropped first (a resumed run writes them again)."""
        self.path = path
        self.columns: list[str] | None = None
        if upto is None:
            path.unlink(missing_ok=True)
        elif os.path.lexists(path):  # a link is replaced by a file, also one that leads nowhere
            with _of_numbers(path):
                header, *rows = (_complete_rows(path) if path.exists() else []) or [[]]
                kept = [row for row in rows if int(row[0]) <= upto]
            self.columns = header or None
            with whole_file(path) as file:
                file.write(_lines([header, *kept] if header else []))

    def write(self, step: int, values: dict[str, float]) -> None:
        row = {"step": step, **values}
        new = self.columns is None
        if self.columns and not row.keys() <= set(self.columns):
            self._widen([*self.columns, *(name for name in row if name not in self.columns)])
        self.columns = self.columns or list(row)
        cells = [row.get(column, "") for column in self.columns]
        # A row is one write, so that a reader never sees half of it; never through a link.
        with (
            writing(self.path),
            open(os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666), "ab") as file,
        ):
            file.write(_lines([self.columns, cells] if new else [cells]))

    def _widen(self, columns: list[str]) -> None:
        """Rewrite the file with more columns."""
        _, *rows = _complete_rows(self.path)
        with whole_file(self.path) as file:
            file.write(_lines([columns, *([*row, *[""] * (len(columns) - len(row))] for row in rows)]))
        self.columns = columns


def write_table(path: Path, rows: list[dict[str, float]]) -> None:
    """All rows at once: of two processes that measure one run, the file is that of the last."""
    with whole_file(path) as file:
        file.write(_lines([[*rows[0]], *([*row.values()] for row in rows)]))


def _lines(rows: list[list[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def read_table(path: Path) -> list[dict[str, float]]:
    """The rows of a CSV written by `Table`; a row cut short by a kill is left out, an empty cell is NaN. RunError for another."""
    with _of_numbers(path):
        header, *rows = _complete_rows(path) or [[]]
        return [{key: float(cell) if cell else float("nan") for key, cell in zip(header, row, strict=True)} for row in rows]


@contextmanager
def _of_numbers(path: Path) -> Iterator[None]:
    """RunError for cells that are no numbers, rows of another length, bytes that are no text."""
    try:
        yield
    except (ValueError, IndexError, csv.Error) as error:
        raise RunError(f"{path}: this is no table of numbers ({first_line(error)}). {DAMAGED}") from error


def _complete_rows(path: Path) -> list[list[str]]:
    """Header and rows, without a last line that does not end."""
    with open(path, newline="") as file:
        lines = [line for line in file if line.endswith("\n")]
    return list(csv.reader(lines))


def json_bytes(content: Any) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def write_json(path: Path, content: Any) -> None:
    with writing(path), whole_file(path) as file:
        file.write(json_bytes(content))


def _printable(value: Any) -> str:
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value)


def short(env: str) -> str:
    """An environment's name, for the names of files."""
    return title(env).replace("/", "-")


def _new(out: Path | None, default: Path) -> Path:
    """A directory for a new run: `out` where it is free, else `default`, made here, with a number behind it if that is taken."""
    if out is not None:
        if out.is_file():
            raise RunError(f"run {out}: this is a file, and a run is a folder. Choose another --out.")
        if not _is_free(out):
            raise _exists(out)
        _made(out)
        return out
    for number in itertools.count(1):
        path = default if number == 1 else default.with_name(f"{default.name}-{number}")
        try:
            _made(path, new=True)
        except FileExistsError:
            continue
        return path
    raise AssertionError


def _made(path: Path, new: bool = False) -> None:
    try:
        path.mkdir(parents=True, exist_ok=not new)
    except FileExistsError:
        raise
    except OSError as error:
        raise RunError(f"run {path}: cannot be written: {told(error)}. Choose another --out, or make room.") from error


def _is_free(path: Path) -> bool:
    """Not there, empty, or left by a process that was killed before the configuration was written."""
    if not path.is_dir():
        return not os.path.lexists(path)
    return all(file.name in (LOCK, "versions.json") or TEMPORARY.fullmatch(file.name) for file in path.iterdir())


def _exists(path: Path) -> RunError:
    return RunError(f"run {path}: exists already. Continue it with --resume {path}, or choose another --out.")
