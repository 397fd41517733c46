"""Checkpoints: written whole or not at all, loaded without executing code.

    state → temporary file → fsync → rename            a kill at any moment leaves the previous file as it was
    newest file → (damaged? say so) → the one before    CRC-checked by the archive, plain values and tensors only

`torch.load(weights_only=True)` refuses pickles that would run something.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or from another format."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to `path` atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """The state in `path`. CheckpointError says whether the file is absent, damaged or of another format."""
    if not path.exists():
        raise CheckpointError(f"checkpoint {path}: no such file. Nothing was saved yet, or the directory is another.")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"checkpoint {path}: record {damaged!r} is damaged. Use an earlier checkpoint.")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        size = path.stat().st_size
        raise CheckpointError(f"checkpoint {path}: cannot be read ({size} bytes; {reason}). Use an earlier one.") from error
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise CheckpointError(f"checkpoint {path}: format {found!r}, this version reads {FORMAT}. Train again, or convert.")
    return state


class Checkpoints:
    """The last `keep` checkpoints of a run (0: all), by step, in one directory; and `best`, which is kept apart."""

    def __init__(self, directory: Path, keep: int = 2) -> None:
        self.directory, self.keep = directory, keep

    @property
    def best(self) -> Path:
        return self.directory / "best.pt"

    def paths(self) -> list[Path]:
        """Oldest first."""
        found = [path for path in self.directory.glob("step-*.pt") if re.fullmatch(r"step-\d+\.pt", path.name)]
        return sorted(found, key=lambda path: int(path.stem.removeprefix("step-")))

    def save(self, step: int, state: dict[str, Any]) -> Path:
        path = self.directory / f"step-{step:012d}.pt"
        save(path, state)
        for old in self.paths()[: -self.keep] if self.keep else []:
            old.unlink()
        return path

    def save_best(self, state: dict[str, Any]) -> None:
        save(self.best, state)

    def load_latest(self, warn: Callable[[str], None]) -> tuple[Path, dict[str, Any]]:
        """The newest readable checkpoint. Each damaged one is reported to `warn`; CheckpointError if none is left."""
        paths = self.paths()
        for path in reversed(paths):
            try:
                return path, load(path)
            except CheckpointError as error:
                warn(f"{error}")
        found = f"{len(paths)} damaged" if paths else "none"
        raise CheckpointError(f"run {self.directory.parent}: no usable checkpoint ({found} found). Train it again.")
