"""Checkpoints: written whole or not at all, loaded without executing code.

    state → temporary file → fsync → rename            a kill at any moment leaves the previous file as it was
    newest file → (damaged? say so) → the one before    CRC-checked by the archive, plain values and tensors only

`torch.load(weights_only=True)` refuses pickles that would run something.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scg.agents.experience.tensor_files import CheckpointError, load, save


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
